"""What the scikit-learn estimators around in-context learners share: their options, and the tables that they take."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length
from sklearn.utils.validation import column_or_1d, validate_data

from metalearn_models.learners import library as learners
from metalearn_models.tabular.columns import encode, fit_columns, holds_columns
from metalearn_models.tabular.transformer import library as tables

__all__ = ["CELL_VIEWS", "LONG", "WIDE", "WIDE_VIEWS", "TableEstimator", "number_of_views"]

CELL_VIEWS = 8
"""Views of a Transformer for tables if nothing is said."""
WIDE_VIEWS = 4
"""Views of it, if nothing is said, of a table with more than `WIDE` columns and more than `LONG` rows: eight take twice
the time and decide no better."""
WIDE = 64
"""Columns; of more, a view shows some."""
LONG = 256
"""Rows; with fewer, eight views are read in less than a second."""

_ALLOW_NAN: Any = "allow-nan"  # scikit-learn's annotation knows only truth values


def number_of_views(X: Float[np.ndarray, "N F"], n_estimators: int | None) -> int:
    """How many views of a table a Transformer for tables reads."""
    usual = WIDE_VIEWS if X.shape[1] > WIDE and len(X) > LONG else CELL_VIEWS
    return usual if n_estimators is None else int(n_estimators)


class TableEstimator(BaseEstimator):
    """Options of an estimator of tables, see `InContextClassifier`."""

    def __init__(
        self,
        weights: str | os.PathLike[str] = "tables",
        *,
        categorical_features: str | Sequence[int] | Sequence[str] | Sequence[bool] | np.ndarray | None = "from_dtype",
        n_estimators: int | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.weights = weights
        self.categorical_features = categorical_features
        self.n_estimators = n_estimators
        self.random_state = random_state

    def __sklearn_is_fitted__(self) -> bool:
        """Whether a table was read."""
        return hasattr(self, "_reader")

    def __sklearn_tags__(self) -> Any:
        """See scikit-learn: missing values are allowed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _check_options(self) -> None:
        """Refuse options that mean nothing."""
        if self.n_estimators is not None:
            if isinstance(self.n_estimators, bool) or not isinstance(self.n_estimators, int | np.integer):
                raise ValueError(f"n_estimators must be an integer or None, got {self.n_estimators!r}")
            if self.n_estimators < 1:
                raise ValueError(f"n_estimators must be at least 1, got {self.n_estimators}")
        if not isinstance(self.weights, str | os.PathLike):
            names = ", ".join((*tables.shipped(), *learners.shipped()))
            raise ValueError(
                f"weights must be a name ({names}), a safetensors file or the folder of a run, got {self.weights!r}"
            )

    def _check(
        self, X: Any, y: Any, *, numeric: bool = False, least: int = 1
    ) -> tuple[Float[np.ndarray, "N F"], np.ndarray]:
        """Refuse what is no table, and learn the columns; `numeric`: y must be numbers; `least`: so many rows."""
        if holds_columns(X, self.categorical_features):
            validate_data(self, X, skip_check_array=True)
            y = column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        else:
            X, y = validate_data(
                self,
                X,
                y,
                dtype=np.float64,
                ensure_all_finite=_ALLOW_NAN,
                y_numeric=numeric,
                ensure_min_samples=least,
            )
        if numeric:
            dtype: Any = np.float64
            y = np.asarray(check_array(y, ensure_2d=False, dtype=dtype, input_name="y"))
        self._columns = fit_columns(X, self.categorical_features)
        X = check_array(encode(self._columns, X), ensure_all_finite=_ALLOW_NAN, ensure_min_samples=least)
        return X, y

    def _encode(self, X: Any) -> Float[np.ndarray, "N F"]:
        raw = holds_columns(X, np.flatnonzero(self._columns.categorical))
        checked: Any = validate_data(
            self, X, dtype=np.float64, reset=False, skip_check_array=raw, ensure_all_finite=_ALLOW_NAN
        )
        return check_array(encode(self._columns, checked), ensure_all_finite=_ALLOW_NAN)
