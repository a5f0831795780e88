"""How far early ranks can be trusted: Spearman's correlation of the scores at each rung with those at the end.

Spearman 1904, "The proof and measurement of association between two things" (American Journal of Psychology 15): the
correlation of ranks, where equal values share the mean of their ranks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

__all__ = ["RungCorrelation", "rung_correlations", "spearman"]


class RungCorrelation(NamedTuple):
    """The ranks at one rung against those at the end.

    Attributes:
        step: of the rung.
        spearman: the correlation; NaN where all are equal or fewer than two were seen at both.
        scored: candidates that were scored at both. A correlation of few says little.
    """

    step: int
    spearman: float
    scored: int


def _ranks(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two lists of scores; infinities have ranks too.

    Returns:
        From -1 to 1; NaN if one list is constant or there are fewer than two scores.

    Raises:
        ValueError: the lists have other lengths, or a score is NaN.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"spearman takes two lists of one length, got shapes {x.shape} and {y.shape}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("a score is NaN and has no rank: leave it out, or count it as infinity")
    if len(x) < 2:
        return float("nan")
    x, y = (ranks - ranks.mean() for ranks in (_ranks(x), _ranks(y)))
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else float("nan")


def rung_correlations(steps: tuple[int, ...], scores: Float[np.ndarray, "K N"]) -> list[RungCorrelation]:
    """The correlation of each rung with the last one, over the candidates that were scored at both.

    Among survivors it is that of candidates which early scores have chosen, and so lower than that of all. Nothing
    chose the candidates of a random search, so theirs is the honest one.

    Args:
        steps: of the K rungs.
        scores: of N candidates; NaN where one was not scored.
    """
    end = scores[-1]
    rows = []
    for step, row in zip(steps, scores, strict=True):
        both = ~np.isnan(row) & ~np.isnan(end)
        rows.append(RungCorrelation(int(step), spearman(row[both], end[both]), int(both.sum())))
    return rows
