"""Which rows of a large table the views show: rows are dealt out, so that views together read as many as they can.

Shapes: n rows of the table, m rows of a view, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from metalearn_models.tabular.views import stratified_order

__all__ = ["deal_rows"]


def deal_rows(ys: Int[np.ndarray, " n"], rows: int, rng: np.random.Generator) -> Iterator[Int[np.ndarray, " m"]]:
    """The rows of one view after another, without end, in the order of the table.

    All rows are dealt before one is dealt again. Each view has a row of each class, and classes have about their
    shares in it. A row of a class with fewer rows than views comes more often: it is what these views know of the
    class.

    Args:
        ys: classes, 0 to K - 1, each of which occurs.
        rows: a view has so many, or all there are, but one per class at least.
        rng: all randomness.
    """
    size, classes = min(max(rows, int(ys.max()) + 1), len(ys)), int(ys.max()) + 1
    waiting = np.empty(0, np.intp)
    while True:
        places = _first_places(waiting)
        if len(places) < size or len(np.unique(ys[waiting])) < classes:
            waiting = np.concatenate([waiting, stratified_order(ys, rng)])
            places = _first_places(waiting)
        needed = places[np.unique(ys[waiting[places]], return_index=True)[1]]
        others = np.setdiff1d(places, needed)
        taken = np.concatenate([needed, others[: size - classes]])
        yield np.sort(waiting[taken])
        waiting = np.delete(waiting, taken)


def _first_places(waiting: Int[np.ndarray, " w"]) -> Int[np.ndarray, " u"]:
    """Where each row that waits is found first."""
    return np.sort(np.unique(waiting, return_index=True)[1])
