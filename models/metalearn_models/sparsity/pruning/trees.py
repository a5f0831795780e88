"""Trees of masks beside trees of parameters: pairing, checking and applying them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["apply_masks", "paired_leaves"]


def paired_leaves(params: Any, masks: Any) -> list[tuple[str, Array, Array | None]]:
    """Path, parameter and mask of every leaf, in the order of the tree.

    Args:
        params: arrays.
        masks: the same tree with a boolean array, True where kept, or None, where dense, in the place of each array.
            None alone: every leaf is dense.

    Raises:
        ValueError: the trees differ, or a mask has another shape or is not boolean; with the path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if masks is None:
        return [(_name(path), jnp.asarray(leaf), None) for path, leaf in leaves]
    given = {
        _name(path): mask
        for path, mask in jax.tree_util.tree_leaves_with_path(masks, is_leaf=lambda mask: mask is None)
    }
    paired = []
    for path, leaf in leaves:
        name, leaf = _name(path), jnp.asarray(leaf)
        if name not in given:
            raise ValueError(f"the masks have no entry for {name}: give a boolean array of shape {leaf.shape}, or None")
        mask = given.pop(name)
        if mask is not None:
            mask = jnp.asarray(mask)
            if mask.shape != leaf.shape:
                raise ValueError(f"the mask of {name} must have the shape {leaf.shape}, got {mask.shape}")
            if mask.dtype != bool:
                raise ValueError(f"the mask of {name} must be boolean, got {mask.dtype}")
        paired.append((name, leaf, mask))
    if surplus := [name for name, mask in given.items() if mask is not None]:
        raise ValueError(f"the masks have entries that the parameters lack: {', '.join(surplus)}")
    return paired


def apply_masks(params: Any, masks: Any) -> Any:
    """The parameters with zeros where the masks are False; dtypes stay. Arguments and errors as `paired_leaves`."""
    leaves = [
        leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))
        for _, leaf, mask in paired_leaves(params, masks)
    ]
    return jax.tree.unflatten(jax.tree.structure(params), leaves)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
