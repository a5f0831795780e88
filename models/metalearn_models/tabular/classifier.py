"""A scikit-learn classifier around a meta-trained in-context learner: `fit` reads the rows, nothing is trained.

The learner of GPICL (Kirsch et al. 2022, arXiv 2212.04458) reads labelled examples and predicts the next one. The face
is that of TabPFN (Hollmann et al. 2022, arXiv 2207.01848): several views of the table (`views.py`), whose predictions
are averaged. `fit` runs the context of each view through the learner once and keeps the learner's state, for a
Transformer its cache of keys and values. `predict_proba` then runs only the new rows, each by itself.

Of a table with more rows than a context holds, each view has a sample. Each query then also gets contexts of its own,
of the rows nearest to it (`nearest.py`). Rows that a context did not hold say how much either is worth, and how
probable the classes are (`calibration.py`).
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from metalearn.errors import RunError
from metalearn_models.learners.library import load, shipped
from metalearn_models.tabular._programs import Programs, programs
from metalearn_models.tabular.calibration import calibrate, fit_calibration
from metalearn_models.tabular.nearest import nearest_rows, show
from metalearn_models.tabular.pooling import by_class, outputs_in_use, pool
from metalearn_models.tabular.views import draw_looks, draw_views, features_of, fit_features, inputs_of, reduce

__all__ = ["CALIBRATION_ROWS", "CHUNK", "GROUP", "NEAREST", "InContextClassifier"]

GROUP = 8
"""Views that run together; the last group is filled up with views that do not count."""
CHUNK = 256
"""The most rows of one call of the compiled prediction."""
NEAREST = 4
"""Views of the context of nearest rows that each query has."""
CALIBRATION_ROWS = 128
"""The most rows that the calibration is fitted on."""


class InContextClassifier(ClassifierMixin, BaseEstimator):
    """Classify a table by reading it: a meta-trained Transformer looks at the rows that `fit` is given.

    Made for small tables. Up to the learner's context (63 rows for the shipped weights) every view has all rows. Of a
    larger table

    - each view has a stratified sample, and up to 16 views are drawn to show every row to one of them;
    - each query also gets contexts of its own, of the 63 rows nearest to it, so that accuracy grows with the table;
    - up to 128 rows calibrate the prediction: each is predicted from contexts that do not hold it, and from these
      predictions the weights of both kinds of context and a bias per class are fitted.

    A prediction then takes about 2 ms of one core per row instead of .5 ms, for 100 rows of training as for 26,000
    rows of 54 features, whose `fit` takes 1.3 s and .6 GB. There may be any number of features and classes. Rows are
    predicted independently of one another, to the last bit. Features are numbers; missing values are refused.

    Args:
        weights: the meta-trained learner: a name of `metalearn_models.learners.library.shipped()`, a safetensors
            file, or the folder of a run of `metalearn train`.
        n_estimators: number of views whose predictions are averaged. A view is a random rotation of the features, and
            random names of the classes, order and choice of the rows.
        random_state: decides the views. The default 0 makes `fit` deterministic. None: NumPy's global generator
            decides, as everywhere in scikit-learn.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: number of features.
        feature_names_in_: their names, if `X` came with names.
        card_: what is known about the weights: configuration, seed, figures.
        n_views_: number of views in use, at least `n_estimators`.
        calibration_: weights of the views and of the nearest rows, and bias per class; None: the table fits into the
            context, and no row is left to calibrate on.

    References:
        Kirsch, Harrison, Sohl-Dickstein, Metz 2022, arXiv 2212.04458.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] = "digits-synthetic-16x10",
        *,
        n_estimators: int = 16,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.weights = weights
        self.n_estimators = n_estimators
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> InContextClassifier:
        """Show a table to the learner.

        Args:
            X: features, [N, F], finite numbers.
            y: N labels of any kind that scikit-learn takes for classes, at least two different ones.

        Returns:
            The classifier itself.

        Raises:
            ValueError: `X` or `y` has the wrong shape, is empty, holds NaN or infinity, or there is only one class;
                `n_estimators` is not a positive integer; unknown weights.
            RunError: the weights are damaged.
            RuntimeError: this process is a fork of one in which an `InContextClassifier` had run.
        """
        if isinstance(self.n_estimators, bool) or not isinstance(self.n_estimators, int | np.integer):
            raise ValueError(f"n_estimators must be an integer, got {self.n_estimators!r}")
        if self.n_estimators < 1:
            raise ValueError(f"n_estimators must be at least 1, got {self.n_estimators}")
        if not isinstance(self.weights, str | os.PathLike):
            raise ValueError(
                f"weights must be a name ({', '.join(shipped())}), a safetensors file or the folder of a run, "
                f"got {self.weights!r}"
            )
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, classes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y needs at least 2 classes to tell apart, got 1 class ({self.classes_.tolist()[0]!r}) "
                f"in {len(y)} rows"
            )
        pretrained = load(self.weights)
        signature = pretrained.signature
        if signature.regression:
            raise RunError(f"the learner of {self.weights} was meta-trained on regression: a classifier needs classes")
        compiled = programs(signature, pretrained.config)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._features = fit_features(X, signature.inputs)
        X, squares = features_of(self._features, X), self._features.squares is not None
        shapes = (signature.inputs, signature.outputs, signature.length)
        views = draw_views(X, squares, classes, shapes, int(self.n_estimators), rng)
        self.card_, self.n_views_ = pretrained.card, len(views.rows)
        self._axes, self._labels = views.axes, views.labels
        self._learner = (signature, pretrained.config, pretrained.theta)
        z = reduce(views.axes, X)
        self._groups = []
        for begin in range(0, self.n_views_, GROUP):
            which = np.minimum(np.arange(begin, begin + GROUP), self.n_views_ - 1)  # the last group is filled up
            self._groups.append(self._read(compiled, z, classes, views, which))
        self._table, self.calibration_ = None, None
        if len(z) >= signature.length:
            self._table = _draw_table(z, squares, classes, shapes, rng)
            shown = np.stack([np.isin(np.arange(len(z)), rows) for rows in views.rows])
            rows = rng.permutation(np.flatnonzero(~shown.all(0)))[:CALIBRATION_ROWS]
            self.calibration_ = fit_calibration(self._predict_reduced(z[rows], rows, shown[:, rows]), classes[rows])
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "N K"]:
        """Probabilities of the classes, in the order of `classes_`.

        Args:
            X: features, [N, F], finite numbers.

        Raises:
            NotFittedError: before `fit`.
            ValueError: `X` has the wrong shape, is empty, or holds NaN or infinity.
            RuntimeError: this process is a fork of one in which an `InContextClassifier` had run.
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.float64, reset=False)
        z = reduce(self._axes, features_of(self._features, checked))
        found = self._predict_reduced(z)
        return found[0] if self.calibration_ is None else calibrate(self.calibration_, found)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row; arguments and errors as `predict_proba`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def _read(self, compiled: Programs, z: Any, classes: Any, views: Any, which: Any) -> _Group:
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
        return _Group(projection, outputs_in_use(views.labels[which], signature.outputs), state)

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
        return by_class(found[: self.n_views_], self._labels)

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
