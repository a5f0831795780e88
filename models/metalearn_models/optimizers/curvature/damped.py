"""Inverses of damped positive semidefinite matrices, of one factor or of two, and eigendecompositions.

On the CPU, XLA can hang for ever when a program holds several independent batched decompositions (seen with jax 0.10.2
on two cores), and `vmap` makes a batched one of every single one. Here a batch is therefore decomposed one after the
other. Derivatives of the inverse are products of matrices and need no decomposition.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

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
    """The inverse of a symmetric positive definite matrix, by Cholesky; NaN if it is not positive definite."""
    inverse = _cholesky_inverse(matrix)
    return (inverse + inverse.T) / 2


@positive_definite_inverse.defjvp
def _inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    inverse = positive_definite_inverse(*primals)
    return inverse, -inverse @ tangents[0] @ inverse


@sequential_vmap
def _cholesky_inverse(matrix: Array) -> Array:
    factor = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.cho_solve((factor, True), jnp.eye(len(matrix), dtype=matrix.dtype))


@sequential_vmap
def eigh(matrix: Float[Array, "m m"]) -> tuple[Float[Array, "m"], Float[Array, "m m"]]:
    """Eigenvalues in ascending order and eigenvectors in columns of a symmetric matrix; it has no derivative here."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
