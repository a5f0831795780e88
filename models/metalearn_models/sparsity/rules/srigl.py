"""SRigL: RigL with the same number of inputs for every unit of a layer, and without units that are of little use.

Lasby, Golubeva, Evci, Nica and Ioannou 2023, "Dynamic sparse training with structured sparsity" (arXiv 2305.02299). A
constant fan-in is what truly sparse layers are fast with. Two choices are ours: a unit that is removed stays away, and
a layer never has more connections than at the start.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int

from metalearn_models.sparsity.contract import Change, Masks, Moment, Rule
from metalearn_models.sparsity.masks import map_masks
from metalearn_models.sparsity.rules.cycle import Anneal, Cycle, cosine
from metalearn_models.sparsity.selection import largest

__all__ = ["constant_fan_in", "srigl"]


def srigl(
    end: Any, every: Any = 100, alpha: Any = 0.3, anneal: Anneal = cosine, start: Any = 1, salient: float = 0.3
) -> Rule:
    """SRigL. The last axis of a kernel counts its units, the other axes a unit's inputs.

    A weight is salient if it is among the layer's connections that RigL would keep or grow. A unit with fewer salient
    weights than `salient` times the fan-in loses all its connections, and the others get more of them: those that stay,
    filled up by the largest gradients. The inner optimizer makes no step then. A unit of the output layer can be
    removed too; leave that layer out with `which`.

    Args:
        end: no change at this step or later; the paper takes three quarters of the training.
        every: steps between two changes.
        alpha: share of the connections that moves at first.
        anneal: how the share decays.
        start: no change before this step.
        salient: least share of salient weights of a unit that stays, in [0, 1]; 0 keeps all units.

    Raises:
        ValueError: the numbers make no cycle, or `salient` is outside [0, 1].
    """
    if not 0 <= salient <= 1:
        raise ValueError(f"salient is a share of a unit's connections, in [0, 1], got {salient}")
    cycle = Cycle(end, every, alpha, anneal, start)

    def change(moment: Moment) -> Change:
        leaves, tree = jax.tree.flatten(moment.params)
        grads, masks = (tree.flatten_up_to(x) for x in (moment.grads, moment.masks))
        new, fresh, skipped, layer = [], [], jnp.int32(0), 0
        for w, g, m in zip(leaves, grads, masks, strict=True):
            if m is None:
                new.append(None)
                fresh.append(None)
                continue
            weight, grad, mask = (rearrange(x, "... units -> (...) units") for x in (jnp.abs(w), jnp.abs(g), m))
            kept, grown, fine = _move(weight, grad, mask, cycle.moving(moment.step, m), moment.memory[layer], salient)
            new.append(jnp.where(fine, (kept | grown).reshape(m.shape), m))
            fresh.append(fine & grown.reshape(m.shape))
            skipped, layer = skipped + (~fine).astype(jnp.int32), layer + 1
        return Change(tree.unflatten(new), tree.unflatten(fresh), moment.memory, skipped)

    def budgets(params: Any, masks: Masks) -> Int[Array, "L"]:
        counts = [m.sum(dtype=jnp.int32) for m in jax.tree.leaves(constant_fan_in(masks))]
        return jnp.stack(counts or [jnp.int32(0)])

    return Rule("srigl", constant_fan_in, budgets, lambda memory, *_: memory, cycle.is_due, change, pauses=True)


def constant_fan_in(masks: Masks) -> Masks:
    """Masks with the same number of inputs for every unit: as many as before on average, rounded down, at least one.

    A unit keeps connections that it has, the first ones in the order of the array, and gets others in a fixed
    pseudo-random order.
    """

    def even_out(m: Bool[Array, "*S"], _: Any) -> Bool[Array, "*S"]:
        flat = rearrange(m, "... units -> (...) units")
        fan_in = jnp.maximum(flat.sum(dtype=jnp.int32) // flat.shape[-1], 1)
        place = jax.lax.broadcasted_iota(jnp.uint32, flat.shape, 0) * jnp.uint32(2_654_435_761)
        place += jax.lax.broadcasted_iota(jnp.uint32, flat.shape, 1) * jnp.uint32(2_246_822_519)
        scores = jnp.where(flat, 2.0, (place >> 8).astype(jnp.float32) / jnp.float32(2**24))
        return _per_unit(scores, jnp.full(flat.shape[-1], fan_in), jnp.ones_like(flat)).reshape(m.shape)

    return map_masks(even_out, masks, masks) if jax.tree.leaves(masks) else masks


def _move(
    weight: Float[Array, "I U"],
    grad: Float[Array, "I U"],
    mask: Bool[Array, "I U"],
    count: Int[Array, ""],
    budget: Int[Array, ""],
    salient: float,
) -> tuple[Bool[Array, "I U"], Bool[Array, "I U"], Bool[Array, ""]]:
    """What stays of a layer, what grows, and whether all scores are finite."""
    fine = jnp.where(mask, jnp.isfinite(weight), True).all() & jnp.isfinite(grad).all()
    kept = largest(weight, mask.sum(dtype=jnp.int32) - count, mask)
    useful = (kept | largest(grad, count, ~kept)).sum(0, dtype=jnp.int32)
    fan_in = mask.sum(0, dtype=jnp.int32)
    units = mask.any(0)
    stay = units & (useful.astype(jnp.float32) >= jnp.float32(salient) * fan_in.max().astype(jnp.float32))
    stay = jnp.where(stay.any(), stay, units & (useful == jnp.where(units, useful, -1).max()))
    kept &= stay[None, :]
    wanted = jnp.minimum(budget // stay.sum(dtype=jnp.int32), mask.shape[0])
    missing = jnp.where(stay, wanted - kept.sum(0, dtype=jnp.int32), 0)
    return kept, _per_unit(grad, missing, ~kept), fine


def _per_unit(scores: Float[Array, "I U"], counts: Int[Array, "U"], among: Bool[Array, "I U"]) -> Bool[Array, "I U"]:
    """The largest scores of every unit."""
    return jax.vmap(largest, (-1, 0, -1), -1)(scores, counts, among)
