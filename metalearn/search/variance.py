"""Two sources of luck told apart: the seed of a search, which decides what is found, and the seed of its evaluation.

A random-effects analysis of variance in one direction (Fisher 1925, "Statistical methods for research workers"): each
search finds an architecture, and each architecture is trained again with several seeds. Li and Talwalkar 2019 (arXiv
1902.07638) ask for both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["Luck", "variance_components"]


class Luck(NamedTuple):
    """Standard deviations of one search that is evaluated once.

    Attributes:
        search: between the expected scores of what different searches find; 0 if the estimate of its square is below 0.
        evaluation: between trainings of one architecture.
    """

    search: float
    evaluation: float


def variance_components(scores: Float[np.ndarray, "S E"]) -> Luck:
    """Unbiased estimates of both variances, as standard deviations.

    Args:
        scores: of S searches, at least 2, each with E evaluations of what it found, at least 2.

    Raises:
        ValueError: there are too few of one.
    """
    if min(scores.shape) < 2:
        raise ValueError(f"two searches with two evaluations each are needed, got {scores.shape[0]}, {scores.shape[1]}")
    values = np.asarray(scores, np.float64)
    within = values.var(1, ddof=1).mean()
    between = values.mean(1).var(ddof=1) - within / values.shape[1]
    return Luck(float(np.sqrt(max(between, 0.0))), float(np.sqrt(within)))
