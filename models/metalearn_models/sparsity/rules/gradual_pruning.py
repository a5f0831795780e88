"""Gradual magnitude pruning: from dense to sparse along a cubic curve.

Zhu and Gupta 2018, "To prune, or not to prune: exploring the efficacy of pruning for model compression" (arXiv
1710.01878). What is pruned is exactly zero here and has no gradient, so that it never comes back; in the paper a pruned
weight keeps its value and may return at a later change.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from metalearn_models.sparsity.contract import Change, Masks, Moment, Rule
from metalearn_models.sparsity.selection import largest

__all__ = ["gradual_pruning", "share_to_prune"]


def gradual_pruning(end: int, every: int = 100, start: int = 0) -> Rule:
    """Prune every `every` steps from `start` to `end`, until each layer has the connections of the distribution.

    Masks begin full, so the first steps train dense layers. At step t a layer keeps its target, and
    (1 - (t - start) / (end - start))^3 of the rest. The inner optimizer never waits. If weights are not finite when
    they are due, the layer is pruned at the next multiple of `every`, after `end` too.

    Args:
        end: the step of the last change; less than the number of training steps.
        every: steps between two changes.
        start: the step of the first change.

    Raises:
        ValueError: `every` is less than 1, `end` does not follow `start`, or no change falls on `end`, so that the
            target would never be reached.
    """
    if every < 1:
        raise ValueError(f"every (Delta T) is at least 1 step, got {every}")
    if not 0 <= start < end:
        raise ValueError(f"pruning needs 0 <= start < end, got start={start} and end={end}")
    if (end - start) % every:
        before = end - (end - start) % every
        nearest = [str(x) for x in (before, before + every) if x > start]
        raise ValueError(
            f"with start={start} and every={every}, no change falls on end={end}, so the target sparsity would never "
            f"be reached: end={' or end='.join(nearest)} reaches it"
        )

    def targets(params: Any, masks: Masks) -> Int[Array, "L"]:
        counts = [m.sum(dtype=jnp.int32) for m in jax.tree.leaves(masks)]
        return jnp.stack(counts or [jnp.int32(0)])

    def due(step: Int[Array, ""]) -> Bool[Array, ""]:
        return (step >= start) & ((step - start) % every == 0)

    def change(moment: Moment) -> Change:
        leaves, tree = jax.tree.flatten(moment.params)
        masks, left = [], share_to_prune(moment.step, start, end)
        skipped, layer = jnp.int32(0), 0
        for w, m in zip(leaves, tree.flatten_up_to(moment.masks), strict=True):
            if m is None:
                masks.append(None)
                continue
            target = moment.memory[layer]
            wanted = target + (left * (m.size - target).astype(jnp.float32)).astype(jnp.int32)
            fine = jnp.where(m, jnp.isfinite(w), True).all()
            on = m.sum(dtype=jnp.int32)
            masks.append(largest(jnp.abs(w), jnp.where(fine, jnp.minimum(wanted, on), on), m))
            skipped, layer = skipped + (~fine).astype(jnp.int32), layer + 1
        new = tree.unflatten(masks)
        return Change(new, jax.tree.map(jnp.zeros_like, new), moment.memory, skipped)

    return Rule(
        "gradual-pruning",
        lambda masks: jax.tree.map(jnp.ones_like, masks),
        targets,
        lambda memory, grads, masks: memory,
        due,
        change,
        pauses=False,
    )


def share_to_prune(step: Int[Array, ""], start: int, end: int) -> Float[Array, ""]:
    """The share of what will be off at the end that is still on after a change at this step: from 1 to 0, a cubic."""
    passed = (step - start).astype(jnp.float32) / jnp.float32(end - start)
    return (1.0 - jnp.clip(passed, 0.0, 1.0)) ** 3
