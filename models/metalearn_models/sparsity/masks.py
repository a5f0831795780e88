"""Masks: which leaves have one, random ones, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn_models.sparsity.contract import Masks
from metalearn_models.sparsity.distributions import Distribution, Shape, count_connections
from metalearn_models.sparsity.selection import largest

__all__ = [
    "Which",
    "apply_masks",
    "check_masks",
    "count_masks",
    "draw_masks",
    "kernels",
    "map_masks",
    "random_scores",
    "sparse_shapes",
]

Which = Callable[[str, Shape], bool]
"""`(path, shape) -> bool`: whether a leaf is sparse; a path reads like "0/weight"."""

NOT_KERNELS = ("bias", "scale", "gain")
"""Last names of leaves that are never kernels, not even where many layers are stacked along an axis."""


def kernels(path: str, shape: Shape) -> bool:
    """Whether a leaf is a kernel: it has two axes or more, and is no bias and no scale of a norm."""
    return len(shape) >= 2 and path.rsplit("/", 1)[-1] not in NOT_KERNELS


def sparse_shapes(params: Any, which: Which = kernels) -> dict[str, Shape]:
    """The shapes of the leaves that are sparse, by path, in the order of the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    shapes = {_name(path): tuple(jnp.shape(x)) for path, x in leaves}
    return {path: shape for path, shape in shapes.items() if which(path, shape)}


def draw_masks(
    key: PRNGKeyArray, params: Any, distribution: Distribution, sparsity: float, which: Which = kernels
) -> Masks:
    """Random masks, with exactly as many connections per layer as the distribution says.

    Args:
        key: random key; each sparse leaf has its own, by its number among them.
        params: parameters; only shapes and placement matter.
        distribution: how many connections each layer gets, such as `erk`.
        sparsity: share of the entries of all sparse leaves that is off, in [0, 1).
        which: chooses the leaves.

    Returns:
        Masks. A leaf that keeps all its connections has None: it is dense.

    Raises:
        ValueError: the sparsity is outside [0, 1), or a layer would be left without connections.
    """
    shapes = sparse_shapes(params, which)
    counts = count_connections(shapes, distribution(shapes, sparsity))
    keys = dict(zip(shapes, range(len(shapes)), strict=True))

    def draw(path: Any, x: Any) -> Bool[Array, "..."] | None:
        name = _name(path)
        if name not in shapes or counts[name] == jnp.size(x):
            return None
        scores = random_scores(jax.random.fold_in(key, keys[name]), x)
        return largest(scores, jnp.int32(counts[name]), jnp.ones_like(scores, bool))

    return jax.tree_util.tree_map_with_path(draw, params)


def random_scores(key: PRNGKeyArray, like: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Uniform numbers in [0, 1), in float32, of the shape of an array and laid out over devices as it is."""
    return jnp.zeros_like(like, jnp.float32) + jax.random.uniform(key, jnp.shape(like), jnp.float32)


def apply_masks(tree: Any, masks: Masks) -> Any:
    """A tree like the parameters with exact zeros where the masks are off."""
    return map_masks(lambda m, x: jnp.where(m, x, jnp.zeros_like(x)), masks, tree, dense=lambda x: x)


def map_masks(
    function: Callable[..., Any], masks: Masks, tree: Any, *rest: Any, dense: Callable[..., Any] = lambda *_: None
) -> Any:
    """A function of each mask and of the leaves beside it.

    Args:
        function: `(mask, leaf, *more leaves)`.
        masks: masks.
        tree: a tree like the parameters.
        rest: more trees like the parameters; their parts beside a leaf need not be leaves.
        dense: `(leaf, *more leaves)`, for dense leaves.
    """
    return jax.tree.map(lambda x, m, *r: dense(x, *r) if m is None else function(m, x, *r), tree, masks, *rest)


def count_masks(masks: Masks) -> Int[Array, ""]:
    """The number of connections in all sparse leaves."""
    return jnp.stack([jnp.int32(0), *(m.sum(dtype=jnp.int32) for m in jax.tree.leaves(masks))]).sum()


def check_masks(params: Any, masks: Masks) -> None:
    """Check that masks fit parameters.

    Raises:
        ValueError: the tree is another one, or a mask has another shape.
        TypeError: a mask is not boolean.
    """
    try:
        pairs = jax.tree.leaves(jax.tree.map(lambda x, m: _Pair(x, m), params, masks), is_leaf=_is_pair)
    except ValueError as error:
        raise ValueError(
            "masks need the structure of the parameters, with None for dense leaves: "
            f"got {jax.tree.structure(masks)} for {jax.tree.structure(params)}"
        ) from error
    paths = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for path, (x, m) in zip(paths, pairs, strict=True):
        if m is None:
            continue
        if not hasattr(m, "dtype") or np.shape(m) != np.shape(x):
            raise ValueError(f"the mask of {path} needs its shape {np.shape(x)}, got {np.shape(m)}")
        if m.dtype != bool:
            raise TypeError(f"the mask of {path} must be boolean, got {m.dtype}")


class _Pair(tuple):
    def __new__(cls, *values: Any) -> _Pair:
        return super().__new__(cls, values)


def _is_pair(x: Any) -> bool:
    return isinstance(x, _Pair)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
