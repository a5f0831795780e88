"""Scores from one gradient: gradient times magnitude of a trained network, and SNIP before training.

Gradient times magnitude is a baseline of Blalock, Gonzalez Ortiz, Frankle, Guttag 2020 (arXiv 2003.03033), on one
minibatch. SNIP is Lee, Ajanthan, Torr 2019, "SNIP: single-shot network pruning based on connection sensitivity" (arXiv
1810.02340): the gradient of the loss with respect to a switch `c` on each connection, at `c = 1`, on one minibatch and
at the initial weights. Both rank weights by `|w g|`; what differs is the weights that they look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metalearn_models.sparsity.masks import Which, kernels
from metalearn_models.sparsity.pruning.trees import map_chosen

__all__ = ["gradient_magnitude", "snip"]


def gradient_magnitude(loss: Callable[[Any], Any], params: Any, which: Which = kernels) -> Any:
    """`|w g|` of each weight: by how much the loss changes, to first order, if the weight is removed.

    Args:
        loss: `(params) -> scalar` on one minibatch.
        params: trained parameters.
        which: chooses the leaves to prune by path and shape.

    Returns:
        A tree like `params`, None where a leaf stays dense.
    """
    return map_chosen(lambda path, w, g: jnp.abs(w * g), which, params, jax.grad(loss)(params))


def snip(loss: Callable[[Any], Any], params: Any, which: Which = kernels) -> Any:
    """Connection sensitivity: `|dL/dc|` of a switch on each connection, over the sum of all of them.

    Args:
        loss: `(params) -> scalar` on one minibatch.
        params: initial parameters, before any training.
        which: chooses the leaves to prune by path and shape.

    Returns:
        A tree like `params` with the sum 1, None where a leaf stays dense. If no connection matters, all scores are 0.
    """
    switches = map_chosen(lambda path, w: jnp.ones_like(w), which, params)

    def switched(c: Any) -> Any:
        return loss(jax.tree.map(lambda w, s: w if s is None else w * s, params, c))

    sensitivity = jax.tree.map(jnp.abs, jax.grad(switched)(switches))
    total = sum(s.astype(jnp.float32).sum() for s in jax.tree.leaves(sensitivity))
    return jax.tree.map(lambda s: s / jnp.where(total > 0, total, 1).astype(s.dtype), sensitivity)
