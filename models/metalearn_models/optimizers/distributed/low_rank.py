"""Send two thin matrices per matrix: PowerSGD (Vogels, Karimireddy, Jaggi 2019, arXiv 1905.13727).

One step of the power method per update, which continues where the last one ended. Both thin matrices are linear in the
gradients of the devices once the other is fixed, so that they are added up on the way, and a message does not grow with
the number of devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from metalearn_models.optimizers.distributed.compressor import Axis, Compressor, Reduced, mean

__all__ = ["low_rank"]


def low_rank(rank: int, seed: int = 0) -> Compressor:
    """Send each matrix M as P Q^T with `rank` columns in P and Q.

    A tensor of more than two axes is a matrix with the last axis as its columns, so that the kernel of a convolution
    has one row per tap and input channel. Vectors and scalars are sent as they are, and so are matrices of which P and
    Q together have no fewer entries. What is remembered is Q, of all matrices in one array.

    Args:
        rank: columns of P and Q, at least 1.
        seed: of the first Q, which is normal; it must be the same on all devices.

    Raises:
        ValueError: the rank is less than 1.
    """
    if rank < 1:
        raise ValueError(f"low_rank needs a rank of at least 1, got {rank}")

    def is_shorter(x: Any) -> bool:
        if x.ndim < 2:
            return False
        rows, columns = math.prod(x.shape[:-1]), x.shape[-1]
        return rank * (rows + columns) < rows * columns

    def init(tensors: Sequence[Any], axis: Axis) -> Any:
        del axis  # Q is the same on all devices
        rows = max(1, sum(x.shape[-1] for x in tensors if is_shorter(x)))
        dtype = max((x.dtype for x in tensors), key=lambda d: jnp.finfo(d).bits, default=jnp.dtype(jnp.float32))
        return jax.random.normal(jax.random.key(seed), (rows, rank), dtype)

    def reduce(tensors: Sequence[Array], memory: Any, axis: Axis) -> Reduced:
        sent, average, kept, row = [], [], [], 0
        for x in tensors:
            if not is_shorter(x):
                sent.append(x)
                average.append(mean(x, axis))
                continue
            q = memory[row : row + x.shape[-1]].astype(x.dtype)
            row += x.shape[-1]
            matrix = rearrange(x, "... columns -> (...) columns")
            p = orthonormalise(mean(matrix @ q, axis))
            own = matrix.T @ p
            both = mean(own, axis)
            sent.append((p @ own.T).reshape(x.shape))
            average.append((p @ both.T).reshape(x.shape))
            kept.append(_keep_directions(both, q).astype(memory.dtype))
        return Reduced(sent, average, jnp.concatenate(kept) if kept else memory)

    return Compressor(init, reduce)


def orthonormalise(x: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Columns made orthonormal by Gram and Schmidt's process, from left to right; columns of zeros stay zeros.

    No factorisation of LAPACK is called: there are few columns, and these calls cannot be batched everywhere.
    """
    kept: list[Array] = []
    for i in range(x.shape[1]):
        column = x[:, i]
        for _ in range(2):  # twice is enough for orthogonality up to rounding
            for other in kept:
                column = column - (other @ column) * other
        kept.append(_unit(column))
    return jnp.stack(kept, 1)


def _unit(column: Float[Array, "rows"]) -> Float[Array, "rows"]:
    # By the largest entry first, since squares of very large and very small numbers are out of range.
    largest = jnp.abs(column).max()
    column = column / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.square(column).sum())
    return column / jnp.where(length > 0, length, 1)


def _keep_directions(q: Float[Array, "columns rank"], before: Float[Array, "columns rank"]) -> Array:
    # Only the directions matter to the next step. A column without one, after a gradient of 0, stays as it was.
    has_direction = jnp.abs(q).max(0, keepdims=True) > 0
    return jnp.where(has_direction, jax.vmap(_unit, 1, 1)(q), before)
