"""A sweep of meta-trainings: its axes, the configuration of each cell, its results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from metalearn.pictures import new_figure, save_or_note
from metalearn.ranges import Steps, Within
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import TrainConfig, from_json, predicts_numbers, to_json, validate
from metalearn.recipes.in_context.fits import announce_time, check_largest
from metalearn.recipes.in_context.run import meta_train
from metalearn.recipes.options import read
from metalearn.runs.addresses import hide_password
from metalearn.runs.files import write_atomically
from metalearn.runs.folder import note_on_stderr
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.runs.progress import Silent
from metalearn.sweeps import Cell, Halving, Plan, Range, Record, Report, cell_name, grid, random_search, run_sweep
from metalearn.sweeps.picture import draw_sweep
from metalearn.sweeps.storage import storage_url
from metalearn.sweeps.workers import worker_count

__all__ = [
    "SweepConfig",
    "SweepResult",
    "axes",
    "configure_cell",
    "list_cells",
    "run",
    "run_trial",
    "summarise",
    "swept_fields",
]


@dataclass(frozen=True)
class _Axis:
    """Text of the form FIELD=VALUES; see `Rule`."""

    def allows(self, value: Any) -> bool:
        field, equals, values = str(value).partition("=")
        return bool(field and equals and values)

    def describe(self) -> str:
        return "FIELD=VALUE,VALUE,... such as learner.width=32,64"


@dataclass(frozen=True)
class _DatabaseURL:
    """The URL of a database, as SQLAlchemy reads it; see `Rule`."""

    def allows(self, value: Any) -> bool:
        driver, colon, place = str(value).partition("://")
        return bool(driver and colon and place)

    def describe(self) -> str:
        return "the URL of a database, such as sqlite:///FILE, or of a proxy, grpc://HOST:PORT"

    def show(self, value: Any) -> str:
        return repr(hide_password(str(value)))


@dataclass(frozen=True)
class SweepConfig:
    """What is swept, and by how many workers."""

    grid: tuple[Annotated[str, _Axis()], ...] = ()
    """FIELD=VALUE,VALUE,...: every combination of the values of all fields is run."""
    random: tuple[Annotated[str, _Axis()], ...] = ()
    """FIELD=LOW..HIGH draws uniformly, FIELD=LOW..HIGH:log uniformly in the logarithm; whole numbers if both ends are
    whole. FIELD=VALUE,VALUE,... draws from a list. --trials says how many draws of all fields are made."""
    trials: Steps = 20
    """With --random: number of draws; equal draws count once. Each draw is run with every combination of --grid and
    every seed."""
    seeds: Steps = 1
    """Runs of each configuration, with seeds from --seed on."""
    halving: bool = False
    """Asynchronous successive halving: of three runs, stop the two that are behind at their first evaluation after 1/9
    and after 1/3 of --steps. Set --evaluate-every to at most 1/9 of --steps."""
    storage: Annotated[str, _DatabaseURL()] | None = None
    """Where the sweep is kept, as a database URL such as postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, or
    grpc://HOST:PORT for optuna's proxy of a database; None: an SQLite file in its folder."""
    workers: Annotated[int, Within(0, 4096)] | None = None
    """Worker processes; None: one per core, or a single one with an accelerator; 0: run in this process."""


class SweepResult(NamedTuple):
    """What a sweep came to.

    Attributes:
        rows: one per configuration, see `summarise`.
        values: JSON values, those of sweep.json.
        failed: the records of cells that failed.
        picture: the file of the picture.
        regression: whether the values are squared errors with a minus, so that more is better; they are accuracies
            otherwise.
    """

    rows: list[dict[str, Any]]
    values: dict[str, Any]
    failed: list[Record]
    picture: Path
    regression: bool


