"""Profiles: what the values of a row say if it does not matter which column has which, where all columns share a unit.

Two pieces of a photograph may have the same sky in them and hardly a pixel in common. Their values are alike all the
same: how bright, how different, how many of them near the ends. No column shows that, and no sum of columns.

The profile of a row is the mean, the deviation and seven quantiles of its values. Where places matter, as in written
characters, it says little, and the network reads a table worse for it. So it is shown only where it says more about the
classes than as many principal components, the most telling ones.

Shapes: n training rows, N rows, c columns, f components, P = `PROFILED` statistics.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from metalearn_models.tabular.transformer.screening import relevance

__all__ = ["LEAST_PER_CLASS", "PROFILED", "profile", "says_more"]

_QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
PROFILED = 2 + len(_QUANTILES)
"""How many statistics a profile has."""
LEAST_PER_CLASS = 4
"""Our choice: of noise with ten classes, half of all draws of 12 rows preferred profiles, and few of 20."""


def profile(xs: Float[np.ndarray, "N c"]) -> Float[np.ndarray, "N P"]:
    """The mean, the deviation and the quantiles of the values of each row.

    Args:
        xs: rows; all values are finite, and so are their squares.
    """
    xs = np.ascontiguousarray(xs)  # else the order of the sums, and so their rounding, could depend on the other rows
    return np.stack([xs.mean(1), xs.std(1), *np.quantile(xs, _QUANTILES, axis=1)], axis=1)


def says_more(
    profiles: Float[np.ndarray, "n P"], components: Float[np.ndarray, "n f"], ys: Int[np.ndarray, " n"]
) -> bool:
    """Whether profiles tell more about the classes than the P most telling components, by the mean of `relevance`.

    With fewer than `LEAST_PER_CLASS` rows per class chance would decide, and the answer is no.
    """
    if len(ys) < LEAST_PER_CLASS * len(np.unique(ys)):
        return False
    of_profiles, of_components = (relevance(part, ys, np.zeros(part.shape[1], bool)) for part in (profiles, components))
    return bool(of_profiles.mean() > np.sort(of_components)[-PROFILED:].mean())
