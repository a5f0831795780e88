"""Inverses of damped positive semidefinite matrices, of one factor or of two, and eigendecompositions.

On the CPU, XLA can hang for ever when a program holds several independent batched decompositions (seen with jax 0.10.2
on two cores), and `vmap` makes a batched one of every single one. Here a batch is therefore decomposed one after the
other. Derivatives are products of matrices and need no decomposition.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

BLOCK = 256
"""Rows of a matrix that is decomposed as one."""

__all__ = ["damped_inverse", "eigh", "positive_definite_inverse"]


def damped_inverse(matrix: Float[Array, "m m"], damping: Float[Array, ""] | float) -> Float[Array, "m m"]:
    """`(matrix + damping I)^-1`.

    Args:
        matrix: symmetric, positive semidefinite.
        damping: positive.

    Returns:
        The inverse, symmetric; NaN where rounding leaves the matrix indefinite.
    """
    return positive_definite_inverse(
        matrix + jnp.asarray(damping, matrix.dtype) * jnp.eye(len(matrix), dtype=matrix.dtype)
    )


@jax.custom_jvp
def positive_definite_inverse(matrix: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """The inverse of a symmetric positive definite matrix, by Cholesky; NaN if it is not positive definite.

    Blocks of at most `BLOCK` rows are decomposed; the rest is products of matrices, which use all cores.
    """
    return _square(_inverse_of_cholesky(matrix))


@positive_definite_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = positive_definite_inverse(*primals)
    return inverse, -inverse @ tangents[0] @ inverse


def _inverse_of_cholesky(matrix: Array) -> Array:
    """The inverse of the lower factor, block by block."""
    if len(matrix) <= BLOCK:
        return _small_inverse_of_cholesky(matrix)
    half = len(matrix) // 2
    first = _inverse_of_cholesky(matrix[:half, :half])
    below = _product(matrix[half:, :half], first.T)
    last = _inverse_of_cholesky(matrix[half:, half:] - _product(below, below.T))
    return jnp.block([[first, jnp.zeros_like(below.T)], [-_product(last, _product(below, first)), last]])


def _square(lower: Array) -> Array:
    """`lower^T lower` of a lower triangular matrix; blocks that are zero are left out of the products."""
    if len(lower) <= BLOCK:
        return _product(lower.T, lower)
    half = len(lower) // 2
    first, below, last = lower[:half, :half], lower[half:, :half], lower[half:, half:]
    across = _product(last.T, below)
    return jnp.block([[_square(first) + _product(below.T, below), across.T], [across, _square(last)]])


@sequential_vmap
def _small_inverse_of_cholesky(matrix: Array) -> Array:
    factor = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.solve_triangular(factor, jnp.eye(len(matrix), dtype=matrix.dtype), lower=True)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


@jax.custom_jvp
def eigh(matrix: Float[Array, "m m"]) -> tuple[Float[Array, "m"], Float[Array, "m m"]]:
    """Eigenvalues in ascending order and eigenvectors in columns of a symmetric matrix.

    The derivative leaves out how eigenvectors of equal eigenvalues turn into each other, which has no limit.
    """
    return _single_eigh(matrix)


@eigh.defjvp
def _eigh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Any, Any]:
    values, vectors = eigh(*primals)
    turned = vectors.T @ tangents[0] @ vectors
    gaps = values[None] - values[:, None]
    turns = jnp.where(gaps == 0, 0, turned / jnp.where(gaps == 0, 1, gaps))
    return (values, vectors), (jnp.diag(turned), vectors @ turns)


@sequential_vmap
def _single_eigh(matrix: Array) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
