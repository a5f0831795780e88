"""Ridge regression with the predictions of rows that were left out, one at a time, in closed form.

The penalty is the one with the least mean square error of these predictions (Allen 1974's PRESS; Golub, Heath, Wahba
1979). With H = Z (Z'Z + aI)^-1 Z' + 1/n for columns Z of mean 0, the error of row i when it is left out is the residual
of the whole fit over 1 - H_ii, so that one decomposition gives all penalties and all rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigh

from metalearn_models.tabular.views import Standardiser, fit_standardiser, standardise

__all__ = ["PENALTIES", "Line", "fit_line", "follow"]

PENALTIES = tuple(float(a) for a in np.logspace(-5, 3, 17))
"""Per row, for columns of deviation 1; our choice. The largest leaves little but the mean."""


class Line(NamedTuple):
    """What was fitted.

    Attributes:
        columns: how columns are standardised; it also clips them.
        centre: the means of the standardised columns, which clipping moves away from 0.
        slopes: per standardised column.
        mean: of the targets.
        penalty: that was chosen, per row.
    """

    columns: Standardiser
    centre: Float[np.ndarray, " F"]
    slopes: Float[np.ndarray, " F"]
    mean: float
    penalty: float


def fit_line(x: Float[np.ndarray, "n F"], y: Float[np.ndarray, " n"]) -> tuple[Line, Float[np.ndarray, " n"]]:
    """Fit a line; returns it, and for each row the prediction of the line that was fitted to the others.

    Means and scales of the columns are those of all rows also for a row that is left out.

    Args:
        x: columns of numbers, none missing.
        y: targets, at least two.
    """
    columns = fit_standardiser(x)
    z = standardise(columns, x)
    centre, mean, rows = z.mean(0), float(y.mean()), len(y)
    z, target = z - centre, y - mean
    tall = len(z) >= z.shape[1]
    squares, vectors = eigh(z.T @ z if tall else z @ z.T)  # of the smaller product
    squares = np.maximum(squares, 0.0)
    basis = z @ vectors if tall else vectors
    along, lengths = basis.T @ target, np.square(basis)
    found: tuple[float, float, np.ndarray, np.ndarray] | None = None
    for penalty in PENALTIES:
        inverse = 1.0 / (squares + penalty * rows)
        shares = inverse if tall else squares * inverse
        left = np.maximum(1.0 - lengths @ shares - 1.0 / rows, 1e-10)
        wrong = (target - basis @ (shares * along)) / left
        error = float(np.square(wrong).mean())
        if found is None or error < found[0]:
            slopes = vectors @ (inverse * along) if tall else z.T @ (vectors @ (inverse * along))
            found = error, penalty, slopes, wrong
    assert found is not None
    return Line(columns, centre, found[2], mean, found[1]), y - found[3]


def follow(line: Line, x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, " N"]:
    """The predictions of a line for rows, each by itself."""
    return line.mean + ((standardise(line.columns, x) - line.centre) * line.slopes).sum(1)
