"""Means over seeds with intervals, and bootstrap intervals of whatever is computed from them.

Where there is a mean, Student's interval is right with few seeds too. A bootstrap is for what has no such formula (a
crossing, a ratio of medians, a rank correlation), and is called one of resampled seeds (configurations in a rank
correlation), not of 95 %: it is as narrow as what is at hand lies together, see `coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats

DRAWS = 2000
"""Resamplings of a bootstrap."""


def mean_interval(values: Sequence[float]) -> list[float]:
    """Mean and the ends of its 95 % interval by Student's t: [mean, low, high]; infinite ends with a single value."""
    kept = np.asarray(values, np.float64)
    mean, n = kept.mean(), len(kept)
    half = stats.t.ppf(0.975, n - 1) * kept.std(ddof=1) / n**0.5 if n > 1 else np.inf
    return [float(mean), float(mean - half), float(mean + half)]


def bootstrap(
    groups: Sequence[Sequence[Any]],
    statistic: Callable[[list[list[Any]]], float],
    seed: int = 0,
    draws: int | None = None,
) -> list[float]:
    """A statistic of groups of values and the middle 95 % of what it is of resampled ones: [value, low, high].

    With few values in a group these ends are too close together, see `coverage`; of values that are alike no spread is
    known. With a single value in every group nothing is known at all, and the ends are infinite.

    Args:
        groups: one a condition, what was measured with each of its seeds; values are drawn with replacement within it.
        statistic: `(groups) -> number`; draws for which it is not finite count as beyond every finite one when they are
            infinite, and are left out when they are NaN.
        seed: of the draws.
        draws: how many; None: `DRAWS`.
    """
    value = float(statistic([list(g) for g in groups]))
    if max(map(len, groups), default=0) < 2:
        return [value, float("-inf"), float("inf")]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS if draws is None else draws):
        found.append(statistic([[g[i] for i in rng.integers(len(g), size=len(g))] for g in groups]))
    kept = np.sort(np.asarray(found, np.float64)[~np.isnan(found)])
    if not len(kept):
        return [value, float("nan"), float("nan")]
    low, high = kept[int(0.025 * (len(kept) - 1))], kept[int(np.ceil(0.975 * (len(kept) - 1)))]
    return [value, float(low), float(high)]


def coverage(values: int, trials: int = 2000, draws: int = 400) -> float:
    """How often the ends of `bootstrap` hold the mean of a normal sample between them, by simulation.

    .51 with 2 values, .74 with 3, .85 with 6, .89 with 8 (standard error .01), where 95 % is meant.
    """
    rng = np.random.default_rng(values)
    found = (bootstrap([rng.normal(size=values).tolist()], _mean_of_first, t, draws) for t in range(trials))
    return sum(low <= 0 <= high for _, low, high in found) / trials


def _mean_of_first(groups: Sequence[Sequence[float]]) -> float:
    return sum(groups[0]) / len(groups[0])


def rank_correlation(x: Sequence[float], y: Sequence[float], groups: Sequence[Any], seed: int = 0) -> list[float]:
    """Spearman's rank correlation of x and y with the ends of `bootstrap` over groups: [rho, low, high].

    Args:
        x: one value a run.
        y: one value a run.
        groups: what is drawn anew as a whole, such as the configuration of a run: its seeds are no independent
            evidence.
        seed: of the bootstrap.
    """
    by_group: dict[Any, list[tuple[float, float]]] = {}
    for a, b, group in zip(x, y, groups, strict=True):
        by_group.setdefault(group, []).append((a, b))
    clusters = list(by_group.values())

    return bootstrap([clusters], lambda drawn: spearman([pair for cluster in drawn[0] for pair in cluster]), seed)


def spearman(pairs: Sequence[Sequence[float]]) -> float:
    """Spearman's rank correlation of pairs (x, y); NaN where all x or all y are equal.

    As scipy's, without the test that takes most of its time: bootstraps ask thousands of times.
    """
    ranks = stats.rankdata(pairs, axis=0)
    centred = ranks - ranks.mean(0)
    spread = np.sqrt((centred**2).sum(0).prod())
    return float(centred.prod(1).sum() / spread) if spread else float("nan")


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where a rising curve first reaches a level, linear between its points; -inf, inf where it lies above, below all.

    The curve is made monotone first (isotonic regression), so that noise on either side does not decide.

    Args:
        x: places, each greater than the one before.
        y: the curve there.
        level: what is to be reached.
    """
    smooth = optimize.isotonic_regression(np.asarray(y, np.float64)).x
    if smooth[0] >= level:
        return float("-inf")
    if smooth[-1] < level:
        return float("inf")
    i = int(np.argmax(smooth >= level))
    share = (level - smooth[i - 1]) / (smooth[i] - smooth[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


class Interval(NamedTuple):
    """Mean over the seeds that are finite and its 95 % interval; how many are not finite.

    NaN where nothing is left; the ends are infinite with a single seed.
    """

    mean: Float[np.ndarray, "..."]
    low: Float[np.ndarray, "..."]
    high: Float[np.ndarray, "..."]
    diverged: Int[np.ndarray, "..."]


def interval(values: Float[np.ndarray, "S ..."], geometric: bool = False) -> Interval:
    """Mean and 95 % interval over the leading axis by Student's t, of the finite values.

    Args:
        values: one row a seed.
        geometric: of the logarithms, for values of many orders of magnitude.
    """
    kept = np.where(np.isfinite(values), values, np.nan)
    kept = np.log(np.maximum(kept, np.finfo(np.float64).tiny)) if geometric else kept
    n = np.isfinite(kept).sum(0)
    some = np.maximum(n, 1)
    mean = np.where(n > 0, np.nansum(kept, 0) / some, np.nan)
    variance = np.nansum((kept - mean) ** 2, 0) / np.maximum(n - 1, 1)
    half = np.where(n > 1, stats.t.ppf(0.975, np.maximum(n - 1, 1)) * np.sqrt(variance / some), np.inf)
    ends = np.stack([mean, mean - half, mean + half])
    low_to_high = np.exp(ends) if geometric else ends
    return Interval(*low_to_high, diverged=np.asarray(len(values) - n))


def shown(found: Interval) -> str:
    """One interval for a table: `1.31e-12 [9.1e-13, 1.8e-12]`, and how many seeds diverged."""
    mean, low, high = (float(x) for x in found[:3])
    text = f"{mean:.4g}"
    if math.isfinite(high - low) and high - low > 1e-6 * abs(mean):
        text += f" [{low:.4g}, {high:.4g}]"
    return text + (f", {int(found.diverged)} diverged" if found.diverged else "")
