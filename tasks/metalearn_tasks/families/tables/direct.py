"""Tables whose class is a random function of their columns.

The functions: linear, a small network, random Fourier features (Rahimi & Recht 2007), nearness to centres, sums of
trees, and sums of functions of single columns.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from metalearn_tasks.families.tables.pieces import activate, standardise, tree_values

__all__ = ["FUNCTIONS", "direct"]

FUNCTIONS = ("linear", "network", "fourier", "centres", "trees", "additive")
"""The random functions."""
_WEIGHTS = (0.2, 0.15, 0.1, 0.2, 0.25, 0.1)


def direct(
    rng: np.random.Generator, xs: Float[np.ndarray, "n k"], scores: int, function: str | None = None
) -> Float[np.ndarray, "n {scores}"]:
    """Scores that decide the class.

    Args:
        rng: all randomness.
        xs: the columns.
        scores: number of scores.
        function: one of `FUNCTIONS`; None: a random one.
    """
    z = standardise(xs)
    k = z.shape[1]
    # Columns differ in importance, or else tables of many columns would be too hard to learn from few rows.
    important = np.exp(rng.uniform(0.0, 1.5) * rng.standard_normal(k))
    z = z * (important / np.sqrt(np.square(important).mean()))
    function = FUNCTIONS[rng.choice(len(FUNCTIONS), p=_WEIGHTS)] if function is None else function
    if function == "linear":
        return z @ rng.standard_normal((k, scores))
    if function == "network":
        hidden = activate(rng, z @ rng.standard_normal((k, 8)) * rng.uniform(0.5, 1.5) / np.sqrt(k))
        return standardise(hidden) @ rng.standard_normal((8, scores))
    if function == "fourier":
        waves = z @ rng.standard_normal((k, 16)) * (rng.uniform(0.3, 1.2) / np.sqrt(k))
        return np.cos(waves + rng.uniform(0.0, 2.0 * np.pi, 16)) @ rng.standard_normal((16, scores))
    if function == "centres":
        per_score = 1 + int(rng.integers(3))
        centres = z[rng.integers(len(z), size=scores * per_score)] + 0.2 * rng.standard_normal((scores * per_score, k))
        distances = np.square(z).sum(1)[:, None] - 2.0 * z @ centres.T + np.square(centres).sum(1)
        distances = np.sqrt(np.maximum(distances, 0.0)).reshape(len(z), scores, per_score)
        return -distances.min(2)
    if function == "trees":
        return tree_values(rng, z, scores, 2 + int(rng.integers(3)), 1 + int(rng.integers(4)))
    return activate(rng, z + rng.standard_normal(k)) @ rng.standard_normal((k, scores))
