"""A table as the Transformer for tables reads it: views with other codes, out-of-bag calibration.

`transformer/core.py` reads and answers. Here its views become one prediction: the mean of their probabilities, then a
temperature and a bias per class that were fitted on rows which a view did not hold (`calibration.py`). Where every view
holds all rows, further readings leave a part of them out, and are used for nothing else.

Of a table with more columns than a view shows there are kinds of views, and what tells classes apart may be in one of
them alone. So the mean is taken per kind, and the kinds are pooled with weights that were fitted on the same rows.
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
        calibration: weight per kind of view and bias per class; None: there were too few rows.
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
                self.calibration = fit_calibration(probabilities, classes[rows])
        # As NumPy arrays: to unpickle these in another process does not start JAX there.
        self._fitted = fitted._replace(memories=jax.device_get(fitted.memories))
        self._rows = X, classes

    def predict_proba(self, X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n K"]:
        """Probabilities of the classes for rows, each by itself."""
        refuse_fork()
        log_probs = answer(self._fitted, X)
        if self.calibration is None:
            return _mean(log_probs)
        kinds = _kinds(self._fitted)
        return calibrate(self.calibration, _mean_by_kind(log_probs, kinds, np.unique(kinds)))

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


def _kinds(fitted: Fitted) -> Int[np.ndarray, " V"]:
    return np.array([view.kind for view in fitted.views])


def _mean_by_kind(
    log_probs: Float[np.ndarray, "V n K"],
    kinds: Int[np.ndarray, " V"],
    wanted: Int[np.ndarray, " S"],
    counted: Bool[np.ndarray, "V n"] | None = None,
) -> Float[np.ndarray, "S n K"]:
    """The mean of each kind of view; of all views for a kind of which there is none."""
    found = []
    for kind in wanted:
        chosen = kinds == kind if kind in kinds else np.ones(len(kinds), bool)
        found.append(_mean(log_probs[chosen], None if counted is None else counted[chosen]))
    return np.stack(found)


def _predict_left_out(
    trained: TrainedTables,
    X: np.ndarray,
    categorical: np.ndarray,
    classes: np.ndarray,
    fitted: Fitted,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows, and per kind of view their probabilities from contexts that do not hold them; None: there are none such."""
    kinds = _kinds(fitted)
    wanted = np.unique(kinds)
    free = np.flatnonzero(np.all([(~fitted.shown[kinds == kind]).any(0) for kind in wanted], 0))
    if len(free) >= min(LEAST_ROWS, len(X) // 4):  # fewer could not fit the weights of several kinds
        rows = rng.permutation(free)[:CALIBRATION_ROWS]
        counted = ~fitted.shown[:, rows]
        return rows, _mean_by_kind(answer(fitted, X[rows], counted), kinds, wanted, counted)
    found, order = [], rng.permutation(len(X))
    parts = np.array_split(order, _FOLDS)
    if len(wanted) > 1:  # a part is read once per kind; few parts have rows enough
        parts = parts[: max(1, round(CALIBRATION_ROWS / len(parts[0])))]
    for number, part in enumerate(parts):
        rest = np.setdiff1d(order, part)
        if len(np.unique(classes[rest])) < classes.max() + 1:  # the only row of its class must stay
            lonely = np.setdiff1d(classes, classes[rest])
            part = part[~np.isin(classes[part], lonely)]
            rest = np.setdiff1d(order, part)
        if not len(part):
            continue
        first = number % len(kinds) if len(wanted) == 1 else 0  # readings as the views that they calibrate
        reading = read_table(
            trained, X[rest], classes[rest], categorical=categorical, views=len(wanted), rng=rng, first=first
        )
        found.append((part, _mean_by_kind(answer(reading, X[part]), _kinds(reading), wanted)))
    if not found:
        return None
    rows, probabilities = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(probabilities, 1)
