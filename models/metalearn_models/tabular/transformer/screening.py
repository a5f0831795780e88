"""How much each column of a table says about the classes by itself: for tables of more columns than a view shows.

The relevance of a column is 1 on average if the column says nothing. It is the F of an analysis of variance for numbers
and chi-square per degree of freedom for categories. Where values are missing, that of which are missing counts if it is
larger. Columns that say something only together are not found; views of other columns are there for them.

Shapes: n training rows, F columns, K classes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["most_relevant", "relevance"]

CLIP = 10.0
"""Standardised values are clipped here, so that one outlier does not decide."""


def most_relevant(
    xs: Float[np.ndarray, "n F"], ys: Int[np.ndarray, " n"], categorical: Bool[np.ndarray, " F"], count: int
) -> Int[np.ndarray, " c"]:
    """The numbers of the `count` columns of largest relevance, in ascending order; arguments as in `relevance`."""
    return np.sort(np.argsort(-relevance(xs, ys, categorical), kind="stable")[:count])


def relevance(
    xs: Float[np.ndarray, "n F"], ys: Int[np.ndarray, " n"], categorical: Bool[np.ndarray, " F"]
) -> Float[np.ndarray, " F"]:
    """How much each column says about the classes.

    Args:
        xs: rows; NaN or infinite for a missing value, whole numbers for categories.
        ys: their classes, whole numbers from 0.
        categorical: which columns hold categories.
    """
    ys = np.unique(ys, return_inverse=True)[1]  # these rows may lack a class
    missing = ~np.isfinite(xs)
    found = _variance_ratio(_standardise(xs, missing), ys)
    for column in np.flatnonzero(categorical):
        found[column] = _chi_square(np.unique(xs[:, column], return_inverse=True)[1], ys)
    partly = np.flatnonzero(missing.any(0) & ~categorical)
    if len(partly):
        holes = missing[:, partly].astype(np.float32)
        found[partly] = np.maximum(found[partly], _variance_ratio(_standardise(holes, np.zeros_like(holes, bool)), ys))
    return found


def _standardise(xs: Float[np.ndarray, "n F"], missing: Bool[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    """Columns of mean 0 and deviation 1, before the clipping; missing values and constant columns become 0."""
    largest = np.max(np.abs(np.where(missing, 0.0, xs)), 0)
    x = np.where(missing, 0.0, xs) / np.where(largest > 0, largest, 1.0)  # so that no square overflows
    count = np.maximum((~missing).sum(0), 1)
    x = np.where(missing, 0.0, x - x.sum(0) / count)
    deviation = np.sqrt(np.square(x).sum(0) / count)
    return np.clip(x / np.where(deviation > 0, deviation, 1.0), -CLIP, CLIP)


def _variance_ratio(z: Float[np.ndarray, "n F"], ys: Int[np.ndarray, " n"]) -> Float[np.ndarray, " F"]:
    """F of an analysis of variance; 0 for a constant column, and bounded where a column tells the classes apart."""
    labels = np.eye(ys.max() + 1)[ys]
    counts = labels.sum(0)
    free = (max(1, len(counts) - 1), max(1, len(z) - len(counts)))
    mean = z.mean(0)
    between = (np.square(labels.T @ z / counts[:, None] - mean) * counts[:, None]).sum(0)
    within = np.maximum(np.square(z - mean).sum(0) - between, 1e-6 * len(z))
    return between / free[0] / within * free[1]


def _chi_square(levels: Int[np.ndarray, " n"], ys: Int[np.ndarray, " n"]) -> float:
    """Chi-square of independence per degree of freedom."""
    table = np.zeros((levels.max() + 1, ys.max() + 1))
    np.add.at(table, (levels, ys), 1.0)
    expected = np.outer(table.sum(1), table.sum(0)) / len(ys)
    free = max(1, (len(table) - 1) * (table.shape[1] - 1))
    return float((np.square(table - expected) / expected).sum() / free)
