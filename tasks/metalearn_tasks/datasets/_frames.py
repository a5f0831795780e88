"""Columns of names and numbers as arrays: frames of pandas or polars, and the columns of a text file.

Neither library is imported. A frame is whatever has `columns` and gives a column for a name.
"""

from __future__ import annotations

import decimal
import math
import numbers
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

MOST_CATEGORIES = 1000
"""A column of more different texts than this is an identifier or free text, and no category."""


def is_frame(value: Any) -> bool:
    """Whether a value is a table with named columns, such as a DataFrame of pandas or polars.

    Raises:
        ValueError: a lazy frame, which has no values yet.
    """
    if hasattr(value, "collect_schema") and hasattr(value, "collect") and not hasattr(value, "__len__"):
        raise ValueError("got a lazy frame, which has no values yet: give its .collect()")
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


class Encoding(NamedTuple):
    """How columns become inputs: for each name its categories in order; None: the column holds numbers."""

    categories: dict[str, tuple[str, ...] | None]


def encode_splits(splits: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Make arrays of the inputs that are frames. Columns and categories are those of the first split.

    Raises:
        ValueError: a column that cannot be encoded, or other columns in a later split.
    """
    encoding, encoded = None, {}
    for split, (inputs, labels) in splits.items():
        if is_frame(inputs):
            columns, where = columns_of(inputs), f"the {split} inputs"
            encoding = fit_encoding(columns, where) if encoding is None else encoding
            inputs = encode(encoding, columns, where)
        encoded[split] = (inputs, labels)
    return encoded


def fit_encoding(columns: dict[str, list[Any]], where: str) -> Encoding:
    """Decide which columns hold numbers and which hold categories (texts, truth values).

    Args:
        columns: values by the name of the column, all of the same length.
        where: what the columns belong to, for errors.

    Raises:
        ValueError: no columns; a missing value, or one that is neither number nor text; a column with more than
            `MOST_CATEGORIES` texts.
    """
    if not columns:
        raise ValueError(f"{where} has no columns of inputs: it needs at least one beside the label")
    found: dict[str, tuple[str, ...] | None] = {}
    for name, values in columns.items():
        _check_values(name, values, where)
        if all(_is_number(value) for value in values):
            found[name] = None
            continue
        categories = tuple(sorted({str(value) for value in values}))
        if len(categories) > MOST_CATEGORIES:
            raise ValueError(
                f"column {name!r} of {where} has {len(categories)} different texts, which is no category: leave it out"
            )
        found[name] = categories
    return Encoding(found)


def encode(encoding: Encoding, columns: dict[str, list[Any]], where: str) -> Float[np.ndarray, "N D"]:
    """Make inputs of columns: numbers as they are; categories as one column of 0 and 1 each, two of them as one column.

    A text that is none of the categories has 0 in all of their columns, or one half in the column of two categories.

    Args:
        encoding: of the training examples.
        columns: values by the name of the column, in any order.
        where: what the columns belong to, for errors.

    Raises:
        ValueError: other names of columns than in the encoding; a missing value; a text where there were numbers.
    """
    if columns.keys() != encoding.categories.keys():
        lacking = [name for name in encoding.categories if name not in columns]
        more = [name for name in columns if name not in encoding.categories]
        words = [f"lacks {', '.join(map(repr, lacking))}"] * bool(lacking)
        words += [f"has {', '.join(map(repr, more))} too"] * bool(more)
        raise ValueError(f"{where} must have the columns of the training inputs, but {' and '.join(words)}")
    parts = []
    for name, categories in encoding.categories.items():
        values = columns[name]
        _check_values(name, values, where)
        if categories is None:
            text = next((value for value in values if not _is_number(value)), None)
            if text is not None:
                raise ValueError(f"column {name!r} of {where} holds {text!r}, the training inputs have numbers there")
            parts.append(np.asarray(values, np.float64)[:, None])
            continue
        number = {category: i for i, category in enumerate(categories)}
        codes = np.array([number.get(str(value), -1) for value in values])
        if len(categories) == 2:
            parts.append(np.where(codes < 0, 0.5, codes)[:, None])
        else:
            parts.append((codes[:, None] == np.arange(len(categories))).astype(np.float64))
    return np.concatenate(parts, axis=1)


def _check_values(name: str, values: list[Any], where: str) -> None:
    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if missing:
        raise ValueError(
            f"column {name!r} of {where} has {len(missing)} missing values, the first in row {missing[0]}: "
            "fill them or leave their rows out"
        )
    other = next(
        (value for value in values if not (_is_number(value) or isinstance(value, str | bool | np.bool_))), None
    )
    if other is not None:
        raise ValueError(
            f"column {name!r} of {where} holds a {type(other).__name__}, {other!s:.40}: make numbers or texts of it, "
            "or leave it out"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real | decimal.Decimal) and not isinstance(value, bool | np.bool_)


def is_missing(value: Any) -> bool:
    """Whether a value of a column stands for none: None, NaN, an empty text, or pandas' NA."""
    if value is None or (isinstance(value, str) and not value.strip()) or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and math.isnan(value)
