"""A sweep of meta-trainings: its axes, the configuration of each cell, its results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from metalearn.recipes.in_context.config import TrainConfig, from_json
from metalearn.recipes.in_context.run import meta_train
from metalearn.runs.progress import Silent
from metalearn.sweeps import Cell, Range, Record, Report, cell_name
from metalearn_tasks.families.regression import RegressionConfig


def axes(grid_words: Sequence[str], random_words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The axes of the grid and those of random search, by field.

    Raises:
        ValueError: a word that is no FIELD=..., a field that is named twice, or an empty range.
    """
    fixed: dict[str, Any] = {}
    free: dict[str, Any] = {}
    for kind, words, found in (("grid", grid_words, fixed), ("random", random_words, free)):
        for word in words:
            field, equals, values = word.partition("=")
            if not (field and equals and values):
                raise ValueError(f"--{kind} takes FIELD=VALUE,VALUE,... such as learner.width=32,64, got {word!r}")
            field = field.strip("-").replace("_", "-")
            if field in fixed or field in free:
                raise ValueError(f"the field {field} is swept twice")
            low, dots, high = values.partition("..")
            if not dots:
                found[field] = values.split(",")
            elif kind == "grid":
                raise ValueError(f"--grid takes a list of values, got the range {word!r}: give it to --random")
            else:
                high, colon, scale = high.partition(":")
                if colon and scale != "log":
                    raise ValueError(f"a range is LOW..HIGH or LOW..HIGH:log, got {word!r}")
                try:
                    whole = low.lstrip("-").isdigit() and high.lstrip("-").isdigit()
                    found[field] = Range(float(low), float(high), bool(colon), whole)
                except ValueError:
                    raise ValueError(f"the ends of a range are numbers, got {word!r}") from None
    return fixed, free


def configured(base: TrainConfig, cell: Cell) -> TrainConfig:
    """The configuration of a cell: `base` with the cell's fields, read as `metalearn train` reads them.

    Raises:
        ValueError: a field or value that the command line does not have; the reason is on stderr.
    """
    words = [word for field, value in cell.items() for word in (f"--{field}", str(value))]
    try:
        return tyro.cli(TrainConfig, default=base, args=words, prog="metalearn train")
    except SystemExit as error:
        raise ValueError(f"the cell {cell_name(cell)} cannot be configured: {' '.join(words)} (see above)") from error


def _left(base: TrainConfig, cells: Sequence[Cell], out: Path) -> dict[str, TrainConfig]:
    """Configurations of the cells that an earlier call has not run to its end, one seed of each, by name."""
    done = set[str]()
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # it is written anew at the end
        told = json.loads((out / "sweep.json").read_bytes())["records"]
        done = {record["name"] for record in told if record["state"] == "done"}
    left = {cell_name({**cell, "seed": None}): cell for cell in reversed(cells) if cell_name(cell) not in done}
    return {cell_name(cell): configured(base, cell) for cell in left.values()}


def run_trial(values: Mapping[str, Any], out: Path, cell: Cell, report: Report) -> dict[str, Any]:
    """Meta-train one cell in a folder of its own, or go on with what is there."""
    config = configured(from_json(values), cell)
    folder = out / "cells" / cell_name(cell)
    sign = -1.0 if isinstance(config.family, RegressionConfig) else 1.0  # an error is to be small

    def evaluated(step: int, numbers: dict[str, float]) -> None:
        report(step, sign * numbers["unseen_score"], numbers, final=step >= config.steps)

    resume = (folder / "config.json").exists()
    result, _ = meta_train(config, folder, resume=resume, progress=Silent(), evaluated=evaluated)
    score = result["unseen_accuracy" if sign > 0 else "unseen_error"]
    return {**result, **report.latest, "value": sign * score}


def summarised(found: Sequence[Record]) -> list[dict[str, Any]]:
    """One row a configuration, the best first: its values, mean and range of its seeds, how many ended and how."""
    groups: dict[str, list[Record]] = {}
    for record in found:
        values = {k: v for k, v in record.cell.items() if k != "seed"}
        groups.setdefault(cell_name(values) if values else "as configured", []).append(record)
    rows = []
    for name, group in groups.items():
        values = [r.value for r in group if r.state == "done" and r.value is not None]
        states = {state: sum(r.state == state for r in group) for state in ("done", "stopped early", "failed")}
        mean = float(np.mean(values)) if values else None
        rows.append({"name": name, "mean": mean, "values": values, **states})
    return sorted(rows, key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)


def swept(cells: Sequence[Cell]) -> list[str]:
    """The fields that take more than one value, without the seed."""
    return [f for f in cells[0] if f != "seed" and len({str(cell[f]) for cell in cells}) > 1]
