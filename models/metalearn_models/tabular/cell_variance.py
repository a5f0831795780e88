"""How unsure a Transformer for tables is of its own probabilities, from its predictions after a part of the rows.

Fortini, Ng, Petrone, Rousseau and Wei 2026 (arXiv 2602.04596); the formula is `step_variance` of
`metalearn.epistemic_variance`. Such a learner reads a table at once. So every view reads the rows in an order of its
own, first half of them, then ever more, and answers after each reading. The result is a mean over views, so over
orders. A class has its first row at the beginning, since a class without a row is no answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from metalearn.epistemic_variance import step_variance
from metalearn_models.tabular.transformer.core import Fitted, answer, read_view, show_rows
from metalearn_models.tabular.transformer.library import TrainedTables
from metalearn_models.tabular.transformer.views import View

__all__ = ["STEPS", "answers_along", "variance_of_readings"]

STEPS = 8
"""The most steps between readings; our choice."""


def variance_of_readings(
    trained: TrainedTables,
    views: Sequence[View],
    xs: Float[np.ndarray, "n F"],
    ys: Int[np.ndarray, " n"],
    queries: Float[np.ndarray, "N F"],
) -> Float[np.ndarray, "N K"]:
    """The mean over views of the variances.

    Args:
        trained: the learner.
        views: of the table.
        xs: training rows.
        ys: their classes, 0 to K - 1.
        queries: rows.

    Raises:
        ValueError: all rows of a view are needed for it to know every class, so that there are no two readings.
    """
    found = []
    for number, view in enumerate(views):
        order = _order(ys[view.rows], np.random.default_rng(number))
        classes = int(ys.max()) + 1
        counts = _counts(len(order), classes)
        found.append(step_variance(answers_along(trained, view, xs, ys, view.rows[order], counts, queries), counts))
    return np.mean(found, 0)


def answers_along(
    trained: TrainedTables,
    view: View,
    xs: Float[np.ndarray, "n F"],
    ys: Int[np.ndarray, " n"],
    rows: Int[np.ndarray, " m"],
    counts: Int[np.ndarray, " J"],
    queries: Float[np.ndarray, "N F"],
) -> Float[np.ndarray, "J N K"]:
    """Probabilities of the classes of the queries after the first rows, for several numbers of rows.

    Args:
        trained: the learner.
        view: how the table is shown.
        xs: training rows.
        ys: their classes, 0 to K - 1.
        rows: the order in which they are read.
        counts: after how many of them the queries are asked.
        queries: rows.
    """
    found, classes = [], int(ys.max()) + 1
    for count in counts:
        labels = np.where(np.arange(len(rows)) < count, ys[rows], -1)  # the shapes stay, so one program reads all
        memory = read_view(trained, show_rows(view, xs[rows], labels))
        fitted = Fitted(trained, (view,), (memory,), np.zeros((1, len(xs)), bool), classes)
        found.append(np.exp(answer(fitted, queries)[0].astype(np.float64)))
    return np.stack(found)


def _order(ys: Int[np.ndarray, " m"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """A random order that begins with a row of each class."""
    order = rng.permutation(len(ys))
    first = np.sort(np.unique(ys[order], return_index=True)[1])
    return np.concatenate([order[first], np.delete(order, first)])


def _counts(rows: int, classes: int) -> Int[np.ndarray, " J"]:
    """From half of the rows, or from a row per class, to all of them."""
    first = max(rows // 2, classes)
    if first >= rows:
        raise ValueError(
            f"a variance needs more rows than classes: a view has {rows} rows, and each of {classes} classes needs one"
        )
    return np.unique(np.linspace(first, rows, STEPS + 1).astype(int))
