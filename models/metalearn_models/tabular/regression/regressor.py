"""A scikit-learn regressor around a Transformer for tables that was meta-trained on classes.

Ridge regression predicts first (`line.py`). What it leaves, row by row when each row is left out, is cut into classes
at its quantiles, and the learner reads the table with these classes. Its decoder is an attention over the training
rows, so that its answer for a query is a weight per training row: a distribution over what the line left of them, moved
by the line's prediction for the query. The prediction of the line is also one more column of the table.

Each view has edges of its own, so that the mean over views tells apart more than the classes of one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from metalearn_models.tabular._programs import refuse_fork
from metalearn_models.tabular.classifier import load_learner
from metalearn_models.tabular.columns import as_numbers
from metalearn_models.tabular.estimator import TableEstimator, number_of_views
from metalearn_models.tabular.regression.reader import ResidualReader
from metalearn_models.tabular.transformer import library as tables
from metalearn_models.tabular.transformer.library import TrainedTables

__all__ = ["InContextRegressor"]


class InContextRegressor(RegressorMixin, TableEstimator):
    """Predict a number by reading a table: a line by ridge regression, and what a meta-trained Transformer adds to it.

    A Gaussian process with a length scale per column was better from 200 rows on, on each table that was tried: six
    with 200 rows, two of them real, in about the same time, and four with 1,000 rows, in seven times the time
    (`python -m experiments regression`).

    Made for small tables. The Transformer is that of `InContextClassifier` and was meta-trained on classes alone; it is
    shown in which fifth of the targets' distances from the line a training row is. There may be any number of features,
    which are numbers or categories, and values may be missing: for the line a category is a column per level, and a
    missing number the mean of its column. Rows are predicted independently of one another. A view holds up to 1,024
    rows and up to 64 columns; time and memory are about those of the classifier.

    Args:
        weights: a Transformer for tables: a name of `metalearn_models.tabular.transformer.library.shipped()`, a
            safetensors file, or the folder of a run of `metalearn train tables`.
        categorical_features: as of `InContextClassifier`.
        n_estimators: number of views; None: 8, and 4 if there are more than 64 columns and 256 rows.
        random_state: decides the views. The default 0 makes `fit` deterministic. None: NumPy's global generator
            decides.

    Attributes:
        n_features_in_: number of features.
        feature_names_in_: their names, if `X` came with names.
        card_: what is known about the weights.
        n_views_: number of views in use.
        penalty_: of the ridge regression, per row.
        sharpness_: the power that weights of training rows are raised to, chosen by cross-validation from 20 rows on.

    References:
        Hollmann et al. 2025, Nature 637 (regression by a distribution over targets). The line, the classes of its
        residuals and the weights of rows are ours.
    """

    def fit(self, X: Any, y: Any) -> InContextRegressor:
        """Show a table to the learner.

        Args:
            X: features, [N, F]: an array of numbers, in which NaN is a missing value, or a frame of pandas or polars.
            y: N numbers, at least two.

        Returns:
            The regressor itself.

        Raises:
            ValueError: `X` or `y` has the wrong shape, has fewer than two rows, or holds infinity; `y` holds NaN;
                `n_estimators` is not a positive integer; the weights are unknown or not of a Transformer for tables.
            RunError: the weights are damaged.
            RuntimeError: this process is a fork of one in which such an estimator had run.
        """
        self._check_options()
        vars(self).pop("_reader", None)  # a fit that is refused leaves nothing that could answer
        X, y = self._check(X, y, numeric=True, least=2)
        refuse_fork()
        trained = load_learner(self.weights)
        if not isinstance(trained, TrainedTables):
            raise ValueError(
                f"weights must be of a Transformer for tables, such as {', '.join(tables.shipped())}, got "
                f"{str(self.weights)!r}, a learner that reads sequences"
            )
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        views = number_of_views(X, self.n_estimators)
        categorical = self._columns.categorical
        reader = ResidualReader(trained, X, as_numbers(self._columns, X), categorical, y, views, rng)
        self.card_, self.n_views_ = trained.card, views
        self.penalty_, self.sharpness_ = reader.line.penalty, reader.sharpness
        self._reader = reader
        return self

    def predict(
        self, X: Any, return_std: bool = False
    ) -> Float[np.ndarray, " N"] | tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """The mean of each row's predicted distribution, and with `return_std` its standard deviation too.

        Args:
            X: features, [N, F], as in `fit`.
            return_std: also return standard deviations of targets, in the unit of `y`.

        Raises:
            NotFittedError: before `fit`.
            ValueError: `X` has the wrong shape, is empty, or holds infinity.
            RuntimeError: this process is a fork of one in which such an estimator had run.
        """
        means, deviations = [], []
        for base, weights, left in self._distributions(X):
            shift = weights @ left
            means.append(base + shift)
            deviations.append(np.sqrt(np.maximum(weights @ np.square(left) - np.square(shift), 0.0)))
        scale, middle = self._reader.scale, self._reader.middle
        mean = np.concatenate(means) * scale + middle
        return (mean, np.concatenate(deviations) * scale) if return_std else mean

    def predict_quantiles(
        self, X: Any, quantiles: Sequence[float] | np.ndarray = (0.1, 0.5, 0.9)
    ) -> Float[np.ndarray, "N Q"]:
        """Quantiles of each row's predicted distribution.

        Args:
            X: features, [N, F], as in `fit`.
            quantiles: between 0 and 1.

        Raises:
            NotFittedError, RuntimeError: as `predict`.
            ValueError: as `predict`, or a quantile is not between 0 and 1.
        """
        wanted = np.asarray(quantiles, np.float64)
        if wanted.ndim != 1 or not len(wanted) or not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"quantiles must be a list of numbers between 0 and 1, got {quantiles!r}")
        found = []
        for base, weights, left in self._distributions(X):
            order = np.argsort(left, kind="stable")
            sums = np.cumsum(weights[:, order], 1)
            places = (sums[:, None] < wanted[None, :, None] * sums[:, -1:, None]).sum(2)
            found.append(base[:, None] + left[order][np.minimum(places, len(left) - 1)])
        return np.concatenate(found) * self._reader.scale + self._reader.middle

    def _distributions(self, X: Any) -> Iterator[tuple[Any, Any, Any]]:
        check_is_fitted(self)
        encoded = self._encode(X)
        yield from self._reader.distributions(encoded, as_numbers(self._columns, encoded))