def run(config: TrainConfig, options: SweepConfig, out: Path) -> SweepResult:
    """Run a sweep, or what is left of it; writes sweep.json and a picture into its folder.

    Args:
        config: what every cell is configured from.
        options: what is swept.
        out: folder of the sweep and its runs.

    Raises:
        ValueError: a cell cannot be configured, or nothing is swept; nothing was run.
        NotEnoughMemoryError: the largest cell does not fit; nothing was run.
        RunError: the storage cannot be reached or holds another sweep.
    """
    cells = list_cells(config, options)
    for field, value in dict.fromkeys((f, v) for cell in cells for f, v in cell.items()):
        configure_cell(config, {field: value})  # what cannot be configured is refused before anything is run
    unfinished = _unfinished(config, cells, out)
    for name, cell_config in unfinished.items():
        try:
            validate(cell_config)
        except ValueError as error:
            raise ValueError(f"the cell {name} cannot be run: {error}") from error
    prepare(configure_cell(config, cells[0]))
    check_largest(unfinished, worker_count(options.workers))
    announce_time(unfinished, worker_count(options.workers), len({cell["seed"] for cell in cells}))
    plan = Plan(out.resolve().name, {"command": "metalearn sweep", "config": to_json(config)}, cells)
    trial = partial(run_trial, to_json(config), out)
    halving = Halving(max(1, config.steps // 9)) if options.halving else None
    url = storage_url(options.storage, out)
    records = run_sweep(plan, url, trial, workers=options.workers, compiled=out / "compiled", halving=halving)
    rows = summarise(records)
    values = {"sweep": plan.name, "cells": len(records), "configurations": rows}
    values = finite_or_null(as_json({**values, "records": [r._asdict() for r in records]}))
    out.mkdir(parents=True, exist_ok=True)  # workers on other machines may have run everything, elsewhere
    write_atomically(out / "sweep.json", (json.dumps(values, indent=1) + "\n").encode())
    fields, regression = swept_fields(cells), predicts_numbers(config)
    sign, measure = (-1.0, "squared error on unseen tasks") if regression else (1.0, "accuracy on unseen tasks")
    figure, panels = new_figure(columns=max(1, len(fields)), width=3.6)
    for ax, field in zip(panels, fields or ["seed"], strict=True):
        # Cells are compared by minus the error, so that more is better; a picture shows the error.
        points = [(r.cell.get(field), sign * r.value, r.state) for r in records if r.value is not None]
        draw_sweep(ax, field, points, measure)
    save_or_note(figure, out / "sweep.png", note_on_stderr)
    return SweepResult(rows, values, [r for r in records if r.state == "failed"], out / "sweep.png", regression)


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


def list_cells(config: TrainConfig, options: SweepConfig) -> list[Cell]:
    """The cells of a sweep: draws x grid x seeds.

    Raises:
        ValueError: nothing is swept, or the axes do not fit, see `axes`.
    """
    if options.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {options.seeds}")
    fixed, free = axes(options.grid, options.random)
    if "seed" in fixed or "seed" in free:
        raise ValueError("seeds are swept with --seeds N, beginning at --seed")
    if not fixed and not free and options.seeds == 1:
        raise ValueError("nothing is swept: give --grid FIELD=VALUE,VALUE, --random FIELD=LOW..HIGH or --seeds N")
    draws = random_search(free, options.trials, config.seed) if free else [{}]
    draws = list({cell_name(draw): draw for draw in draws}.values())  # short lists are drawn from more than once
    seeds = [config.seed + i for i in range(options.seeds)]
    return [{**draw, **point, "seed": seed} for seed in seeds for draw in draws for point in grid(fixed)]


def configure_cell(base: TrainConfig, cell: Cell) -> TrainConfig:
    """The configuration of a cell: `base` with the cell's fields, read as `metalearn train` reads them.

    Raises:
        ValueError: a field or value that `metalearn train` does not take.
    """
    words = [f"--{field}={value}" for field, value in cell.items()]
    try:
        return read(base, words, "metalearn train PRESET")
    except ValueError as error:
        raise ValueError(f"the cell {cell_name(cell)} cannot be configured: {error}") from error


def _unfinished(base: TrainConfig, cells: Sequence[Cell], out: Path) -> dict[str, TrainConfig]:
    """Configurations of the cells that no earlier call has finished, one seed of each, by name."""
    done = set[str]()
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # it is written anew at the end
        records = json.loads((out / "sweep.json").read_bytes())["records"]
        done = {record["name"] for record in records if record["state"] == "done"}
    unfinished = {cell_name({**cell, "seed": None}): cell for cell in reversed(cells) if cell_name(cell) not in done}
    return {cell_name(cell): configure_cell(base, cell) for cell in unfinished.values()}


def run_trial(values: Mapping[str, Any], out: Path, cell: Cell, report: Report) -> dict[str, Any]:
    """Meta-train one cell in a folder of its own, or continue with what is there."""
    config = configure_cell(from_json(values), cell)
    folder = out / "cells" / cell_name(cell)
    sign = -1.0 if predicts_numbers(config) else 1.0  # an error is to be small

    def evaluated(step: int, numbers: dict[str, float]) -> None:
        report(step, sign * numbers["unseen_score"], numbers, final=step >= config.steps)

    resume = (folder / "config.json").exists()
    result, _ = meta_train(config, folder, resume=resume, progress=Silent(), evaluated=evaluated)
    score = result["unseen_accuracy" if sign > 0 else "unseen_error"]
    return {**result, **report.latest, "value": sign * score}


def summarise(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row per configuration, the best first: mean and values over its seeds, and how many of them ended how."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        values = {k: v for k, v in record.cell.items() if k != "seed"}
        groups.setdefault(cell_name(values) if values else "as configured", []).append(record)
    rows = []
    for name, group in groups.items():
        values = [r.value for r in group if r.state == "done" and r.value is not None]
        states = {state: sum(r.state == state for r in group) for state in ("done", "stopped early", "failed")}
        mean = float(np.mean(values)) if values else None
        rows.append({"name": name, "mean": mean, "values": values, **states})
    return sorted(rows, key=lambda row: -np.inf if row["mean"] is None else row["mean"], reverse=True)


def swept_fields(cells: Sequence[Cell]) -> list[str]:
    """The fields that take more than one value, without the seed."""
    return [f for f in cells[0] if f != "seed" and len({str(cell[f]) for cell in cells}) > 1]
