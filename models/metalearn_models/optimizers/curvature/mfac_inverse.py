"""The inverse of a Fisher matrix of few gradients, without the matrix: products, entries, and pruning by them.

Frantar, Kurtic and Alistarh 2021, "M-FAC: efficient matrix-free approximations of second-order information" (arXiv
2107.03356). The matrix is `F = damping I + (1/m) sum_i g_i g_i^T` of m gradients of d weights. The paper computes
`F^-1 x` by a recursion over the gradients. Here it is the Woodbury identity with one Cholesky factorisation, which
gives the same values at the same cost and does not depend on the order of the gradients:

    L L^T = m damping I + G G^T,   V = L^-1 G,   F^-1 = (I - V^T V) / damping

Optimal brain surgeon (Hassibi and Stork 1992) removes weight k at the cost `w_k^2 / (2 [F^-1]_kk)` if the others move
by `-w_k [F^-1]_k / [F^-1]_kk`. To remove many weights, do so in several rounds, with new gradients in each. Gradients
of weights that are already removed must be 0 in them: such weights then cost nothing, stay 0 and move no other weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

__all__ = ["InverseFisher", "check_damping", "factorise", "invert_fisher", "remove_jointly"]

HIGHEST = jax.lax.Precision.HIGHEST
"""Products in full precision: an accelerator would round their factors, and the inverse takes differences of them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InverseFisher:
    """The inverse of the Fisher matrix, or of its diagonal blocks; see `invert_fisher`.

    The d weights are split into n blocks of b weights, the last one filled up with weights without gradient. Without
    blocks n = 1 and b = d.

    Attributes:
        whitened: V of the module's formula, per block: [n, m, b].
        mean_square: mean square of the gradients per weight, the diagonal of F without the damping: [n, b].
        damping: of F, a scalar.
        size: d.
    """

    whitened: Any  # transformations of JAX put trees of other things here, so that no shape can be declared
    mean_square: Any
    damping: Any
    size: int = field(metadata={"static": True})

    def multiply(self, x: Float[Array, " d"]) -> Float[Array, " d"]:
        """`F^-1 x`, in O(m d)."""
        x = self._split(x)
        inner = jnp.einsum("nmb,nb->nm", self.whitened, x, precision=HIGHEST)
        return self._join((x - jnp.einsum("nmb,nm->nb", self.whitened, inner, precision=HIGHEST)) / self.damping)

    def diagonal(self) -> Float[Array, " d"]:
        """`[F^-1]_kk` for all k, in O(m d).

        They are at least `1 / F_kk`, as in exact arithmetic, so that rounding makes none of them 0 or negative.
        """
        found = (1 - jnp.square(self.whitened).sum(1)) / self.damping
        return self._join(jnp.maximum(found, 1 / (self.damping + self.mean_square)))

    def entries(self, rows: Int[Array, " k"], columns: Int[Array, " k"]) -> Float[Array, " k"]:
        """`[F^-1]_ij` for pairs of weights, in O(m) per pair; 0 where they belong to two blocks.

        Args:
            rows: i of each pair, from 0 to d - 1.
            columns: j of each pair.
        """
        width = self.whitened.shape[2]
        left = self.whitened[rows // width, :, rows % width]
        right = self.whitened[columns // width, :, columns % width]
        inner = jnp.einsum("km,km->k", left, right, precision=HIGHEST)
        found = ((rows == columns).astype(inner.dtype) - inner) / self.damping
        return jnp.where(rows // width == columns // width, found, 0)

    def saliencies(self, weights: Float[Array, " d"]) -> Float[Array, " d"]:
        """By how much the quadratic model of the loss rises if one weight is removed and the others adapt.

        Args:
            weights: the trained weights.
        """
        return jnp.square(weights.astype(self.whitened.dtype)) / (2 * self.diagonal())

    def remove(self, weights: Float[Array, " d"], removed: Bool[Array, " d"]) -> Float[Array, " d"]:
        """The weights after some of them are set to 0 and the others have adapted to each removal on its own.

        This is the paper's update: `w + F^-1 t` with `t_k = -w_k / [F^-1]_kk` on removed weights. It is optimal for one
        removed weight per block; `remove_jointly` is optimal for any number.

        Args:
            weights: the trained weights.
            removed: which become 0.
        """
        w = weights.astype(self.whitened.dtype)
        moved = w + self.multiply(jnp.where(removed, -w / self.diagonal(), 0))
        return jnp.where(removed, 0, moved).astype(weights.dtype)

    def _split(self, x: Float[Array, " d"]) -> Float[Array, "n b"]:
        return _blocks(x.astype(self.whitened.dtype)[None], self.whitened.shape[2])[:, 0]

    def _join(self, x: Float[Array, "n b"]) -> Float[Array, " d"]:
        return rearrange(x, "n b -> (n b)")[: self.size]


def invert_fisher(gradients: Float[Array, "m d"], damping: Any, block: int | None = None) -> InverseFisher:
    """The inverse of `F = damping I + (1/m) sum_i g_i g_i^T`, ready for products and entries, in O(d m^2).

    Args:
        gradients: g_i in the rows, each of one batch or of one example. They are read in float32 or in their own dtype
            if it is wider.
        damping: positive; a number or a traced scalar.
        block: number of consecutive weights that form a block; entries of F between two blocks count as 0. Blocks need
            fewer gradients than the whole matrix, and about the same time. None: all weights form one block.

    Raises:
        ValueError: the damping is not positive, there are no gradients, or `block` is less than 1.
    """
    check_damping(damping)
    count, size = gradients.shape
    if not (count and size):
        raise ValueError(f"gradients must hold at least one gradient of at least one weight, got {gradients.shape}")
    if block is not None and block < 1:
        raise ValueError(f"block must be at least 1 weight, or None for a single block, got {block}")
    dtype = _accumulator(gradients.dtype)
    split = _blocks(gradients.astype(dtype), min(block or size, size))
    damping = jnp.asarray(damping, dtype)
    return InverseFisher(_whiten(split, damping), jnp.square(split).mean(1), damping, size)


def remove_jointly(
    gradients: Float[Array, "m d"], damping: Any, weights: Float[Array, " d"], removed: Bool[Array, " d"]
) -> Float[Array, " d"]:
    """The weights after some of them are set to 0 and the others have moved to where the quadratic model is least.

    Of all moves `z` that set the removed weights to 0, it takes that with the least `z^T F z`. That asks for one
    system of m equations, however many weights are removed:
    `z_kept = G_kept^T (m damping I + G_kept G_kept^T)^-1 G_removed w_removed`.

    Args:
        gradients: as in `invert_fisher`.
        damping: as in `invert_fisher`.
        weights: the trained weights.
        removed: which become 0.

    Raises:
        ValueError: the damping is not positive.
    """
    check_damping(damping)
    dtype = _accumulator(gradients.dtype)
    kept = jnp.where(removed[None], 0, gradients.astype(dtype))
    lost = jnp.matmul(gradients.astype(dtype), jnp.where(removed, weights, 0).astype(dtype), precision=HIGHEST)
    factor = _factor(kept, jnp.asarray(damping, dtype))
    moved = jnp.matmul(jax.scipy.linalg.cho_solve((factor, True), lost), kept, precision=HIGHEST)
    return jnp.where(removed, 0, weights + moved.astype(weights.dtype))


def check_damping(damping: Any) -> None:
    """Check that a damping is positive; one that is traced has no value yet.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(damping, Tracer) and not damping > 0:
        raise ValueError(f"damping must be greater than 0, since few gradients leave F singular, got {damping}")


def factorise(gram: Float[Array, "m m"], damping: Any) -> Float[Array, "m m"]:
    """L with `L L^T = m damping I + gram`, lower triangular, also where rounding has made that singular.

    Rows and columns are scaled to a diagonal of ones. What is added to it then is as large as the rounding errors in
    `gram`, so that equal gradients, or such of very different lengths, do not end in NaN.

    Args:
        gram: inner products of the gradients.
        damping: of F.
    """
    m, eps = len(gram), float(jnp.finfo(gram.dtype).eps)
    damped = gram + m * damping * jnp.eye(m, dtype=gram.dtype)
    length = jnp.sqrt(jnp.diagonal(damped))
    scaled = damped / (length[:, None] * length[None]) + 4 * eps * m**0.5 * jnp.eye(m, dtype=gram.dtype)
    return length[:, None] * jnp.linalg.cholesky(scaled)


def _factor(gradients: Float[Array, "m b"], damping: Float[Array, ""]) -> Float[Array, "m m"]:
    return factorise(jnp.matmul(gradients, gradients.T, precision=HIGHEST), damping)


def _accumulator(dtype: Any) -> Any:
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _whiten(gradients: Float[Array, "n m b"], damping: Float[Array, ""]) -> Float[Array, "n m b"]:
    """`L^-1 G` per block, one after the other: batched factorisations hang in some programs of jax 0.10.2 on CPUs."""

    def whiten(block: Float[Array, "m b"]) -> Float[Array, "m b"]:
        return jax.scipy.linalg.solve_triangular(_factor(block, damping), block, lower=True)

    return whiten(gradients[0])[None] if len(gradients) == 1 else jax.lax.map(whiten, gradients)


def _blocks(rows: Float[Array, "m d"], width: int) -> Float[Array, "n m b"]:
    padded = jnp.pad(rows, ((0, 0), (0, -rows.shape[1] % width)))
    return rearrange(padded, "m (n b) -> n m b", b=width)
