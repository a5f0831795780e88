"""A model of how well losses train, and the candidates that it would train next.

A Gaussian process over gradients, with expected improvement: Jones, Schonlau, Welch (1998), "Efficient Global
Optimization of Expensive Black-Box Functions", Journal of Global Optimization 13. Several candidates are chosen at once
with the "kriging believer" of Ginsbourger, Le Riche, Carraro (2010): each is taken as trained, with the error that the
model expects. Length scale and noise are those of the largest likelihood on a small grid. That the inputs are
gradients, and the grid, are our choice.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Int
from scipy.special import erfc

__all__ = ["choose_next", "predict_scores"]

_LENGTHS = (0.25, 0.5, 1.0, 2.0)  # in units of the median distance between candidates
_NOISES = (0.01, 0.05, 0.2, 0.5)  # share of the variance of the scores


def choose_next(
    features: Float[np.ndarray, "N F"], trained: Int[np.ndarray, "n"], scores: Float[np.ndarray, "n"], number: int
) -> list[int]:
    """Choose the candidates from which the model expects the largest improvement.

    Args:
        features: one row per candidate, trained or not.
        trained: which candidates were trained; at least two.
        scores: their scores, smaller is better. Those that are not finite count as the worst finite one.
        number: how many to choose; fewer if there are no more.

    Returns:
        Rows of `features` that were not trained, the most promising first.

    Raises:
        ValueError: fewer than two were trained, or none of them with a finite score.
    """
    if len(trained) < 2 or len(trained) != len(scores) or not np.isfinite(scores).any():
        raise ValueError(f"the model needs two or more finite scores, got {len(trained)} candidates, scores {scores}")
    rows, values = list(map(int, trained)), np.where(np.isfinite(scores), scores, scores[np.isfinite(scores)].max())
    known, chosen = values, []
    while len(chosen) < min(number, len(features) - len(trained)):
        mean, deviation = predict_scores(features, np.asarray(rows), known)
        gain = _expected_improvement(mean, deviation, float(values.min()))
        gain[rows] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        rows.append(best)
        known = np.append(known, mean[best])
    return chosen


def predict_scores(
    features: Float[np.ndarray, "N F"], trained: Int[np.ndarray, "n"], scores: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """The mean and the standard deviation of the score of every candidate, given those that were trained.

    Scores above the median by more than three times its distance from the best are cut there: how bad a bad loss is
    tells nothing about good ones.

    Args:
        features: one row per candidate.
        trained: rows of which the score is known.
        scores: their scores, finite.
    """
    middle = float(np.median(scores))
    cut = np.minimum(scores, middle + 3 * max(middle - float(scores.min()), 1e-12))
    centre, spread = float(cut.mean()), max(float(cut.std()), 1e-12)
    targets = (cut - centre) / spread
    squared = _squared_distances(features, features[trained])
    inside = squared[trained]
    apart = squared[squared > 1e-9 * squared.max()]  # the distance to itself is not exactly 0
    unit = float(np.median(apart)) if apart.size else 1.0
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for length, noise in itertools.product(_LENGTHS, _NOISES):
        width = 2 * length**2 * unit
        covariance = (1 - noise) * np.exp(-inside / width) + (noise + 1e-8) * np.eye(len(trained))
        factor = np.linalg.cholesky(covariance)
        white = np.linalg.solve(factor, targets)
        likelihood = -0.5 * float(white @ white) - float(np.log(np.diag(factor)).sum())
        if best is None or likelihood > best[0]:
            across = np.linalg.solve(factor, (1 - noise) * np.exp(-squared / width).T)
            variance = np.maximum(1 - noise - np.square(across).sum(0), 1e-12)
            best = likelihood, across.T @ white, np.sqrt(variance)
    assert best is not None
    return centre + spread * best[1], spread * best[2]


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None, :] - 2 * a @ b.T
    return np.maximum(squares, 0)


def _expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    z = (best - mean) / deviation
    return deviation * (z * 0.5 * erfc(-z / np.sqrt(2)) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
