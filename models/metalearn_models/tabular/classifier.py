"""A scikit-learn classifier around a meta-trained in-context learner: `fit` reads the rows, nothing is trained.

The learner of GPICL (Kirsch et al. 2022, arXiv 2212.04458) reads labelled examples and predicts the next; the face
is that of TabPFN (Hollmann et al. 2022, arXiv 2207.01848): several views of the table (`ensemble.py`), their
predictions averaged. `fit` runs the context of each view through the learner once and keeps the learner's state, for a
Transformer its cache of keys and values; `predict_proba` only runs the new rows, each by itself.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from metalearn.errors import RunError
from metalearn.learner import Signature
from metalearn_models.learners.library import learner_for, load
from metalearn_models.tabular.views import draw_views, features_of, fit_features, inputs_of

__all__ = ["CHUNK", "GROUP", "InContextClassifier"]

GROUP = 8
"""Views that run together; the number of views is rounded up to a multiple with views that do not count."""
CHUNK = 256
"""The most rows of one call of the compiled prediction."""


class InContextClassifier(ClassifierMixin, BaseEstimator):
    """Classify a table by reading it: a meta-trained Transformer looks at the rows that `fit` is given.

    Made for small tables: up to the learner's context (63 rows for the shipped weights) every view sees all rows;
    beyond, each sees a stratified sample, there are as many views as it takes to show every row to one of them,
    and the time of `fit` and `predict` grows in proportion. There may be any number of features and classes. Rows
    are predicted independently of one another, to the last bit. Features are numbers; missing values are refused.

    Args:
        weights: the meta-trained learner: a name of `metalearn_models.learners.library.shipped()`, a safetensors
            file, or the folder of a run of `metalearn train`.
        n_estimators: number of views (random rotation, names of the classes, order and choice of the rows) whose
            predictions are averaged.
        random_state: decides the views. The default 0 makes `fit` deterministic; None draws from NumPy's global
            generator, as everywhere in scikit-learn.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: number of features.
        feature_names_in_: their names, when `X` came with names.
        card_: what is known about the weights: configuration, seed, figures.
        n_views_: number of views in use, at least `n_estimators`.

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
        """Show the learner a table.

        Args:
            X: features, [N, F], finite numbers.
            y: N labels of any kind that scikit-learn takes for classes, at least two different ones.

        Returns:
            The classifier itself.

        Raises:
            ValueError: `X` or `y` has the wrong shape, is empty, holds NaN or infinity, or there is only one class;
                `n_estimators` is not a positive integer; unknown weights.
            RunError: the weights are damaged.
        """
        if isinstance(self.n_estimators, bool) or not isinstance(self.n_estimators, int | np.integer):
            raise ValueError(f"n_estimators must be an integer, got {self.n_estimators!r}")
        if self.n_estimators < 1:
            raise ValueError(f"n_estimators must be at least 1, got {self.n_estimators}")
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, classes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y needs at least 2 classes to tell apart, got 1 class ({self.classes_[0]!r}) in {len(y)} rows"
            )
        pretrained = load(self.weights)
        signature = pretrained.signature
        if signature.regression:
            raise RunError(f"the learner of {self.weights} was meta-trained on regression: a classifier needs classes")
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._features = fit_features(X, signature.inputs)
        X, squares = features_of(self._features, X), self._features.squares is not None
        shapes = (signature.inputs, signature.outputs, signature.length)
        views = draw_views(X, squares, classes, shapes, int(self.n_estimators), rng)
        self.card_, self.n_views_ = pretrained.card, len(views.rows)
        self._labels = views.labels
        self._learner = (signature, pretrained.config, pretrained.theta)
        self._groups = []
        compiled = _compiled(signature, pretrained.config)
        for begin in range(0, self.n_views_, GROUP):
            which = np.minimum(np.arange(begin, begin + GROUP), self.n_views_ - 1)  # the last group is filled up
            self._groups.append(self._read(compiled, pretrained.theta, X, classes, views, which))
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "N K"]:
        """Probabilities of the classes, in the order of `classes_`.

        Args:
            X: features, [N, F], finite numbers.

        Raises:
            NotFittedError: before `fit`.
            ValueError: `X` has the wrong shape, is empty, or holds NaN or infinity.
        """
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.float64, reset=False)
        X = features_of(self._features, checked)
        return np.concatenate([self._predict_chunk(X[i : i + CHUNK]) for i in range(0, len(X), CHUNK)])

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row; arguments and errors as `predict_proba`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def _read(self, compiled: _Compiled, theta: Any, X: Any, classes: Any, views: Any, which: Any) -> _Group:
        """Run the contexts of a group of views through the learner."""
        signature = self._learner[0]
        rows, projection = views.rows[which], views.projection[which]
        count = rows.shape[1]
        xs = np.zeros((GROUP, signature.length, signature.inputs), np.float32)
        ys = np.zeros((GROUP, signature.length), np.int32)
        for view in range(GROUP):
            xs[view, :count] = inputs_of(projection[view : view + 1], X[rows[view]])[:, 0]
            ys[view, :count] = views.labels[which[view]][classes[rows[view]]]
        used = np.zeros((GROUP, signature.outputs), bool)
        np.put_along_axis(used, views.labels[which].astype(np.intp), True, axis=1)
        state = compiled.read(theta, xs, ys, np.int32(count))
        return _Group(projection, used, state)

    def _predict_chunk(self, X: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n K"]:
        signature, config, theta = self._learner
        compiled = _compiled(signature, config)
        merged = len(self.classes_) > signature.outputs
        total = np.zeros((len(X), len(self.classes_)))
        view = 0
        for group in self._groups:
            inputs = np.zeros((CHUNK, GROUP, signature.inputs), np.float32)
            inputs[: len(X)] = inputs_of(group.projection, X)
            log_probs = np.asarray(compiled.answer(theta, group.state, inputs, group.used, np.int32(len(X))))
            log_probs = log_probs[: len(X)].astype(np.float64)
            for i in range(min(GROUP, self.n_views_ - view)):
                value = log_probs[:, i, self._labels[view]]
                # A view that merged classes says only what a class is not: a product, where others are a mean.
                total += value if merged else np.exp(value)
                view += 1
        if merged:
            total = np.exp((total - total.max(1, keepdims=True)) * (_evidence(self._labels) / self.n_views_))
        return total / total.sum(1, keepdims=True)


def _evidence(labels: Int[np.ndarray, "M K"]) -> float:
    """How many views' worth of evidence the product over all views is given, where views merge classes.

    Views that see the same rows err together, so their product would be far too sure of itself, and their geometric
    mean, which is 1, too unsure: a view leaves the classes that it merged tied. Where all classes share their
    label, 4 came near the best log loss on Gaussian classes (26 and 100 of them); where none does, 1 is right.
    """
    sharing = np.mean([(row[:, None] == row[None]).sum(1) > 1 for row in labels])
    return 1.0 + 3.0 * float(sharing)


class _Group(NamedTuple):
    projection: Float[np.ndarray, "G D F"]
    used: Float[np.ndarray, "G C"]
    state: Any


class _Compiled(NamedTuple):
    read: Callable[..., Any]
    answer: Callable[..., Array]


@functools.lru_cache(maxsize=8)
def _compiled(signature: Signature, config: Any) -> _Compiled:
    """The two compiled functions of a learner; their shapes depend on nothing else, so they compile once a process."""
    learner = learner_for(signature, config)

    @jax.jit
    def read(theta: Any, xs: Float[Array, "G T D"], ys: Array, count: Array) -> Any:
        def one(xs: Array, ys: Array, key: Array) -> Any:
            def body(i: Array, state: Any) -> Any:
                return learner.observe(theta, state, xs[i], ys[i])

            return jax.lax.fori_loop(0, count, body, learner.start(theta, key))

        return jax.vmap(one)(xs, ys, jax.random.split(jax.random.key(0), xs.shape[0]))

    @jax.jit
    def answer(theta: Any, states: Any, xs: Float[Array, "N G D"], used: Array, count: Array) -> Float[Array, "N G C"]:
        # Row by row: the same instructions whatever the other rows, so that a prediction cannot depend on them.
        def body(i: Array, out: Array) -> Array:
            logits = jax.vmap(lambda state, x: learner.predict(theta, state, x))(states, xs[i])
            return out.at[i].set(jax.nn.log_softmax(jnp.where(used, logits, -jnp.inf)))

        return jax.lax.fori_loop(0, count, body, jnp.zeros((*xs.shape[:2], signature.outputs), jnp.float32))

    return _Compiled(read, answer)
