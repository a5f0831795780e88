"""A scikit-learn classifier around a meta-trained in-context learner: `fit` reads the rows, nothing is trained.

The face is that of TabPFN (Hollmann et al. 2022, arXiv 2207.01848). What columns mean is `columns.py`; how a learner
that reads sequences sees a table is `sequences.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from metalearn.errors import RunError
from metalearn_models.learners.library import load, shipped
from metalearn_models.tabular.columns import as_numbers, encode, fit_columns, holds_columns
from metalearn_models.tabular.sequences import SequenceReader

__all__ = ["InContextClassifier"]

_ALLOW_NAN: Any = "allow-nan"  # scikit-learn's annotation knows only truth values


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
    predicted independently of one another, to the last bit. Missing values (NaN, None) count as the mean of their
    column; a category becomes a column per level, and is none of them where it is missing or was not met in `fit`.

    Args:
        weights: the meta-trained learner: a name of `metalearn_models.learners.library.shipped()`, a safetensors
            file, or the folder of a run of `metalearn train`.
        categorical_features: which columns hold categories: "from_dtype" (in frames of pandas or polars the columns of
            categories, texts and truth values; in arrays none), a mask, or the positions or names of columns.
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
        categorical_features: str | Sequence[int] | Sequence[str] | Sequence[bool] | np.ndarray | None = "from_dtype",
        n_estimators: int = 16,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.weights = weights
        self.categorical_features = categorical_features
        self.n_estimators = n_estimators
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> InContextClassifier:
        """Show a table to the learner.

        Args:
            X: features, [N, F]: an array of numbers, in which NaN is a missing value, or a frame of pandas or polars.
            y: N labels of any kind that scikit-learn takes for classes, at least two different ones.

        Returns:
            The classifier itself.

        Raises:
            ValueError: `X` or `y` has the wrong shape, is empty, holds infinity, or there is only one class;

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
        X, y = self._check(X, y)
        check_classification_targets(y)
        self.classes_, classes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y needs at least 2 classes to tell apart, got 1 class ({self.classes_.tolist()[0]!r}) "
                f"in {len(y)} rows"
            )
        pretrained = load(self.weights)
        if pretrained.signature.regression:
            raise RunError(f"the learner of {self.weights} was meta-trained on regression: a classifier needs classes")
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._reader = SequenceReader(pretrained, as_numbers(self._columns, X), classes, int(self.n_estimators), rng)
        self.card_, self.n_views_ = pretrained.card, self._reader.views
        self.calibration_ = self._reader.calibration
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "N K"]:
        """Probabilities of the classes, in the order of `classes_`.

        Args:
            X: features, [N, F], as in `fit`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: `X` has the wrong shape, is empty, or holds infinity.
            RuntimeError: this process is a fork of one in which an `InContextClassifier` had run.
        """
        check_is_fitted(self)
        return self._reader.predict_proba(as_numbers(self._columns, self._encode(X)))

    def predict_variance(self, X: Any) -> Float[np.ndarray, "N K"]:
        """How unsure the classifier is of its probabilities: the variance of where they would settle with more rows.

        A probability of .5 with a variance near 0 is a fair coin; with a variance near .25 it is ignorance. It is read
        from how far each row of the context moved the prediction (Fortini et al. 2026, arXiv 2602.04596), as a mean
        over the views. Rows beyond the learner's context and the calibration are not in it.

        Args:
            X: features, [N, F], as in `fit`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: as `predict_proba`; or there are more classes than the learner has outputs.
            RuntimeError: as `predict_proba`.
        """
        check_is_fitted(self)
        return self._reader.predict_variance(as_numbers(self._columns, self._encode(X)))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row; arguments and errors as `predict_proba`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]

    def __sklearn_tags__(self) -> Any:
        """See scikit-learn: missing values are allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check(self, X: Any, y: Any) -> tuple[Float[np.ndarray, "N F"], np.ndarray]:
        """Refuse what is no table, and learn the columns."""
        if holds_columns(X, self.categorical_features):
            validate_data(self, X, skip_check_array=True)
            y = column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite=_ALLOW_NAN)
        self._columns = fit_columns(X, self.categorical_features)
        return check_array(encode(self._columns, X), ensure_all_finite=_ALLOW_NAN), y

    def _encode(self, X: Any) -> Float[np.ndarray, "N F"]:
        raw = holds_columns(X, np.flatnonzero(self._columns.categorical))
        checked: Any = validate_data(
            self, X, dtype=np.float64, reset=False, skip_check_array=raw, ensure_all_finite=_ALLOW_NAN
        )
        return check_array(encode(self._columns, checked), ensure_all_finite=_ALLOW_NAN)
