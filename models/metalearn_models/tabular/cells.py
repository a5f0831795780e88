"""A table as the Transformer for tables reads it: views with other codes, out-of-bag calibration.

`transformer/core.py` reads and answers. Here its views become one prediction: the mean of their probabilities, then a
temperature and a bias per class that were fitted on rows which a view did not hold (`calibration.py`). Where every view
holds all rows, further readings leave a part of them out, and are used for nothing else.
"""

from __future__ import annotations

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn_models.tabular._programs import refuse_fork
from metalearn_models.tabular.calibration import Calibration, calibrate, fit_calibration
from metalearn_models.tabular.cell_variance import variance_of_readings
from metalearn_models.tabular.transformer.core import Fitted, answer, read_table
from metalearn_models.tabular.transformer.library import TrainedTables

__all__ = ["CALIBRATION_ROWS", "LEAST_ROWS", "CellReader"]

CALIBRATION_ROWS = 256
"""The most rows that the calibration is fitted on."""
LEAST_ROWS = 100
"""With fewer rows there is no calibration: what would be left out is needed."""
_FOLDS = 4


class CellReader:
    """A table that the Transformer for tables has read.

    Attributes:
        calibration: temperature and bias per class; None: there were too few rows.
        views: number of views.
    """

    calibration: Calibration | None
    views: int

    def __init__(
        self,
        trained: TrainedTables,
        X: Float[np.ndarray, "N F"],
        categorical: Bool[np.ndarray, " F"],
        classes: Int[np.ndarray, " N"],
        n_estimators: int,
        rng: np.random.Generator,
    ):
        """Read a table.

        Args:
            trained: the learner.
            X: features; NaN for a missing value, codes for categories.
            categorical: which columns hold categories.
            classes: 0 to K - 1, each with a row.
            n_estimators: number of views.
            rng: all randomness.

        Raises:
            RuntimeError: this process is a fork of one in which a reader had run.
        """
        refuse_fork()
        fitted = read_table(trained, X, classes, categorical=categorical, views=n_estimators, rng=rng)
        self.views, self.calibration = n_estimators, None
        if len(X) >= LEAST_ROWS:
            held_out = _predict_left_out(trained, X, categorical, classes, fitted, rng)
            if held_out is not None:
                rows, probabilities = held_out
                self.calibration = fit_calibration(probabilities[None], classes[rows])
        # As NumPy arrays: to unpickle these in another process does not start JAX there.
        self._fitted = fitted._replace(memories=jax.device_get(fitted.memories))
        self._rows = X, classes

    def predict_proba(self, X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n K"]:
        """Probabilities of the classes for rows, each by itself."""
        refuse_fork()
        found = _mean(answer(self._fitted, X))
        return found if self.calibration is None else calibrate(self.calibration, found[None])

    def predict_variance(self, X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n K"]:
        """How much the probabilities of the views would still change with more rows, see `cell_variance.py`."""
        refuse_fork()
        return variance_of_readings(self._fitted.trained, self._fitted.views, *self._rows, X)


def _mean(
    log_probs: Float[np.ndarray, "V n K"], counted: Bool[np.ndarray, "V n"] | None = None
) -> Float[np.ndarray, "n K"]:
    probabilities = np.exp(log_probs.astype(np.float64))
    weights = np.ones(log_probs.shape[:2]) if counted is None else counted.astype(np.float64)
    mean = (probabilities * weights[..., None]).sum(0)
    return mean / mean.sum(1, keepdims=True)


def _predict_left_out(
    trained: TrainedTables,
    X: np.ndarray,
    categorical: np.ndarray,
    classes: np.ndarray,
    fitted: Fitted,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows, and their probabilities from contexts that do not hold them; None: there are none such."""
    free = np.flatnonzero(~fitted.shown.all(0))
    if len(free):
        rows = rng.permutation(free)[:CALIBRATION_ROWS]
        return rows, _mean(answer(fitted, X[rows]), ~fitted.shown[:, rows])
    found, order = [], rng.permutation(len(X))
    for number, part in enumerate(np.array_split(order, _FOLDS)):
        rest = np.setdiff1d(order, part)
        if len(np.unique(classes[rest])) < classes.max() + 1:  # the only row of its class must stay
            lonely = np.setdiff1d(classes, classes[rest])
            part = part[~np.isin(classes[part], lonely)]
            rest = np.setdiff1d(order, part)
        if not len(part):
            continue
        reading = read_table(trained, X[rest], classes[rest], categorical=categorical, views=1, rng=rng, first=number)
        found.append((part, _mean(answer(reading, X[part]))))
    if not found:
        return None
    rows, probabilities = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, probabilities
