"""What SET, SNFS, RigL and learned rules share: per layer, drop the worst connections and grow as many new ones.

A rule is two scores. Of the connections, those with the smallest score to keep are dropped; of everything that is then
off, what was just dropped included, the entries with the largest score to grow become connections.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn_models.sparsity.contract import Change, Moment, Rule
from metalearn_models.sparsity.rules.cycle import Cycle
from metalearn_models.sparsity.selection import largest

__all__ = ["Layer", "Score", "drop_and_grow", "magnitude", "move_connections"]


class Layer(NamedTuple):
    """What a score sees of one layer; all arrays have its shape.

    Attributes:
        key: random key of the layer and the step.
        weight: the parameters.
        grad: their dense gradient.
        mask: connections so far.
        memory: what the rule remembers of the layer.
    """

    key: PRNGKeyArray
    weight: Float[Array, "*S"]
    grad: Float[Array, "*S"]
    mask: Bool[Array, "*S"]
    memory: Any


Score = Callable[[Layer], Float[Array, "*S"]]
"""A score of every entry of a layer; float32 of what it returns is compared."""


def magnitude(layer: Layer) -> Float[Array, "*S"]:
    """The absolute weight."""
    return jnp.abs(layer.weight)


def drop_and_grow(
    name: str,
    cycle: Cycle,
    keep: Score,
    grow: Score,
    *,
    pauses: bool,
    restart_regrown: bool,
    init: Callable[[Any, Any], Any] = lambda params, masks: None,
    watch: Callable[[Any, Any, Any], Any] = lambda memory, grads, masks: memory,
    after: Callable[[Any, Any, Any], Any] = lambda memory, dropped, fresh: memory,
) -> Rule:
    """A rule from two scores.

    Args:
        name: stands in errors.
        cycle: when connections change, and how many.
        keep: the smallest are dropped.
        grow: the largest are grown.
        pauses: whether the inner optimizer waits while connections change.
        restart_regrown: whether a connection that is dropped and grown again at once starts at zero, as if it were new.
        init: `(params, masks) -> memory`; a tree with one part per leaf of the parameters, or None.
        watch: `(memory, grads, masks) -> memory`, at every step.
        after: `(memory, dropped, fresh) -> memory`, with masks of what went off and of what starts at zero.
    """

    def change(moment: Moment) -> Change:
        leaves, tree = jax.tree.flatten(moment.params)
        grads, masks = (tree.flatten_up_to(x) for x in (moment.grads, moment.masks))
        parts = [None] * len(leaves) if moment.memory is None else tree.flatten_up_to(moment.memory)
        new, fresh, dropped, skipped = [], [], [], jnp.int32(0)
        for i, (w, g, m, part) in enumerate(zip(leaves, grads, masks, parts, strict=True)):
            if m is None:
                for part_of_change in (new, fresh, dropped):
                    part_of_change.append(None)
                continue
            layer = Layer(jax.random.fold_in(moment.key, i), w, g, m, part)
            kept, grown, fine = move_connections(layer, cycle.moving(moment.step, m), keep(layer), grow(layer))
            new.append(kept | grown)
            fresh.append(grown if restart_regrown else grown & ~m)
            dropped.append(m & ~(kept | grown))
            skipped += (~fine).astype(jnp.int32)
        new, fresh, dropped = (tree.unflatten(x) for x in (new, fresh, dropped))
        return Change(new, fresh, after(moment.memory, dropped, fresh), skipped)

    return Rule(name, lambda masks: masks, init, watch, cycle.is_due, change, pauses)


def move_connections(
    layer: Layer, count: Int[Array, ""], keep: Float[Array, "*S"], grow: Float[Array, "*S"]
) -> tuple[Bool[Array, "*S"], Bool[Array, "*S"], Bool[Array, ""]]:
    """Drop connections of one layer and grow as many.

    Args:
        layer: the layer.
        count: how many move.
        keep: scores of the connections.
        grow: scores of what is off.

    Returns:
        The connections that are kept, those that grow, and whether all scores are finite. If they are not, all
        connections are kept.
    """
    mask = layer.mask
    fine = jnp.where(mask, jnp.isfinite(keep), True).all() & jnp.isfinite(grow).all()
    count = jnp.where(fine, count, 0)
    kept = largest(keep, mask.sum(dtype=jnp.int32) - count, mask)
    return kept, largest(grow, count, ~kept), fine
