"""SNFS, sparse networks from scratch: grow where the running mean of the dense gradient is largest.

Dettmers and Zettlemoyer 2019, "Sparse networks from scratch: faster training without losing performance" (arXiv
1907.04840), as the released code of RigL has it: each layer keeps its number of connections, where the paper moves them
between layers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.sparsity.contract import Masks, Rule
from metalearn_models.sparsity.masks import map_masks
from metalearn_models.sparsity.rules.cycle import Anneal, Cycle, cosine
from metalearn_models.sparsity.rules.drop_grow import Layer, drop_and_grow, magnitude

__all__ = ["snfs", "update_mean", "zero_mean"]


def snfs(
    end: Any, every: Any = 100, alpha: Any = 0.3, anneal: Anneal = cosine, start: Any = 1, decay: Any = 0.9
) -> Rule:
    """Sparse networks from scratch: dense gradients at every step, and no step without the inner optimizer.

    Args:
        end: no change at this step or later.
        every: steps between two changes.
        alpha: share of the connections that moves at first.
        anneal: how the share decays.
        start: no change before this step.
        decay: of the running mean; the default is ours.

    Raises:
        ValueError: the numbers make no cycle, or `decay` is outside [0, 1).
    """
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay of a running mean is in [0, 1), got {decay}")
    return drop_and_grow(
        "snfs",
        Cycle(end, every, alpha, anneal, start),
        magnitude,
        _mean,
        pauses=False,
        restart_regrown=True,
        init=zero_mean,
        watch=lambda memory, grads, masks: update_mean(memory, grads, masks, decay),
    )


def zero_mean(params: Any, masks: Masks) -> Any:
    """The running mean before the first gradient, in float32; None where a leaf is dense."""
    return map_masks(lambda m, p: jnp.zeros_like(p, jnp.float32), masks, params)


def update_mean(mean: Any, grads: Any, masks: Masks, decay: Any) -> Any:
    """The running mean after a gradient. An entry that is not finite is left out."""
    decay = jnp.asarray(decay, jnp.float32)

    def update(g: Array, old: Array | None) -> Array | None:
        if old is None:
            return None
        return jnp.where(jnp.isfinite(g), decay * old + (1.0 - decay) * g.astype(jnp.float32), old)

    return jax.tree.map(update, grads, mean)


def _mean(layer: Layer) -> Float[Array, "*S"]:
    return jnp.abs(layer.memory)
