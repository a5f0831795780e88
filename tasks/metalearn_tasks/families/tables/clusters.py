"""Tables drawn from their classes: each class has centres and spreads, and tables of frequencies for categories."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["clusters"]

_CATEGORIES = 0.15  # share of columns
_LEVELS = 8  # most levels of a category, plus one


def clusters(
    rng: np.random.Generator, ys: Int[np.ndarray, " n"], features: int
) -> tuple[Float[np.ndarray, "n {features}"], Bool[np.ndarray, " {features}"]]:
    """Columns, and which of them are categories.

    Args:
        rng: all randomness.
        ys: the class of each row.
        features: number of columns.
    """
    classes, rows = int(ys.max()) + 1, len(ys)
    per_class = 1 + int(rng.integers(3))
    # A typical distance of centres, in standard deviations, that does not grow with the number of columns.
    apart = rng.uniform(1.0, 6.0) / np.sqrt(features) ** rng.uniform(0.6, 1.0)
    centres = apart * rng.standard_normal((classes * per_class, features))
    spreads = np.exp(rng.uniform(0.0, 0.7) * rng.standard_normal((classes, features)))
    owner = ys * per_class + rng.integers(per_class, size=rows)
    noise = rng.standard_normal((rows, features))
    if rng.random() < 0.4:
        noise = noise @ (
            np.eye(features) + rng.uniform(0.2, 1.0) * rng.standard_normal((features, features)) / features**0.5
        )
    xs = centres[owner] + spreads[ys] * noise
    categories = rng.random(features) < _CATEGORIES
    for column in np.flatnonzero(categories):
        levels = 2 + int(rng.integers(_LEVELS - 1))
        # A Dirichlet distribution per class, cumulated; a row's level is where its uniform number falls.
        frequencies = rng.standard_gamma(rng.uniform(0.3, 2.0), (classes, levels)) + 1e-3
        cumulative = np.cumsum(frequencies / frequencies.sum(1, keepdims=True), axis=1)[:, :-1]
        xs[:, column] = (rng.random(rows)[:, None] > cumulative[ys]).sum(1)
    return xs, categories
