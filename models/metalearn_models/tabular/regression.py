"""A table with numbers as targets, as a Transformer for tables reads it; the method is in `regressor.py`.

Views show columns as they are, and principal components only where there are more columns than a view shows: on
`make_friedman1` and diabetes views without components had an R² of .849 and .507, with 200 rows, those of the
classifier .806 and .491, and their four fifths of the predicted distributions held .70 and .60 of the targets.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn_models.tabular._programs import refuse_fork
from metalearn_models.tabular.linear import Line, fit_line, follow
from metalearn_models.tabular.transformer.core import Fitted, read_table, weigh_rows
from metalearn_models.tabular.transformer.library import TrainedTables

__all__ = ["BINS", "QUERIES", "SHARPNESS", "ResidualReader", "cut"]

BINS = 5
"""Classes of residuals. 3 and 8 were about as good, and 2 worse, on `make_friedman1`, 2, 3 and diabetes."""
SHARPNESS = 2.0
"""Weights of rows are raised to this power: the learner knows nothing of an order of classes, and gives too much to far
ones. 1.5 to 3 were about as good on the tables named above, and 1 worse; at 3, four fifths of the predicted
distributions held only three quarters of the targets."""
QUERIES = 256
"""So many rows are predicted at once."""


class ResidualReader:
    """A table that was read: a line, and the views of a Transformer for tables, of what the line left.

    Attributes:
        line: for targets of mean 0 and deviation 1.
        middle: mean of the targets.
        scale: their deviation; 1 if they are all equal.
    """

    line: Line
    middle: float
    scale: float

    def __init__(
        self,
        trained: TrainedTables,
        X: Float[np.ndarray, "N F"],
        numbers: Float[np.ndarray, "N P"],
        categorical: Bool[np.ndarray, " F"],
        y: Float[np.ndarray, " N"],
        n_estimators: int,
        rng: np.random.Generator,
    ):
        """Read a table.

        Args:
            trained: the learner.
            X: features; NaN for a missing value, codes for categories.
            numbers: the same as numbers alone, none missing.
            categorical: which columns of X hold categories.
            y: targets.
            n_estimators: number of views.
            rng: all randomness.
        """
        refuse_fork()
        largest = float(np.abs(y).max()) or 1.0  # divided by first, so that no square overflows
        deviation = float((y / largest).std())
        self.middle = float((y / largest).mean() * largest)
        self.scale = deviation * largest if deviation > 1e-14 else 1.0
        target = (y - self.middle) / self.scale if deviation > 1e-14 else np.zeros(len(y))
        self.line, guesses = fit_line(numbers, target)
        self._left = target - guesses
        table, names = np.column_stack([X, guesses]), np.append(categorical, False)
        views = []
        for number in range(n_estimators):
            classes = cut(self._left, (number + 0.5) / n_estimators - 0.5, rng)
            fitted = read_table(
                trained, table, classes, categorical=names, views=1, rng=rng, first=number, turned=False
            )
            # As NumPy arrays: to unpickle these in another process does not start JAX there.
            views.append(fitted._replace(memories=jax.device_get(fitted.memories)))
        self._views: list[Fitted] = views

    def distributions(
        self, X: Float[np.ndarray, "n F"], numbers: Float[np.ndarray, "n P"]
    ) -> Iterator[tuple[Float[np.ndarray, " c"], Float[np.ndarray, "c N"], Float[np.ndarray, " N"]]]:
        """For some rows after others: the line's prediction, a weight per training row, and what the line left of each.

        The predicted distribution of a row has these weights at the sums of the first and of the last. The unit is a
        deviation of the targets, from their mean.
        """
        refuse_fork()
        for begin in range(0, len(X), QUERIES):
            part = slice(begin, begin + QUERIES)
            base = follow(self.line, numbers[part])
            table = np.column_stack([X[part], base])
            weights = np.zeros((len(base), len(self._left)))
            for fitted in self._views:
                found = weigh_rows(fitted, 0, table)
                found = (found / found.max(1, keepdims=True)) ** SHARPNESS
                weights[:, fitted.views[0].rows] += found / found.sum(1, keepdims=True) / len(self._views)
            yield base, weights, self._left


def cut(values: Float[np.ndarray, " n"], shift: float, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """The classes of values, 0 and up, at least two: `BINS` of equal size, or one more if `shift` moves the edges.

    Args:
        values: at least two; equal ones are put in a random order.
        shift: of the edges, as a part of a class, between -1/2 and 1/2.
        rng: all randomness.
    """
    order = np.lexsort((rng.random(len(values)), values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(len(values)) + 0.5
    return np.unique(np.floor(ranks / len(values) * BINS + shift), return_inverse=True)[1]
