"""Rank correlations of many scores over the same cells, and how sure they are: a bootstrap over seeds, then cells.

Seeds are not independent: the scores of every seed are ranked over the same cells and compared with means over the
other seeds. So each draw takes seeds with replacement, the truth of each is the mean over those drawn seeds that are
other ones, and then takes cells with replacement, the same for all seeds (Davison and Hinkley 1997, "Bootstrap methods
and their application", section 3.8). An interval is the middle 95 % of the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

__all__ = ["Correlations", "correlate", "correlate_with_others", "interval", "resample"]

Correlations = Float[np.ndarray, "K S"]
"""Of K kinds of scores and S seeds."""


def correlate(scores: Float[np.ndarray, "K S N"], truth: Float[np.ndarray, "S N"]) -> Correlations:
    """Spearman's correlation over the last axis; NaN where one of the two is constant or has a NaN."""

    def unit(values: np.ndarray) -> np.ndarray:
        ranks = rankdata(values, axis=-1)
        ranks -= ranks.mean(-1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ranks / np.sqrt(np.square(ranks).sum(-1, keepdims=True))

    return np.einsum("ksn,sn->ks", unit(scores), unit(truth))


def correlate_with_others(
    scores: Float[np.ndarray, "K S N"],
    end: Float[np.ndarray, "S N"],
    seeds: Int[np.ndarray, "S"] | None = None,
    cells: Int[np.ndarray, "N"] | None = None,
) -> Correlations:
    """The correlation of each seed's scores with the mean of `end` over all other seeds.

    Args:
        scores: of K kinds, S seeds and N cells.
        end: what every seed found at the end.
        seeds: which seeds to take, some perhaps twice, at least two different ones; None: each once.
        cells: which cells to take; None: each once.
    """
    seeds = np.arange(len(end)) if seeds is None else seeds
    cells = np.arange(end.shape[1]) if cells is None else cells
    others = (seeds[:, None] != seeds[None, :]).astype(np.float64)
    truth = others @ end[seeds] / others.sum(1, keepdims=True)
    return correlate(scores[:, seeds][:, :, cells], truth[:, cells])


def resample(
    scores: Float[np.ndarray, "K S N"], end: Float[np.ndarray, "S N"], draws: int, seed: int = 0
) -> Iterator[Correlations]:
    """Draws of `correlate_with_others`; even seeds take the places of even ones, and odd ones those of odd ones."""
    rng, (count, cells) = np.random.default_rng(seed), end.shape
    for _ in range(draws):
        seeds = np.empty(count, np.int64)
        for part in (0, 1):
            places = np.arange(part, count, 2)
            seeds[part::2] = rng.choice(places, len(places))
        yield correlate_with_others(scores, end, seeds, rng.integers(cells, size=cells))


def interval(
    statistic: Callable[[Correlations], Float[np.ndarray, "..."]], found: Correlations, drawn: list[Correlations]
) -> Float[np.ndarray, "... 3"]:
    """The value of a statistic and the ends of the middle 95 % of its draws; all NaN where the value is.

    Draws in which it is not defined are left out, such as those whose cells all have one score.
    """
    value = np.asarray(statistic(found))
    values = np.stack([np.asarray(statistic(draw)) for draw in drawn])
    values = np.where(np.isnan(value) | np.isnan(values).all(0), 0.0, values)  # nothing to take percentiles of
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    return np.where(np.isnan(value)[..., None], np.nan, np.stack([value, low, high], -1))
