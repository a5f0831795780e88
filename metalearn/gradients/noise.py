"""Perturbations of theta for evolution strategies, dense or of low rank; drawn from keys and never stored.

Low-rank noise is that of EGGROLL (Sarkar et al. 2025, arXiv 2511.16652): a matrix is perturbed by A B^T / sqrt(r) with
normal A and B. All particles share the product with the matrix, and each adds two thin products of its own. The
estimate is unbiased if the loss is linear over the perturbations. On one m x n matrix, its variance relative to the
squared gradient is that of dense noise, m n + 1, plus 2 (m + n + 1) / r: for r = 1 some 60 % more at 8 x 6, and 1.6 %
more at 256 x 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.gradients.perturbed import LowRank, apply_perturbed

__all__ = ["Factors", "Noise", "dense", "inner_product", "low_rank", "weighted_mean"]


class Noise(NamedTuple):
    """A distribution of perturbations with mean zero and the identity as covariance.

    Attributes:
        name: what signatures and messages call it.
        draw: `(theta, key) -> eps`, one perturbation, in any form.
        particle: `(theta, eps, scale) -> particle`, what distinguishes theta + scale * eps from theta.
        apply: `(f, theta, particle, *args) -> f(theta + scale * eps, *args)`; mapped over particles, theta is shared.
        dense: `(eps) -> tree`, the perturbation as arrays, shaped like theta.
        mean: `(eps[n], weights[n]) -> tree`, the mean of `weights[i] * eps[i]`, shaped like theta.
        dot: `(eps, tree) -> scalar`, the inner product with a tree shaped like theta.
    """

    name: str
    draw: Callable[[Any, PRNGKeyArray], Any]
    particle: Callable[[Any, Any, Array], Any]
    apply: Callable[..., Any]
    dense: Callable[[Any], Any]
    mean: Callable[[Any, Float[Array, "n"]], Any]
    dot: Callable[[Any, Any], Float[Array, ""]]

    def __repr__(self) -> str:
        return self.name


def weighted_mean(eps: Any, weights: Float[Array, "n"]) -> Any:
    """The mean of `weights[i] * eps[i]` over the leading axis of every leaf."""
    return jax.tree.map(lambda e: jnp.tensordot(weights.astype(e.dtype), e, 1) / weights.shape[0], eps)


def inner_product(a: Any, b: Any) -> Float[Array, ""]:
    """The sum over all leaves of the products of corresponding entries."""
    return jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, a, b))


def _draw_dense(theta: Any, key: PRNGKeyArray) -> Any:
    leaves, tree = jax.tree.flatten(theta)
    return jax.tree.unflatten(tree, _normals(key, [(leaf.shape, leaf.dtype) for leaf in leaves]))


def _add_dense(theta: Any, eps: Any, scale: Array) -> Any:
    return jax.tree.map(lambda a, e: a + scale.astype(a.dtype) * e, theta, eps)


def _apply_dense(f: Callable[..., Any], theta: Any, particle: Any, *args: Any) -> Any:
    del theta
    return f(particle, *args)


dense = Noise("dense", _draw_dense, _add_dense, _apply_dense, lambda eps: eps, weighted_mean, inner_product)
"""Independent normal noise on every entry of theta."""


class Factors(NamedTuple):
    """A perturbation of one leaf: left @ right^T; rows are the leading axes of the leaf, columns the rest."""

    left: Float[Array, "*rows r"]
    right: Float[Array, "*cols r"]


def low_rank(rank: int = 1) -> Noise:
    """Noise of rank `rank` on matrices, and dense noise where it is as cheap (vectors, thin matrices).

    A leaf of three or more axes (attention heads, convolutions) is treated as a matrix whose rows are its leading axes
    and whose columns are the others, split where it is closest to square. Models need no change: see
    `metalearn.gradients.perturbed.apply_perturbed`.

    Args:
        rank: r.

    Raises:
        ValueError: the rank is less than 1.
    """
    if rank < 1:
        raise ValueError(f"the rank of the noise must be at least 1, got {rank}")

    def draw(theta: Any, key: PRNGKeyArray) -> Any:
        leaves, tree = jax.tree.flatten(theta)
        splits = [_split(leaf.shape, rank) for leaf in leaves]
        shapes = []
        for leaf, split in zip(leaves, splits, strict=True):
            parts = [leaf.shape] if split is None else [(*leaf.shape[:split], rank), (*leaf.shape[split:], rank)]
            shapes += [(shape, leaf.dtype) for shape in parts]
        drawn = iter(_normals(key, shapes))
        eps = [next(drawn) if s is None else Factors(next(drawn) * rank**-0.5, next(drawn)) for s in splits]
        return jax.tree.unflatten(tree, eps)

    def particle(theta: Any, eps: Any, scale: Array) -> Any:
        def leaf(a: Array, e: Any) -> Any:
            s = scale.astype(a.dtype)
            return Factors(s * e.left, e.right) if isinstance(e, Factors) else a + s * e

        return jax.tree.map(leaf, theta, eps)

    def apply(f: Callable[..., Any], theta: Any, particle: Any, *args: Any) -> Any:
        def leaf(a: Array, p: Any) -> Any:
            return LowRank(a, p.left, p.right) if isinstance(p, Factors) else p

        return apply_perturbed(f, jax.tree.map(leaf, theta, particle), *args)

    def as_arrays(eps: Any) -> Any:
        return _over_leaves(lambda e: jnp.tensordot(e.left, e.right, (-1, -1)), lambda e: e, eps)

    def mean(eps: Any, weights: Float[Array, "n"]) -> Any:
        def factors(e: Factors) -> Array:
            # One product of [rows, n r] with [n r, cols], without any array of the size of n matrices.
            w = weights.astype(e.left.dtype).reshape(-1, *[1] * (e.left.ndim - 1)) / weights.shape[0]
            left = e.left * jnp.broadcast_to(w, e.left.shape)
            return jnp.tensordot(left, e.right, ((0, left.ndim - 1), (0, e.right.ndim - 1)))

        return _over_leaves(factors, lambda e: weighted_mean(e, weights), eps)

    def dot(eps: Any, tree: Any) -> Float[Array, ""]:
        def factors(e: Factors, g: Array) -> Array:
            left = jnp.tensordot(e.left, g, (tuple(range(e.left.ndim - 1)),) * 2)  # [r, *cols]
            return jnp.vdot(rearrange(left, "r ... -> ... r"), e.right)

        parts = _over_leaves(factors, jnp.vdot, eps, tree)
        return jax.tree.reduce(jnp.add, parts)

    return Noise(f"low_rank({rank})", draw, particle, apply, as_arrays, mean, dot)


def _over_leaves(factors: Callable[..., Any], plain: Callable[..., Any], eps: Any, *rest: Any) -> Any:
    def leaf(e: Any, *others: Any) -> Any:
        return factors(e, *others) if isinstance(e, Factors) else plain(e, *others)

    return jax.tree.map(leaf, eps, *rest, is_leaf=lambda e: isinstance(e, Factors))


def _split(shape: tuple[int, ...], rank: int) -> int | None:
    """How many leading axes are rows, for the matrix nearest to square; None if dense noise is as cheap."""
    sides = [(math.prod(shape[:i]) + math.prod(shape[i:]), i) for i in range(1, len(shape))]
    if not sides:
        return None
    total, split = min(sides)
    return split if rank * total < math.prod(shape) else None


def _normals(key: PRNGKeyArray, shapes: list[tuple[tuple[int, ...], Any]]) -> list[Array]:
    # One draw, cut into pieces: one draw per leaf would cost a second of compilation each.
    sizes = [math.prod(shape) for shape, _ in shapes]
    widest = max([jnp.dtype(jnp.float32), *[jnp.dtype(dtype) for _, dtype in shapes]], key=lambda d: d.itemsize)
    flat, pieces, at = jax.random.normal(key, (sum(sizes),), widest), [], 0
    for (shape, dtype), size in zip(shapes, sizes, strict=True):
        pieces.append(flat[at : at + size].reshape(shape).astype(dtype))
        at += size
    return pieces
