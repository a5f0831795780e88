"""What a sweep runs: a list of cells, each a few named values, fixed before the first of them is run.

Grid and random search both give such a list. Random values are drawn from a seed in advance and not by the workers, so
what is run depends neither on the number of workers nor on which of them are killed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metalearn.runs.json_values import as_json

__all__ = ["FORMAT", "Cell", "Plan", "Range", "Value", "cell_name", "cells_by_name", "grid", "random_search"]

Value = str | int | float | bool | None
"""A value of a cell."""

Cell = dict[str, Value]
"""One run of a sweep: names and values."""

FORMAT = 1
"""Version of the form of a plan in a storage."""

_LONGEST = 100  # characters of a folder's name


class Plan(NamedTuple):
    """A sweep before anything is run.

    Attributes:
        name: the sweep's name in its storage.
        config: everything else that decides its numbers, as JSON values or dataclasses. A sweep of the same name with
            another config is refused.
        cells: what is run; no two are equal.
    """

    name: str
    config: Mapping[str, Any]
    cells: Sequence[Cell]

    def as_json(self) -> dict[str, Any]:
        """The JSON values by which the plan is compared with one that is already in a storage."""
        digest = hashlib.sha256(json.dumps([dict(cell) for cell in self.cells]).encode()).hexdigest()
        cells = {"count": len(self.cells), "sha256": digest}
        return {"format": FORMAT, "name": self.name, "config": as_json(self.config), "cells": cells}


class Range(NamedTuple):
    """An interval for random search, both ends included.

    Attributes:
        low: the least value.
        high: the greatest value.
        log: whether values are drawn uniformly in their logarithm.
        integer: whether values are rounded to integers.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False


def grid(axes: Mapping[str, Sequence[Value]]) -> list[Cell]:
    """All combinations of the values of the axes; the last axis varies fastest.

    Raises:
        ValueError: an axis has no values, or has a value twice.
    """
    for name, values in axes.items():
        if not values:
            raise ValueError(f"the axis {name} of the grid has no values")
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"the axis {name} of the grid has a value twice: {', '.join(map(str, values))}")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def random_search(axes: Mapping[str, Range | Sequence[Value]], trials: int, seed: int) -> list[Cell]:
    """Draw `trials` independent cells from ranges and lists of values.

    Cell i depends on the seed and on i alone, so a search with more trials begins with the cells of one with fewer.

    Raises:
        ValueError: there is no trial, a list is empty, a range is empty, a range in logarithms does not begin above 0,
            or a range of integers has other ends.
    """
    if trials < 1:
        raise ValueError(f"random search needs at least 1 trial, got {trials}")
    for name, axis in axes.items():
        if not isinstance(axis, Range):
            if not axis:
                raise ValueError(f"the axis {name} has no values")
        elif not (math.isfinite(axis.low) and math.isfinite(axis.high) and axis.low < axis.high):
            raise ValueError(
                f"the range of {name} must go from a lower to a higher number, got {axis.low}..{axis.high}"
            )
        elif axis.log and axis.low <= 0:
            raise ValueError(f"a range in logarithms must begin above 0, {name} begins at {axis.low}")
        elif axis.integer and not (float(axis.low).is_integer() and float(axis.high).is_integer()):
            raise ValueError(f"a range of integers must have integer ends, {name} goes from {axis.low} to {axis.high}")

    def draw(axis: Range | Sequence[Value], rng: np.random.Generator) -> Value:
        if not isinstance(axis, Range):
            return axis[int(rng.integers(len(axis)))]
        low, high = (math.log(axis.low), math.log(axis.high)) if axis.log else (axis.low, axis.high)
        value = rng.uniform(low, high)
        value = math.exp(value) if axis.log else value
        value = round(value) if axis.integer else float(f"{value:.6g}")  # six digits are readable and enough
        value = min(max(value, axis.low), axis.high)
        return int(value) if axis.integer else float(value)

    def cell(trial: int) -> Cell:
        rng = np.random.default_rng([seed, trial])
        return {name: draw(axis, rng) for name, axis in axes.items()}

    return [cell(trial) for trial in range(trials)]


def cell_name(cell: Cell) -> str:
    """A name for a cell that can name a folder: `batch-64,seed-3`, with a hash if that is too long or ambiguous."""
    plain = ",".join(f"{key.rpartition('.')[2]}-{_format_value(value)}" for key, value in cell.items())
    name = re.sub(r"[^A-Za-z0-9.,+_-]", "_", plain)
    # Two cells that differ in digits that the name omits must not share it.
    rounded = any(isinstance(value, float) and float(_format_value(value)) != value for value in cell.values())
    if name == plain and len(name) <= _LONGEST and name and not rounded:
        return name
    digest = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:10]
    return f"{name[: _LONGEST - 11]}~{digest}"


def cells_by_name(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The cells by their names.

    Raises:
        ValueError: there are no cells, or two have the same name.
    """
    if not cells:
        raise ValueError("the sweep has no cells, so there is nothing to run")
    named: dict[str, Cell] = {}
    for cell in cells:
        name = cell_name(cell)
        if name in named:
            raise ValueError(f"two cells are called {name}, {named[name]} and {cell}: each cell may be there only once")
        named[name] = cell
    return named


def _format_value(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
