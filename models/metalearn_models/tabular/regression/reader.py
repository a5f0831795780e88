"""A table with numbers as targets, as a Transformer for tables reads it; the method is in `regressor.py`.

Views show columns as they are, and principal components only where there are more columns than a view shows: in a
trial on `make_friedman1` and diabetes views without components were better than those of the classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn_models.tabular._programs import refuse_fork
from metalearn_models.tabular.regression.line import Line, fit_line, follow
from metalearn_models.tabular.transformer.core import Fitted, read_table, weigh_rows
from metalearn_models.tabular.transformer.library import TrainedTables

__all__ = ["BINS", "LEAST_ROWS", "QUERIES", "SHARPNESSES", "USUAL", "ResidualReader", "cut", "ranked_loss", "sharpen"]

BINS = 5
"""Classes of residuals. 3 and 8 were about as good, and 2 worse, on `make_friedman1`, 2, 3 and diabetes."""
SHARPNESSES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
"""Powers of the weights of rows that are tried. The learner knows nothing of an order of classes and gives much to far
ones, so that some power above 1 is best unless there is little to know."""
USUAL = 2.0
"""The power with fewer than `LEAST_ROWS` rows."""
LEAST_ROWS = 20
"""So many rows choose the power by cross-validation: each fold is read once, as many folds as have `ASKED` rows."""
FOLDS, ASKED = 4, 256
QUERIES = 256
"""So many rows are predicted at once."""


class ResidualReader:
    """A table that was read: a line, and the views of a Transformer for tables, of what the line left.

    Attributes:
        line: for targets of mean 0 and deviation 1.
        middle: mean of the targets.
        scale: their deviation; 1 if they are all equal.
        sharpness: the power of the weights of rows.
    """

    line: Line
    sharpness: float
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
        table, names = np.column_stack([X, follow(self.line, numbers)]), np.append(categorical, False)

        def read(rows: Int[np.ndarray, " m"], number: int, of: int) -> Fitted:
            classes = cut(self._left[rows], (number + 0.5) / of - 0.5, rng)
            return read_table(
                trained, table[rows], classes, categorical=names, views=1, rng=rng, first=number, turned=False
            )

        # As NumPy arrays: to unpickle these in another process does not start JAX there.
        views = [read(np.arange(len(y)), number, n_estimators) for number in range(n_estimators)]
        self._views = [fitted._replace(memories=jax.device_get(fitted.memories)) for fitted in views]
        self.sharpness = USUAL if len(y) < LEAST_ROWS else self._choose(table, read, rng)

    def _choose(
        self, table: Float[np.ndarray, "N F"], read: Callable[[Any, int, int], Fitted], rng: np.random.Generator
    ) -> float:
        """The power with the least ranked loss on rows that a reading did not hold."""
        order, losses = rng.permutation(len(table)), np.zeros(len(SHARPNESSES))
        parts = np.array_split(order, FOLDS)
        for number, part in enumerate(parts[: max(1, round(ASKED / len(parts[0])))]):
            rest = np.setdiff1d(order, part)
            fitted, part = read(rest, number, FOLDS), part[:ASKED]
            weights, values = weigh_rows(fitted, 0, table[part]), self._left[rest[fitted.views[0].rows]]
            for which, power in enumerate(SHARPNESSES):
                losses[which] += ranked_loss(sharpen(weights, power), values, self._left[part]).sum()
        return SHARPNESSES[int(np.argmin(losses))]

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
                found = sharpen(weigh_rows(fitted, 0, table), self.sharpness)
                weights[:, fitted.views[0].rows] += found / len(self._views)
            yield base, weights, self._left


def sharpen(weights: Float[np.ndarray, "n m"], power: float) -> Float[np.ndarray, "n m"]:
    """Weights to a power, which again add up to 1 per row."""
    found = (weights / weights.max(1, keepdims=True)) ** power
    return found / found.sum(1, keepdims=True)


def ranked_loss(
    weights: Float[np.ndarray, "n m"], values: Float[np.ndarray, " m"], truths: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The continuous ranked probability score of weighted values (Gneiting & Raftery 2007), lower is better.

    The integral over z of (F(z) - 1{truth <= z})² for the distribution function F, in the unit of the values.
    """
    order = np.argsort(values)
    below = np.cumsum(weights[:, order], 1)[:, :-1]
    apart = (below * (1 - below)) @ np.diff(values[order])  # half the mean distance of two draws
    return (weights * np.abs(values[None] - truths[:, None])).sum(1) - apart


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
