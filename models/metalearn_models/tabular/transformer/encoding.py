"""Cells as numbers that a network can read: where a value lies in its column, whatever the column's unit.

A cell becomes the inverse hyperbolic sine of its z-score, its centred mid-rank among the training rows, sines and
cosines of this rank (the network learns their frequencies), a code of its category if the column is categorical, and
two flags, for a missing value and for a categorical column. Everything is measured on the training rows alone, so a
test row is encoded by itself. Missing values are NaN.

A category's code is a row of a Hadamard matrix or its negative: 32 codes of 16 signs. Which category has which code is
decided by two integers per column, its `spin`, and is redrawn in each view.
Shapes: B tables, S training rows (rows beyond the real ones are padding), N rows, F columns, E numbers per cell.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.linalg import hadamard

__all__ = ["CATEGORY_CODES", "ENCODED", "Columns", "encode", "measure_columns"]

CATEGORY_CODES = np.concatenate([hadamard(16), -hadamard(16)]).astype(np.float32) / 4
"""[32, 16], the codes of categories, each of norm 1."""
ENCODED = 4 + CATEGORY_CODES.shape[1]
"""Numbers per cell beside the sines: z-score, rank, two flags and the code of a category."""


class Columns(NamedTuple):
    """What the training rows say about each column.

    Attributes:
        mean: of the values that are there.
        scale: the inverse of their standard deviation; 0 for a constant column.
        ordered: the values in order, with infinity behind them for missing values and padding.
        distinct: how many different values come before each position of `ordered`.
        number: how many values are there, at least 1.
        categorical: whether the column holds categories.
        spin: decides the codes of its categories.
    """

    mean: Float[Array, "B F"]
    scale: Float[Array, "B F"]
    ordered: Float[Array, "B F S"]
    distinct: Int[Array, "B F T"]
    number: Float[Array, "B F"]
    categorical: Bool[Array, "B F"]
    spin: Int[Array, "B F 2"]


def measure_columns(
    xs: Float[Array, "B S F"], rows: Float[Array, "B S"], categorical: Bool[Array, "B F"], spin: Int[Array, "B F 2"]
) -> Columns:
    """Measure the columns of training rows.

    Args:
        xs: training rows.
        rows: 1 for a row, 0 for padding.
        categorical: which columns hold categories.
        spin: integers of at least 0.
    """
    there = jnp.isfinite(xs) & (rows[..., None] > 0)
    count = jnp.maximum(there.sum(1), 1).astype(xs.dtype)
    mean = jnp.where(there, xs, 0).sum(1) / count
    variance = jnp.square(jnp.where(there, xs - mean[:, None], 0)).sum(1) / count
    # Rounding leaves a constant column a small variance, relative to its values.
    constant = variance <= 1e-10 * jnp.square(mean)
    scale = jnp.where(constant, 0, jax.lax.rsqrt(jnp.where(constant, 1, variance)))
    ordered = jnp.sort(jnp.where(there, xs, jnp.inf), axis=1).swapaxes(1, 2)
    new = jnp.concatenate([jnp.ones_like(ordered[..., :1], bool), ordered[..., 1:] > ordered[..., :-1]], -1)
    seen = jnp.cumsum(new.astype(jnp.int32), -1)
    distinct = jnp.concatenate([jnp.zeros_like(seen[..., :1]), seen], -1)
    return Columns(mean, scale, ordered, distinct, count, categorical, spin)


def encode(
    columns: Columns, xs: Float[Array, "B N F"]
) -> tuple[Float[Array, "B N F E"], Float[Array, "B N F"], Bool[Array, "B N F"]]:
    """Encode rows.

    Args:
        columns: what the training rows say.
        xs: rows of any kind.

    Returns:
        The numbers of each cell; its rank from 0 to 1, for the sines; and whether it has a rank, which a missing value
        does not have.
    """
    there = jnp.isfinite(xs)
    values = jnp.where(there, xs, columns.mean[:, None])
    z = jnp.arcsinh((values - columns.mean[:, None]) * columns.scale[:, None])

    def search(ordered: Array, column: Array) -> tuple[Array, Array]:
        return jnp.searchsorted(ordered, column, side="left"), jnp.searchsorted(ordered, column, side="right")

    left, right = jax.vmap(jax.vmap(search, (0, 1), 1))(columns.ordered, values)
    rank = (left + right).astype(xs.dtype) / 2 / columns.number[:, None]
    place = jnp.take_along_axis(columns.distinct, left.swapaxes(1, 2), -1).swapaxes(1, 2)
    turn, shift = columns.spin[:, None, :, 0], columns.spin[:, None, :, 1]
    count = len(CATEGORY_CODES)  # categories beyond that number share codes, but not with the same others in each view
    number = (place * (2 * turn + 1) + place // count * (turn + shift) + shift) % count
    known = there & columns.categorical[:, None] & (left < right)
    code = jnp.where(known[..., None], jnp.asarray(CATEGORY_CODES, xs.dtype)[number], 0)
    flags = [~there, jnp.broadcast_to(columns.categorical[:, None], there.shape)]
    parts = [jnp.where(there, z, 0), jnp.where(there, (rank - 0.5) * 12**0.5, 0), *(f.astype(xs.dtype) for f in flags)]
    return jnp.concatenate([jnp.stack(parts, -1), code], -1), rank, there
