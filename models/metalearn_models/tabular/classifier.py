"""A scikit-learn classifier around a meta-trained in-context learner: `fit` reads the rows, nothing is trained.

The face is that of TabPFN (Hollmann et al. 2022, arXiv 2207.01848). What columns mean is `columns.py`; how a learner
that reads sequences sees a table is `sequences.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from metalearn.errors import MetalearnError, RunError, unknown_name
from metalearn_models.learners import library as learners
from metalearn_models.tabular._programs import refuse_fork
from metalearn_models.tabular.cells import CellReader
from metalearn_models.tabular.columns import as_numbers
from metalearn_models.tabular.estimator import TableEstimator, number_of_views
from metalearn_models.tabular.sequences import SequenceReader
from metalearn_models.tabular.transformer import library as tables
from metalearn_models.tabular.transformer.library import TrainedTables

__all__ = ["SEQUENCE_VIEWS", "InContextClassifier", "load_learner"]

SEQUENCE_VIEWS = 16
"""Views of a learner that reads sequences if nothing is said."""


class InContextClassifier(ClassifierMixin, TableEstimator):
    """Classify a table by reading it: a meta-trained Transformer looks at the rows that `fit` is given.

    Made for small tables. There may be any number of features and classes. Features are numbers
    or categories, and values may be missing. Rows are predicted independently of one another. What happens depends on
    the weights.

    A Transformer for tables, whose tokens are cells, takes categories and missing values as such. A view holds up to
    1,024 rows and up to 64 columns. Views of a longer table share out its rows, the classes in proportion: eight views
    read all of up to 8,192 rows, and 8,192 of more. Of wider tables, views have in turn the columns that say most about
    the classes by themselves, leading principal components, columns at random, components. Where all columns share a
    unit, as pixels do, components may have statistics of each row's values beside them.
    From 100 rows on, rows that a view does not hold (if all hold all, a quarter at a time is left out of one more
    reading) calibrate the prediction: a temperature and a bias per class, and of wide tables a weight per kind of view.
    A view keeps about 1.6 kB per cell of its context: 26 MB for 1,000 rows of 16 columns. Time grows with these cells:
    `fit` of 200 rows of 16 columns takes .4 s of one core, of 2,000 rows of 3,000 columns 6 s, of 10,000 rows of 16
    columns 4.9 s and .8 GB in all.

    A learner that reads sequences knows the shapes that it was meta-trained for. A category of 3 to 30
    levels becomes a column per level, and is none of them where it is missing or was not met in `fit`. Other categories
    stay one column of numbers, and a missing number counts as the mean of its column.
    Up to the learner's context (63 rows for `digits-synthetic-16x10`) every view has all rows. Of a larger table

    - each view has a stratified sample, and up to 16 views are drawn to show every row to one of them;
    - each query also gets contexts of its own, of the 63 rows nearest to it, so that accuracy grows with the table;
    - up to 128 rows calibrate the prediction: each is predicted from contexts that do not hold it, and from these
      predictions the weights of both kinds of context and a bias per class are fitted.

    A prediction then takes about 2 ms of one core per row instead of .5 ms, for 100 rows of training as for 26,000
    rows of 54 features, whose `fit` takes 1.3 s and .6 GB; it does not depend on the other rows to the last bit.

    Args:
        weights: the meta-trained learner: a name of `metalearn_models.tabular.transformer.library.shipped()` or of
            `metalearn_models.learners.library.shipped()`, a safetensors file, or the folder of a run of
            `metalearn train`.
        categorical_features: which columns hold categories: "from_dtype" (in frames of pandas or polars the columns of
            categories, texts and truth values; in arrays none), a mask, or the positions or names of columns.
        n_estimators: number of views whose predictions are averaged; None: 8 of a Transformer for tables, 4 if there
            are more than 64 columns and 256 rows; 16 of another learner. A view of the one has random codes of classes
            and categories, of the other a random rotation of the features, random names of the classes, and a random
            order of the rows; both choose rows where they must.
        random_state: decides the views. The default 0 makes `fit` deterministic. None: NumPy's global generator
            decides, as everywhere in scikit-learn.

    Attributes:
        classes_: the labels, sorted.
        n_features_in_: number of features.
        feature_names_in_: their names, if `X` came with names.
        card_: what is known about the weights: configuration, seed, figures.
        n_views_: number of views in use, at least `n_estimators`.
        calibration_: weights of the sources of a prediction (the kinds of views; the nearest rows) and bias per class;
            None: there were too few rows.

    References:
        Kirsch, Harrison, Sohl-Dickstein, Metz 2022, arXiv 2212.04458; Hollmann et al. 2025, Nature 637.
    """

    def fit(self, X: Any, y: Any) -> InContextClassifier:
        """Show a table to the learner.

        Args:
            X: features, [N, F]: an array of numbers, in which NaN is a missing value, or a frame of pandas or polars.
            y: N labels of any kind that scikit-learn takes for classes, at least two different ones.

        Returns:
            The classifier itself.

        Raises:
            ValueError: `X` or `y` has the wrong shape, is empty, holds infinity, or there is only one class;
                `n_estimators` is not a positive integer; or the weights are unknown.
            RunError: the weights are damaged.
            RuntimeError: this process is a fork of one in which an `InContextClassifier` had run.
        """
        self._check_options()
        vars(self).pop("_reader", None)  # a fit that is refused leaves nothing that could answer
        X, y = self._check(X, y)
        check_classification_targets(y)
        self.classes_, classes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y needs at least 2 classes to tell apart, got 1 class ({self.classes_.tolist()[0]!r}) "
                f"in {len(y)} rows"
            )
        refuse_fork()
        trained = load_learner(self.weights)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        self._cells = isinstance(trained, TrainedTables)
        if isinstance(trained, TrainedTables):
            views = number_of_views(X, self.n_estimators)
            reader = CellReader(trained, X, self._columns.categorical, classes, views, rng)
        else:
            views = SEQUENCE_VIEWS if self.n_estimators is None else int(self.n_estimators)
            reader = SequenceReader(trained, as_numbers(self._columns, X), classes, views, rng)
        self._reader: Any = reader
        self.card_, self.n_views_ = trained.card, self._reader.views
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
        encoded = self._encode(X)
        return self._reader.predict_proba(encoded if self._cells else as_numbers(self._columns, encoded))

    def predict_variance(self, X: Any) -> Float[np.ndarray, "N K"]:
        """How unsure the classifier is of its probabilities: the variance of where they would settle with more rows.

        A probability of .5 with a variance near 0 is a fair coin; with a variance near .25 it is ignorance. It is read
        from how far each row of the context moved the prediction (Fortini et al. 2026, arXiv 2602.04596), as a mean
        over the views. Rows beyond the learner's context and the calibration are not in it. A Transformer for tables
        reads each view nine times for it.

        Args:
            X: features, [N, F], as in `fit`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: as `predict_proba`; or there are more classes than a learner of sequences has outputs; or a
                Transformer for tables has no more rows than classes.
            RuntimeError: as `predict_proba`.
        """
        check_is_fitted(self)
        encoded = self._encode(X)
        return self._reader.predict_variance(encoded if self._cells else as_numbers(self._columns, encoded))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row; arguments and errors as `predict_proba`."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(1)]


def load_learner(weights: str | os.PathLike[str]) -> TrainedTables | learners.TrainedLearner:
    """A Transformer for tables, or a learner that reads sequences.

    Args:
        weights: as of `InContextClassifier`.

    Raises:
        UnknownNameError, RunError: there are no such weights, or they are not of classes.
    """
    if str(weights) in tables.shipped():
        return tables.load(weights)
    if str(weights) not in learners.shipped():
        path = Path(weights).expanduser()
        if not str(weights) or (not path.exists() and path.suffix != ".safetensors"):
            raise unknown_name("weights", str(weights), (*tables.shipped(), *learners.shipped()), or_path=True)
        try:
            return tables.load(weights)
        except MetalearnError:  # it holds something else, or nothing; the other library says what
            pass
    trained = learners.load(weights)
    if trained.signature.regression:
        raise RunError(f"the learner of {weights} was meta-trained on regression: a classifier needs classes")
    return trained
