"""Confidence intervals of means by Student's t: the one place where metalearn computes them.

Student (1908), "The probable error of a mean", Biometrika 6 (1). Exact for independent normal values, for any number
of them from two on; the normal approximation of 1.96 standard errors covers too little with few values.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from scipy.special import stdtrit

__all__ = ["Interval", "half_width", "mean_interval"]


class Interval(NamedTuple):
    """A mean and the ends of its confidence interval; float64 arrays of one shape (of no axis for a single mean)."""

    mean: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]


def mean_interval(
    values: ArrayLike, axis: int = 0, level: float = 0.95, where: Bool[np.ndarray, "..."] | None = None
) -> Interval:
    """Mean along one axis and its confidence interval by Student's t.

    Nothing is left out silently. A NaN along the axis makes its mean and both ends NaN; an infinite value makes the
    mean infinite and the ends NaN. Use `where=numpy.isfinite(values)` to average the finite values only, and report
    how many were left out.

    Args:
        values: numbers of any real dtype; computed in float64.
        axis: the axis of independent values, such as seeds or tasks.
        level: the probability that the interval covers the true mean, in (0, 1).
        where: True for the values that count; None: all of them.

    Returns:
        Arrays without `axis`. With a single value the ends are infinite; with none all three are NaN.

    Raises:
        ValueError: if `level` is not in (0, 1).
    """
    mean, half = _mean_and_half_width(values, axis, level, where)
    return Interval(*map(np.asarray, (mean, mean - half, mean + half)))


def half_width(
    values: ArrayLike, axis: int = 0, level: float = 0.95, where: Bool[np.ndarray, "..."] | None = None
) -> Float[np.ndarray, "..."]:
    """Half the width of `mean_interval(values, axis, level, where)`, for texts like `0.751 ± 0.012`.

    Returns:
        An array without `axis`: infinite for a single value, NaN if there is none or one of those that count is not
        finite.
    """
    return _mean_and_half_width(values, axis, level, where)[1]


def _mean_and_half_width(
    values: ArrayLike, axis: int, level: float, where: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    array = np.asarray(values, np.float64)
    counts = np.ones(array.shape, bool) if where is None else np.broadcast_to(where, array.shape)
    n = counts.sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0/0: no value; inf - inf: an infinite value
        mean = array.sum(axis, where=counts) / n
        squares = np.square(array - np.expand_dims(mean, axis)).sum(axis, where=counts)
        freedom = np.maximum(n - 1, 1)
        half = stdtrit(freedom, (1 + level) / 2) * np.sqrt(squares / freedom / n)
        # Without a second value the spread is unknown. A NaN stays NaN, and no value at all is NaN already.
        return np.asarray(mean), np.where(n == 1, mean * 0 + np.inf, half)
