"""Trees of masks and of scores beside trees of parameters, leaf by leaf with their paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from metalearn_models.sparsity.contract import Masks
from metalearn_models.sparsity.masks import Which, check_masks

__all__ = ["leaf_paths", "map_chosen", "paired_leaves"]


def leaf_paths(tree: Any) -> list[str]:
    """The paths of the leaves, such as "0/weight", in the order of the tree."""
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]


def paired_leaves(params: Any, masks: Masks) -> list[tuple[str, Array, Array | None]]:
    """Path, parameter and mask of every leaf, in the order of the tree.

    Args:
        params: arrays.
        masks: masks for them. None alone: every leaf is dense.

    Raises:
        ValueError: the masks do not fit the parameters.
        TypeError: a mask is not boolean.
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    if masks is None:
        beside = [None] * len(leaves)
    else:
        check_masks(params, masks)
        beside = jax.tree.structure(params).flatten_up_to(masks)
    return list(zip(leaf_paths(params), leaves, beside, strict=True))


def map_chosen(function: Callable[..., Any], which: Which, params: Any, *rest: Any) -> Any:
    """A function of the leaves that are to be pruned, and None in the places of all others.

    Args:
        function: `(path, leaf, *leaves of rest)`.
        which: chooses the leaves by path and shape.
        params: a tree of arrays.
        rest: trees like `params`.
    """

    def apply(path: Any, leaf: Any, *more: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return function(name, jnp.asarray(leaf), *more) if which(name, tuple(jnp.shape(leaf))) else None

    return jax.tree_util.tree_map_with_path(apply, params, *rest)
