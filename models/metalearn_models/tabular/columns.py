"""What the columns of a table mean: numbers, or categories; and the table as numbers.

Neither pandas nor polars is imported. A frame is whatever has `columns` and gives a column for a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["LEVELS", "Columns", "as_numbers", "encode", "fit_columns", "holds_columns", "is_frame"]

LEVELS = 30
"""A category with more levels stays one column of numbers for a learner that knows numbers alone."""
_MISSING = ("NAType", "NaTType", "NoneType")


class Columns(NamedTuple):
    """The columns of the table that `fit` was given.

    Attributes:
        categorical: which columns hold categories.
        levels: of each column its categories, sorted, whose places are their codes; None: numbers.
        means: the mean of each column's known values, 0 if there are none.
    """

    categorical: Bool[np.ndarray, " F"]
    levels: tuple[tuple[Any, ...] | None, ...]
    means: Float[np.ndarray, " F"]


def is_frame(X: Any) -> bool:
    """Whether a value is a table with named columns, such as a DataFrame of pandas or polars."""
    return hasattr(X, "columns") and hasattr(X, "__getitem__") and not isinstance(X, np.ndarray)


def holds_columns(X: Any, categorical: Any) -> bool:
    """Whether a table must be encoded by column: a frame, or an array of objects some of which are categories."""
    if is_frame(X):
        return True
    named = categorical is not None and not isinstance(categorical, str) and len(categorical) > 0
    return named and isinstance(X, np.ndarray) and X.dtype.kind in "OUS" and X.ndim == 2


def fit_columns(X: Any, categorical_features: Any) -> Columns:
    """Learn which columns hold categories, and which.

    Args:
        X: a frame, or an array of numbers with NaN for missing values.
        categorical_features: as the argument of `InContextClassifier`.

    Raises:
        ValueError: columns that do not exist, a mask of another length, a word that means nothing here, or a column of
            a frame that holds neither numbers nor categories.
    """
    columns = _columns(X)
    names = [str(name) for name in X.columns] if is_frame(X) else None
    categorical = _choose(X, columns, names, categorical_features)
    levels = tuple(_levels(values) if of else None for values, of in zip(columns, categorical, strict=True))
    known = Columns(categorical, levels, np.zeros(len(columns)))
    encoded = encode(known, X)
    finite = np.isfinite(encoded)
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.where(finite, encoded / 2, 0.0).sum(0) / np.maximum(finite.sum(0), 1) * 2
    return known._replace(means=np.nan_to_num(means))


def encode(columns: Columns, X: Any) -> Float[np.ndarray, "N F"]:
    """Numbers as they are, categories as codes; NaN for what is missing and for categories that `fit` did not meet.

    Raises:
        ValueError: a value that is no number in a column of numbers; names the column.
    """
    if not is_frame(X) and not columns.categorical.any():
        return np.asarray(X, np.float64)
    encoded = []
    names = list(X.columns) if is_frame(X) else list(range(len(columns.levels)))
    for name, values, levels in zip(names, _columns(X), columns.levels, strict=True):
        if levels is None:
            encoded.append(_numbers(name, values))
        else:
            code = {level: i for i, level in enumerate(levels)}
            encoded.append([np.nan if _is_missing(value) else code.get(value, np.nan) for value in values])
    return np.stack([np.asarray(values, np.float64) for values in encoded], axis=1)


def as_numbers(columns: Columns, X: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N P"]:
    """For a learner that knows only numbers: a column per level of each category, means for missing numbers."""
    if not columns.categorical.any() and not np.isnan(X).any():
        return X
    parts = []
    for j, levels in enumerate(columns.levels):
        if levels is not None and 2 < len(levels) <= LEVELS:
            parts.append((X[:, j, None] == np.arange(len(levels))).astype(np.float64))
        else:
            parts.append(np.where(np.isnan(X[:, j]), columns.means[j], X[:, j])[:, None])
    return np.concatenate(parts, axis=1)


def _columns(X: Any) -> list[Any]:
    """The columns: of a frame as lists of Python values, of an array as arrays."""
    if not is_frame(X):
        return list(np.asarray(X).T)
    return [column.to_list() for column in _frame_columns(X)]


def _frame_columns(X: Any) -> list[Any]:
    """The columns of a frame by their places, since pandas allows several of one name."""
    if hasattr(X, "iloc"):
        return [X.iloc[:, j] for j in range(X.shape[1])]
    return [X[name] for name in X.columns]


def _choose(X: Any, columns: list[Any], names: list[str] | None, wanted: Any) -> Bool[np.ndarray, " F"]:
    """Which columns hold categories."""
    chosen = np.zeros(len(columns), bool)
    if isinstance(wanted, str):
        if wanted != "from_dtype":
            raise ValueError(
                'categorical_features must be "from_dtype", a mask, or positions or names of columns, got '
                f"{wanted!r}; a single name comes in a list"
            )
        if names is None:
            return chosen
        return np.array([_holds_categories(*pair) for pair in zip(_frame_columns(X), columns, strict=True)])
    listed = [] if wanted is None else list(wanted)
    if listed and all(isinstance(one, bool | np.bool_) for one in listed):
        if len(listed) != len(columns):
            raise ValueError(
                f"categorical_features is a mask of {len(listed)} columns, and the table has {len(columns)}"
            )
        return np.array(listed, bool)
    for one in listed:
        if isinstance(one, str):
            if names is None or one not in names:
                known = "no names" if names is None else f"the columns {', '.join(names)}"
                raise ValueError(f"categorical_features names the column {one!r}, and the table has {known}")
            chosen[names.index(one)] = True
        elif isinstance(one, int | np.integer) and -len(columns) <= one < len(columns):
            chosen[one] = True
        else:
            raise ValueError(f"categorical_features has {one!r}, and the table has the columns 0 to {len(columns) - 1}")
    return chosen


def _holds_categories(column: Any, values: Sequence[Any]) -> bool:
    dtype = str(column.dtype).lower()
    if dtype.startswith(("category", "categorical", "enum", "bool")):
        return True
    return any(isinstance(value, str | bool) for value in values)


def _levels(values: Any) -> tuple[Any, ...]:
    """The different values but for missing ones, sorted; values of several types by type and text."""
    found = {
        value for value in (values.tolist() if isinstance(values, np.ndarray) else values) if not _is_missing(value)
    }
    try:
        return tuple(sorted(found))
    except TypeError:
        return tuple(sorted(found, key=lambda value: (type(value).__name__, str(value))))


def _is_missing(value: Any) -> bool:
    return type(value).__name__ in _MISSING or (isinstance(value, float | np.floating) and bool(value != value))


def _numbers(name: Any, values: Any) -> Any:
    if isinstance(values, np.ndarray) and values.dtype.kind not in "OUS":
        return values
    try:
        return [np.nan if _is_missing(value) else float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"column {name!r} holds a value that is no number ({error}): name it in categorical_features if it holds "
            "categories"
        ) from error
