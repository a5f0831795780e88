"""Scores that look at the weights only: their magnitude, and random ones as the control.

Both are baselines of Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?"
(arXiv 2003.03033), each with `keep_globally` or `keep_by_layer`. Magnitudes go back to Janowsky 1989 and to Han, Pool,
Tran, Dally 2015 (arXiv 1506.02626).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from metalearn_models.sparsity.masks import Which, kernels
from metalearn_models.sparsity.pruning.trees import leaf_paths, map_chosen

__all__ = ["magnitude", "random"]


def magnitude(params: Any, which: Which = kernels) -> Any:
    """`|w|` of each weight.

    Args:
        params: trained parameters.
        which: chooses the leaves to prune by path and shape.

    Returns:
        A tree like `params`, None where a leaf stays dense.
    """
    return map_chosen(lambda path, w: jnp.abs(w), which, params)


def random(key: PRNGKeyArray, params: Any, which: Which = kernels) -> Any:
    """Uniform random numbers in [0, 1).

    Args:
        key: random key; each leaf has its own, by its place in the tree.
        params: parameters; only their shapes matter.
        which: chooses the leaves to prune by path and shape.

    Returns:
        A tree like `params`, None where a leaf stays dense.
    """
    numbers = {path: i for i, path in enumerate(leaf_paths(params))}
    return map_chosen(
        lambda path, w: jax.random.uniform(jax.random.fold_in(key, numbers[path]), w.shape, jnp.float32), which, params
    )
