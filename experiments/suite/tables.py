"""Tables of results as text, and numbers and intervals read from a result.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.suite.intervals import SeedInterval

__all__ = ["format_columns", "format_estimate", "read_interval", "read_number", "read_numbers"]


def read_number(value: float | None, missing: float = float("nan")) -> float:
    """A number of a result.json; `missing` if it is null, which stands for NaN and infinity."""
    return missing if value is None else float(value)


def read_numbers(values: Iterable[float | None], missing: float = float("inf")) -> Float[np.ndarray, "N"]:
    """The numbers of a list in a result.json; `missing` where they are null, such as the losses of diverged runs."""
    return np.array([read_number(value, missing) for value in values], np.float64)


def read_interval(row: Mapping[str, Any]) -> SeedInterval:
    """The interval under the keys "mean", "low", "high" and "diverged" of a result.json; null becomes NaN."""
    return SeedInterval(*(np.asarray(read_number(row[key])) for key in SeedInterval._fields))


def format_estimate(interval: Sequence[float | None], form: str = ".3f") -> str:
    """An estimate [value, low, high] of a result.json as text: `0.751 [0.739, 0.763]`.

    The ends are left out where one of them is unknown (null, infinite or NaN); "undefined" where the value is.
    """
    value, low, high = map(read_number, interval)
    if not np.isfinite(value):
        return "undefined"
    return f"{value:{form}}" + (f" [{low:{form}}, {high:{form}}]" if np.isfinite([low, high]).all() else "")


def format_columns(rows: Sequence[str], columns: Mapping[str, Sequence[str]], corner: str = "") -> str:
    """A table with aligned columns of text.

    Args:
        rows: names of the rows, at the left.
        columns: one cell per row, by the name of the column.
        corner: text above the names of the rows.
    """
    left = max(len(corner), *(len(row) for row in rows))
    widths = {name: max(len(name), *(len(cell) for cell in cells)) for name, cells in columns.items()}
    lines = [corner.ljust(left) + "".join(f"  {name:>{width}}" for name, width in widths.items())]
    for i, row in enumerate(rows):
        lines.append(row.ljust(left) + "".join(f"  {columns[name][i]:>{width}}" for name, width in widths.items()))
    return "\n".join(lines)
