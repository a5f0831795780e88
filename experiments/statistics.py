"""Means over seeds with intervals, and bootstrap intervals of whatever is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats


def mean_interval(values: Sequence[float]) -> list[float]:
    """Mean and the ends of its 95 % interval by Student's t: [mean, low, high]; infinite ends with a single value."""
    kept = np.asarray(values, np.float64)
    mean, n = kept.mean(), len(kept)
    half = stats.t.ppf(0.975, n - 1) * kept.std(ddof=1) / n**0.5 if n > 1 else np.inf
    return [float(mean), float(mean - half), float(mean + half)]


def bootstrap(
    groups: Sequence[Sequence[Any]], statistic: Callable[[list[list[Any]]], float], seed: int = 0, draws: int = 2000
) -> list[float]:
    """A statistic of groups of values and its 95 % percentile interval, a bootstrap: [value, low, high].

    Args:
        groups: one a condition, what was measured with each of its seeds; values are drawn with replacement within it.
        statistic: `(groups) -> number`; draws for which it is not finite count as beyond every finite one when they are
            infinite, and are left out when they are NaN.
        seed: of the draws.
        draws: how many.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        found.append(statistic([[g[i] for i in rng.integers(len(g), size=len(g))] for g in groups]))
    kept = np.sort(np.asarray(found, np.float64)[~np.isnan(found)])
    value = statistic([list(g) for g in groups])
    if not len(kept):
        return [float(value), float("nan"), float("nan")]
    low, high = kept[int(0.025 * (len(kept) - 1))], kept[int(np.ceil(0.975 * (len(kept) - 1)))]
    return [float(value), float(low), float(high)]


def rank_correlation(x: Sequence[float], y: Sequence[float], groups: Sequence[Any], seed: int = 0) -> list[float]:
    """Spearman's rank correlation of x and y, and its 95 % interval by a bootstrap over groups: [rho, low, high].

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

    def rho(chosen: list[list[Any]]) -> float:
        points = np.asarray([p for cluster in chosen[0] for p in cluster], np.float64)
        if len(np.unique(points[:, 0])) < 2 or len(np.unique(points[:, 1])) < 2:
            return float("nan")
        return float(stats.spearmanr(points[:, 0], points[:, 1])[0])  # pyright: ignore[reportArgumentType]

    return bootstrap([clusters], rho, seed)


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where a rising curve first reaches a level, linear between its points; -inf, inf where it lies above, below all.

    The curve is made monotone first (isotonic regression), so that noise on either side does not decide.
    """
    from sklearn.isotonic import IsotonicRegression

    smooth = IsotonicRegression().fit_transform(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if smooth[0] >= level:
        return float("-inf")
    if smooth[-1] < level:
        return float("inf")
    i = int(np.argmax(smooth >= level))
    share = (level - smooth[i - 1]) / (smooth[i] - smooth[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))
