"""What the experiments on in-context learners share: presets, sweeps, results, pictures, verdicts.

An experiment is a list of cells (a seed and whatever it varies), the configuration of the meta-training of each, and
what is measured of its outcome. The cells are swept by `metalearn.sweeps`: over all cores by default, over other
machines that are started with the same `--storage`, and over kills of any of them.

    python -m experiments.NAME [quick|standard|paper] [options]
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import numpy as np
import tyro

from metalearn.cli.config import TrainConfig, to_json
from metalearn.cli.fits import check_largest
from metalearn.cli.train import free_fields, meta_train
from metalearn.environment import environment
from metalearn.errors import MetalearnError, RunError, unknown_name
from metalearn.files import write_atomically
from metalearn.metrics import read_metrics
from metalearn.progress import Progress, duration
from metalearn.runs import as_json, check_same_config, finite_or_null, open_run
from metalearn.sweeps import Cell, Plan, Record, Report, cell_name, run_sweep
from metalearn.sweeps.study import storage_url
from metalearn.sweeps.watch import Watch
from metalearn.sweeps.workers import worker_count

FORMAT = 1
S = TypeVar("S")
Row = dict[str, Any]
"""A cell with what was measured of it, side by side."""


class Trained(NamedTuple):
    """A meta-training that has ended, as `Experiment.measure` gets it.

    Attributes:
        config: what was run.
        scores: [tasks, T] of each kind of task, "seen" (or "training") and "unseen"; empty when it was ended early.
        lines: what was logged, see `metalearn.metrics.read_metrics`.
        folder: of the run, with its checkpoints.
    """

    config: TrainConfig
    scores: dict[str, np.ndarray]
    lines: list[dict[str, Any]]
    folder: Path


class Experiment(NamedTuple):
    """An experiment as data; S are its settings, a frozen dataclass.

    Attributes:
        name: of its file, folder and picture.
        claim: what the paper says, in a sentence.
        presets: settings by name; the first is the default.
        cells: `(settings) -> cells`.
        config: `(settings, cell) -> TrainConfig`.
        measure: `(settings, cell, trained) -> JSON values`, `"value"` among them, which is shown while the sweep goes.
        summarise: `(settings, rows) -> JSON values`, with `"verdict"` (reproduced, not reproduced, beyond, open) and
            `"words"` that say why; rows of cells that failed are missing.
        draw: `(result, path)`, from what is in result.json alone.
        table: `(result) -> text`.
        finished: `(settings, cell, step, numbers) -> bool`, whether a run may end at this evaluation; None: never.
    """

    name: str
    claim: str
    presets: Mapping[str, Any]
    cells: Callable[[Any], Sequence[Cell]]
    config: Callable[[Any, Cell], TrainConfig]
    measure: Callable[[Any, Cell, Trained], Mapping[str, Any]]
    summarise: Callable[[Any, list[Row]], Mapping[str, Any]]
    draw: Callable[[dict[str, Any], Path], None]
    table: Callable[[dict[str, Any]], str]
    finished: Callable[[Any, Cell, int, Mapping[str, float]], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Command(Generic[S]):
    """The command line of an experiment."""

    settings: Annotated[S, tyro.conf.arg(name="")]
    out: Path | None = None
    """Folder of runs, table and picture; the same command goes on with what is in it. None: runs/NAME-PRESET."""
    workers: int | None = None
    """Worker processes; none: one a core, or one in all where there is an accelerator; 0: run in this process."""
    storage: str | None = None
    """Where the sweep is kept, as a database URL; none: an SQLite file in the folder. Machines that are given the same
    storage and a folder that all can reach share the work."""
    json: bool = False
    """Print one JSON object as the last line."""


class _Finished(Exception):
    """A run has shown what it was for."""


class Silent:
    """No progress of single runs: the sweep has its own."""

    def start(self, done: int, steps: int) -> None:
        """See `Progress`."""

    def update(self, done: int, metrics: Mapping[str, float]) -> None:
        """See `Progress`."""

    def note(self, text: str) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


def run_cell(module: str, settings: Any, out: Path, cell: Cell, report: Report) -> dict[str, Any]:
    """Meta-train a cell in a folder of its own, or go on with what is there, and measure it."""
    experiment = load(module)
    config, folder = experiment.config(settings, cell), out / "cells" / cell_name(cell)

    def is_finished(step: int, numbers: Mapping[str, float]) -> bool:
        return experiment.finished is not None and experiment.finished(settings, cell, step, numbers)

    def evaluated(step: int, numbers: dict[str, float]) -> None:
        report(step, numbers["unseen_score"], numbers)
        if is_finished(step, numbers):
            raise _Finished

    resume, scores, done = (folder / "config.json").exists(), {}, False
    if resume:  # a killed try may have seen all there is to see
        done = any(is_finished(step, numbers) for step, numbers in evaluations(read_metrics(open_run(folder))))
    progress: Progress = Silent()
    try:
        if not done:
            _, scores = meta_train(config, folder, resume=resume, progress=progress, evaluated=evaluated)
    except _Finished:
        pass
    trained = Trained(config, scores, read_metrics(open_run(folder)), folder)
    return dict(experiment.measure(settings, cell, trained))


def evaluations(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """Steps and numbers of the evaluations in a run's lines, in order."""
    found = []
    for line in lines:
        numbers = {key.removeprefix("eval/"): value for key, value in line.items() if key.startswith("eval/")}
        if numbers:
            found.append((line["step"], numbers))
    return found


