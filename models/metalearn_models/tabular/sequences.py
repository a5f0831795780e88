"""A table in the shapes of a learner that reads sequences: views of it, contexts of the nearest rows, calibration.

The learner of GPICL (Kirsch et al. 2022, arXiv 2212.04458) reads labelled examples and predicts the next one. As in
TabPFN (Hollmann et al. 2022, arXiv 2207.01848), several views of the table are read (`views.py`) and their predictions
averaged. Reading keeps the learner's state per view, for a Transformer its cache of keys and values. A prediction then
runs only the new rows, each by itself.

Of a table with more rows than a context holds, each view has a sample. Each query then also gets contexts of its own,
of the rows nearest to it (`nearest.py`). Rows that a context did not hold say how much either is worth, and how
probable the classes are (`calibration.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn_models.learners.library import TrainedLearner
from metalearn_models.tabular._programs import Programs, programs
from metalearn_models.tabular.calibration import Calibration, calibrate, fit_calibration
from metalearn_models.tabular.epistemic import variance_of_views
from metalearn_models.tabular.nearest import nearest_rows, show
from metalearn_models.tabular.pooling import by_class, outputs_in_use, pool
from metalearn_models.tabular.views import (
    Views,
    draw_looks,
    draw_views,
    features_of,
    fit_features,
    inputs_of,
    reduce,
)

__all__ = ["CALIBRATION_ROWS", "CHUNK", "GROUP", "NEAREST", "SequenceReader"]

GROUP = 8
"""Views that run together; the last group is filled up with views that do not count."""
CHUNK = 256
"""The most rows of one call of the compiled prediction."""
NEAREST = 4
"""Views of the context of nearest rows that each query has."""
CALIBRATION_ROWS = 128
"""The most rows that the calibration is fitted on."""


class SequenceReader:
    """A table that a learner of sequences has read.

    Attributes:
        calibration: weights of the views and of the nearest rows, and bias per class; None: the table fits into the
            context, and no row is left to calibrate on.
        views: number of views in use, at least as many as asked for.
    """

    calibration: Calibration | None
    views: int

    def __init__(
        self,
        pretrained: TrainedLearner,
        X: Float[np.ndarray, "N F"],
        classes: Int[np.ndarray, " N"],
        n_estimators: int,
        rng: np.random.Generator,
    ):
        """Read a table.

        Args:
            pretrained: the learner.
            X: finite features.
            classes: 0 to K - 1, each with a row.
            n_estimators: number of views at least.
            rng: all randomness.

        Raises:
            RuntimeError: this process is a fork of one in which a reader had run.
        """
        signature = pretrained.signature
        compiled = programs(signature, pretrained.config)
        self._features = fit_features(X, signature.inputs)
        X, squares = features_of(self._features, X), self._features.squares is not None
        shapes = (signature.inputs, signature.outputs, signature.length)
        views = draw_views(X, squares, classes, shapes, n_estimators, rng)
        self.views = len(views.rows)
        self._axes, self._labels = views.axes, views.labels
        self._learner = (signature, pretrained.config, pretrained.theta)
        z = reduce(views.axes, X)
        self._groups = []
        for begin in range(0, self.views, GROUP):
            which = np.minimum(np.arange(begin, begin + GROUP), self.views - 1)  # the last group is filled up
            self._groups.append(self._read(compiled, z, classes, views, which))
        self._table, self.calibration = None, None
        if len(z) >= signature.length:
            self._table = _draw_table(z, squares, classes, shapes, rng)
            shown = np.stack([np.isin(np.arange(len(z)), rows) for rows in views.rows])
            rows = rng.permutation(np.flatnonzero(~shown.all(0)))[:CALIBRATION_ROWS]
            self.calibration = fit_calibration(self._predict_reduced(z[rows], rows, shown[:, rows]), classes[rows])

    def predict_proba(self, X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n K"]:
        """Probabilities of the classes for rows, each by itself."""
        found = self._predict_reduced(reduce(self._axes, features_of(self._features, X)))
        return found[0] if self.calibration is None else calibrate(self.calibration, found)

    def predict_variance(self, X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n K"]:
        """How much the probabilities of the views would still change with more rows, see `epistemic.py`."""
        z = reduce(self._axes, features_of(self._features, X))
        return variance_of_views(self._learner, self._groups, self._labels[: self.views], z)

    def _read(self, compiled: Programs, z: Any, classes: Any, views: Views, which: Any) -> _Group:
        """Run the contexts of a group of views through the learner."""
        signature, _, theta = self._learner
        rows, projection = views.rows[which], views.projection[which]
        count = rows.shape[1]
        xs = np.zeros((GROUP, signature.length, signature.inputs), np.float32)
        ys = np.zeros((GROUP, signature.length), np.int32)
        for view in range(GROUP):
            xs[view, :count] = inputs_of(projection[view : view + 1], z[rows[view]])[:, 0]
            ys[view, :count] = views.labels[which[view]][classes[rows[view]]]
        # As NumPy arrays: to unpickle these in another process does not start JAX there.
        state = jax.device_get(compiled.read(theta, xs, ys, np.int32(count)))
        used = outputs_in_use(views.labels[which], signature.outputs)
        return _Group(projection, used, state, xs[:, :count], ys[:, :count])

    def _predict_reduced(
        self,
        z: Float[np.ndarray, "n k"],
        own: Int[np.ndarray, " n"] | None = None,
        shown: Bool[np.ndarray, "M n"] | None = None,
    ) -> Float[np.ndarray, "S n K"]:
        """Probabilities by the views and, if the table is larger than a context, by the nearest rows.

        Args:
            z: reduced features of the queries.
            own: the rows of the table that the queries are, to be left out of their contexts. None: others.
            shown: which views do not count because they hold the query. None: all views count.
        """
        compiled = programs(*self._learner[:2])
        outputs, chunks = self._learner[0].outputs, range(0, len(z), CHUNK)
        log_probs = np.concatenate([self._ask_views(compiled, z[i : i + CHUNK]) for i in chunks], axis=1)
        counted = np.ones(log_probs.shape[:2], bool) if shown is None else ~shown
        sources = [pool(log_probs, counted, self._labels, outputs)]
        if self._table is not None:
            left_out = np.full(len(z), -1) if own is None else own
            asked = [self._ask_nearest(compiled, z[i : i + CHUNK], left_out[i : i + CHUNK]) for i in chunks]
            log_probs = np.concatenate(asked, axis=1)
            sources.append(pool(log_probs, np.ones(log_probs.shape[:2], bool), self._table.labels, outputs))
        return np.stack(sources)

    def _ask_views(self, compiled: Programs, z: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "M n K"]:
        signature, _, theta = self._learner
        found = []
        for group in self._groups:
            inputs = np.zeros((CHUNK, GROUP, signature.inputs), np.float32)
            inputs[: len(z)] = inputs_of(group.projection, z)
            log_probs = np.asarray(compiled.answer(theta, group.state, inputs, group.used, np.int32(len(z))))
            found += [log_probs[: len(z), view] for view in range(GROUP)]
        return by_class(found[: self.views], self._labels)

    def _ask_nearest(
        self, compiled: Programs, z: Float[np.ndarray, "n k"], own: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "V n K"]:
        signature, _, theta = self._learner
        table = self._table
        assert table is not None
        xs = np.zeros((CHUNK, NEAREST, signature.length, signature.inputs), np.float32)
        ys = np.zeros((CHUNK, NEAREST, signature.length), np.int32)
        for i, query in enumerate(z):
            rows = nearest_rows(
                table.places, table.squares, query[: table.places.shape[1]], signature.length - 1, own[i]
            )
            xs[i] = show(table.projection, table.z[rows], query)
            ys[i, :, :-1] = table.labels[:, table.classes[rows]]
        allowed = outputs_in_use(table.labels, signature.outputs)
        log_probs = np.asarray(compiled.ask(theta, xs, ys, allowed, np.int32(len(z))))
        return by_class([log_probs[: len(z), view] for view in range(NEAREST)], table.labels)


class _Group(NamedTuple):
    projection: Float[np.ndarray, "G D k"]
    used: Bool[np.ndarray, "G C"]
    state: Any
    xs: Float[np.ndarray, "G n D"]  # what was read
    ys: Int[np.ndarray, "G n"]


class _Table(NamedTuple):
    """All rows of a table, and the views in which the nearest of them are shown."""

    z: Float[np.ndarray, "N k"]
    places: Float[np.ndarray, "N p"]  # what nearness is measured in: z without squares
    squares: Float[np.ndarray, " N"]  # of the lengths of places
    classes: Int[np.ndarray, " N"]
    projection: Float[np.ndarray, "V D k"]
    labels: Int[np.ndarray, "V K"]


def _draw_table(
    z: Float[np.ndarray, "N k"],
    squares: bool,
    classes: Int[np.ndarray, " N"],
    shapes: tuple[int, int, int],
    rng: np.random.Generator,
) -> _Table:
    plain = z.shape[1] // 2 if squares else z.shape[1]
    widths = (min(plain, shapes[0]), z.shape[1])
    projection, labels = draw_looks(z, widths, int(classes.max()) + 1, shapes, NEAREST, rng)
    places = np.ascontiguousarray(z[:, :plain])
    return _Table(z, places, np.square(places).sum(1), classes, projection, labels)
