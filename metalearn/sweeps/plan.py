"""What a sweep runs: a list of cells, each a few named values, known before the first of them is run.

Grid and random search are both such lists: random values are drawn from the plan's seed and not by whichever worker
comes first, so what is run does not depend on how many workers there are, nor on which of them were killed.
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

Value = str | int | float | bool | None
Cell = dict[str, Value]
"""One run of a sweep: names and values."""

FORMAT = 1
_LONGEST = 100  # characters of a folder's name


class Plan(NamedTuple):
    """A sweep before anything is run.

    Attributes:
        name: what the sweep is called in its storage.
        config: everything else that decides its numbers; JSON values or dataclasses. A sweep of the same name with
            another config is refused.
        cells: what is run, each different from all others.
    """

    name: str
    config: Mapping[str, Any]
    cells: Sequence[Cell]

    def as_json(self) -> dict[str, Any]:
        """The plan as it is compared with one that is in a storage already."""
        digest = hashlib.sha256(json.dumps([dict(cell) for cell in self.cells]).encode()).hexdigest()
        cells = {"count": len(self.cells), "sha256": digest}
        return {"format": FORMAT, "name": self.name, "config": as_json(self.config), "cells": cells}


class Range(NamedTuple):
    """Values between two ends, both included, for random search.

    Attributes:
        low: the least.
        high: the greatest.
        log: uniform in the logarithm.
        integer: rounded to whole numbers.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False


def grid(axes: Mapping[str, Sequence[Value]]) -> list[Cell]:
    """Every combination of the values of the axes, the last axis fastest.

    Raises:
        ValueError: an axis without values, or one that names a value twice.
    """
    for name, values in axes.items():
        if not values:
            raise ValueError(f"the axis {name} of the grid has no values")
        if len(set(map(repr, values))) < len(values):
            raise ValueError(f"the axis {name} of the grid names a value twice: {', '.join(map(str, values))}")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sampled(axes: Mapping[str, Range | Sequence[Value]], trials: int, seed: int) -> list[Cell]:
    """Random search: `trials` independent draws from ranges and from lists of values.

    Cell i depends on the seed and on i alone, so more trials of the same seed go on from fewer.

    Raises:
        ValueError: no trial, an empty list, or a range that is empty or has a logarithm of 0.
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
            raise ValueError(f"a range in logarithms begins above 0, {name} begins at {axis.low}")
        elif axis.integer and not (float(axis.low).is_integer() and float(axis.high).is_integer()):
            raise ValueError(f"a range of whole numbers has whole ends, {name} goes from {axis.low} to {axis.high}")

    def draw(axis: Range | Sequence[Value], rng: np.random.Generator) -> Value:
        if not isinstance(axis, Range):
            return axis[int(rng.integers(len(axis)))]
        low, high = (math.log(axis.low), math.log(axis.high)) if axis.log else (axis.low, axis.high)
        value = rng.uniform(low, high)
        value = math.exp(value) if axis.log else value
        value = round(value) if axis.integer else float(f"{value:.6g}")  # six digits can be read, and are enough
        value = min(max(value, axis.low), axis.high)
        return int(value) if axis.integer else float(value)

    def cell(trial: int) -> Cell:
        rng = np.random.default_rng([seed, trial])
        return {name: draw(axis, rng) for name, axis in axes.items()}

    return [cell(trial) for trial in range(trials)]


def cell_name(cell: Cell) -> str:
    """A name for the cell that can be a folder's: `tasks-64,seed-3`; a hash goes in where that does not do."""
    plain = ",".join(f"{key.rpartition('.')[2]}-{_shown(value)}" for key, value in cell.items())
    name = re.sub(r"[^A-Za-z0-9.,+_-]", "_", plain)
    # two cells may not share a name for what it leaves out
    rounded = any(isinstance(value, float) and float(_shown(value)) != value for value in cell.values())
    if name == plain and len(name) <= _LONGEST and name and not rounded:
        return name
    digest = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:10]
    return f"{name[: _LONGEST - 11]}~{digest}"


def named_cells(cells: Sequence[Cell]) -> dict[str, Cell]:
    """The cells by name.

    Raises:
        ValueError: there is none, or two have the same name.
    """
    if not cells:
        raise ValueError("the sweep has no cells: nothing would be run")
    named: dict[str, Cell] = {}
    for cell in cells:
        name = cell_name(cell)
        if name in named:
            raise ValueError(f"two cells are called {name}, {named[name]} and {cell}: each must be there once")
        named[name] = cell
    return named


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