def run(
    module: str,
    settings: Any,
    out: Path,
    *,
    preset: str = "",
    workers: int | None = None,
    storage: str | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Run an experiment, or what is left of it.

    Args:
        module: its file, `experiments.NAME`.
        settings: its settings.
        out: folder of the runs, of result.json and of the picture.
        preset: name of the settings, for the record.
        workers: see `metalearn.sweeps.run_sweep`.
        storage: see `Command`.
        watch: what a person sees.

    Returns:
        What is in result.json.

    Raises:
        RunError: the folder or the storage holds something else, of another version or with other settings, or runs
            that the code of today would configure in another way; or every cell failed, with the first reason. What
            was computed stays.
        NotEnoughMemoryError: the largest cell would not fit; nothing was run.
    """
    began, experiment, workers = time.monotonic(), load(module), worker_count(workers)
    old = _earlier(experiment, settings, out)
    cells = experiment.cells(settings)
    configs = _configs(experiment, settings, cells)
    _check_runs(configs, out)
    if old is None or old["failed"]:
        check_largest(configs, workers)
    plan = Plan(
        out.name if out.name.startswith(experiment.name) else f"{experiment.name}-{out.name}",
        {"experiment": experiment.name, "settings": settings},
        cells,
    )
    work = partial(run_cell, module, settings, out)
    found = run_sweep(plan, storage_url(storage, out), work, workers=workers, compiled=out / "compiled", watch=watch)
    result = summary(experiment, settings, preset, found)
    result["seconds"] = round(time.monotonic() - began, 1)
    result["workers"] = max(1, workers)
    if old is not None and result["rows"] == old["rows"]:  # the time of a call that ran nothing says nothing
        result |= {key: old[key] for key in ("seconds", "cell_seconds", "workers", "compute") if key in old}
    elif old is not None:
        result["seconds"] = round(old["seconds"] + result["seconds"], 1)
    write_atomically(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    experiment.draw(result, out / f"{experiment.name}.png")
    return result


def summary(experiment: Experiment, settings: Any, preset: str, found: Sequence[Record]) -> dict[str, Any]:
    """What the records of a sweep come to.

    Raises:
        RunError: not one cell was run to its end.
    """
    rows = [{**r.cell, **(r.result or {})} for r in found if r.state == "done"]
    failed = {r.name: r.error for r in found if r.state == "failed"}
    if not rows:
        reasons = list(failed.values())
        raise RunError(
            f"no cell of {experiment.name} was run to its end: {reasons[0] if reasons else 'nothing was run'}"
        )
    result = {
        "format": FORMAT,
        "experiment": experiment.name,
        "claim": experiment.claim,
        "preset": preset,
        "settings": settings,
        "environment": environment(),
        "cells": len(found),
        "failed": failed,
        "cell_seconds": round(sum(r.seconds or 0.0 for r in found), 1),
        "summary": experiment.summarise(settings, rows),
        "rows": rows,
    }
    return finite_or_null(as_json(result))


def read_result(path: Path) -> dict[str, Any]:
    """A result.json of this version.

    Raises:
        RunError: it cannot be read, or is another version's.
    """
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise RunError(
            f"{path} is of another version (format {got}, this one reads {FORMAT}): choose another folder with "
            "--out, or remove that one"
        )
    missing = [key for key in ("experiment", "settings", "summary", "rows", "failed", "seconds") if key not in content]
    if missing:
        raise RunError(f"{path} is no result of an experiment: it has no {', '.join(missing)}")
    return content


def settings_of(result: Mapping[str, Any]) -> Any:
    """The settings of a result as its experiment has them; fields that it lacks have their defaults."""
    kind = type(next(iter(load(f"experiments.{result['experiment']}").presets.values())))

    def tuples(value: Any) -> Any:
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{k: tuples(v) for k, v in result["settings"].items() if k in known})


def command(module: str) -> int:
    """The command line of an experiment; returns the exit status."""
    experiment, words = load(module), sys.argv[1:]
    preset = words.pop(0) if words and not words[0].startswith("-") else next(iter(experiment.presets))
    try:
        if preset not in experiment.presets:
            raise unknown_name("preset", preset, experiment.presets)
        settings = experiment.presets[preset]
        options = tyro.cli(
            Command[type(settings)],  # pyright: ignore[reportInvalidTypeArguments]
            default=Command(settings),
            args=words,
            prog=f"python -m {module} [{'|'.join(experiment.presets)}]",
            description=f"{importlib.import_module(module).__doc__}\nPreset: {preset}.",
        )
        out = options.out or Path("runs") / f"{experiment.name}-{preset}"
        result = run(module, options.settings, out, preset=preset, workers=options.workers, storage=options.storage)
    except (MetalearnError, ValueError, OSError) as error:
        print(f"{experiment.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{experiment.name}: stopped; the same command goes on", file=sys.stderr)
        return 130
    print(experiment.table(result))
    print(f"\nclaim:   {result['claim']}\nverdict: {result['summary']['verdict']}: {result['summary']['words']}")
    print(f"picture: {out / (experiment.name + '.png')}")
    print(f"time:    {duration(result['seconds'])}, {duration(result['cell_seconds'])} of workers in all")
    for name, reason in result["failed"].items():
        print(f"failed:  {name}: {reason}", file=sys.stderr)
    if options.json:
        print(json.dumps(result))
    return 1 if result["failed"] else 0


def load(module: str) -> Experiment:
    """The experiment of a module, `EXPERIMENT` in it."""
    return importlib.import_module(module).EXPERIMENT


def _earlier(experiment: Experiment, settings: Any, out: Path) -> dict[str, Any] | None:
    """The result of an earlier call in this folder, None where there is none.

    Raises:
        RunError: it is one of something else, said before anything is done.
    """
    path = out / "result.json"
    if not path.exists():
        return None
    old = read_result(path)
    if old.get("experiment") != experiment.name:
        raise RunError(
            f"{out} holds results of {old.get('experiment')}, not of {experiment.name}: choose another with --out"
        )
    new = as_json({"settings": settings})["settings"]
    check_same_config(old["settings"], new, (), f"{out} holds results of other settings")
    return old


def _configs(experiment: Experiment, settings: Any, cells: Sequence[Cell]) -> dict[str, TrainConfig]:
    """The configuration of each cell by name, without cells that have none: those fail by themselves, and say why."""
    found = {}
    for cell in cells:
        with contextlib.suppress(ValueError):
            found[cell_name(cell)] = experiment.config(settings, cell)
    return found


def _check_runs(configs: Mapping[str, TrainConfig], out: Path) -> None:
    """Refuse a folder with runs of another version of the experiment, which would be shown beside new ones.

    Raises:
        RunError: one was configured in another way, with what differs.
    """
    for name, config in configs.items():
        folder = out / "cells" / name
        if (folder / "config.json").exists():
            old, new = open_run(folder).config, as_json(to_json(config))
            check_same_config(old, new, free_fields(config), f"{folder} was run with another configuration")
