"""Columns of names and numbers as arrays: frames of pandas or polars, and the columns of a text file.

Neither library is imported. A frame is whatever has `columns` and gives a column for a name.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from jaxtyping import Float

MOST_CATEGORIES = 1000
"""A column of more different texts than this is an identifier or free text, and no category."""


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns, such as a DataFrame of pandas or polars."""
    return hasattr(value, "columns") and hasattr(value, "__getitem__") and not isinstance(value, np.ndarray)


def columns_of(frame: Any) -> dict[str, list[Any]]:
    """The columns of a frame by name, as lists of Python values."""
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"the columns of a frame need different names, got {twice[0]!r} more than once")
    return {str(name): as_list(frame[name]) for name in frame.columns}


def as_list(column: Any) -> list[Any]:
    """A column of any library, or an array, as a list."""
    for method in ("tolist", "to_list"):
        if hasattr(column, method):
            return getattr(column, method)()
    return list(column)


def encode_columns(columns: dict[str, list[Any]], where: str) -> Float[np.ndarray, "N D"]:
    """Make inputs of columns: numbers as they are; categories (texts, truth values) as one column of 0 and 1 each.

    Args:
        columns: values by the name of the column, all of the same length.
        where: what the columns belong to, for errors.

    Raises:
        ValueError: no columns; a missing value; a column with more than `MOST_CATEGORIES` texts.
    """
    if not columns:
        raise ValueError(f"{where} has no columns of inputs: it needs at least one beside the label")
    parts = []
    for name, values in columns.items():
        missing = [row for row, value in enumerate(values) if is_missing(value)]
        if missing:
            raise ValueError(
                f"column {name!r} of {where} has {len(missing)} missing values, the first in row {missing[0]}: "
                "fill them or leave their rows out"
            )
        if all(isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_) for value in values):
            parts.append(np.asarray(values, np.float64)[:, None])
            continue
        categories = sorted({str(value) for value in values})
        if len(categories) > MOST_CATEGORIES:
            raise ValueError(
                f"column {name!r} of {where} has {len(categories)} different texts, which is no category: leave it out"
            )
        if len(categories) == 2:  # One column says it all.
            categories = categories[1:]
        parts.append(np.array([[str(value) == category for category in categories] for value in values], np.float64))
    return np.concatenate(parts, axis=1)


def is_missing(value: Any) -> bool:
    """Whether a value of a column stands for none: None, NaN, an empty text, or pandas' NA."""
    if value is None or (isinstance(value, str) and not value.strip()) or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)
