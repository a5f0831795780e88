"""Runs an experiment: sweeps its cells, then keeps, summarises and draws their results.

The sweep is that of `metalearn.sweeps`. It uses all cores by default, shares the work with other machines that are
started with the same `--storage`, and survives kills of any of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.suite.experiment import Experiment, Trained, load, read_evaluations
from experiments.suite.results import make_result, read_result
from metalearn.errors import RunError
from metalearn.recipes.in_context.config import TrainConfig, free_fields, rename_old_fields, to_json
from metalearn.recipes.in_context.fits import announce_time, check_largest
from metalearn.recipes.in_context.run import meta_train
from metalearn.runs.files import write_atomically
from metalearn.runs.folder import open_run
from metalearn.runs.json_values import as_json, check_same_config
from metalearn.runs.metrics import read_metrics
from metalearn.runs.progress import Silent
from metalearn.sweeps import Cell, Plan, Report, cell_name, run_sweep
from metalearn.sweeps.storage import storage_url
from metalearn.sweeps.watch import Watch
from metalearn.sweeps.workers import worker_count

__all__ = ["run", "run_cell"]


class _Finished(Exception):
    """A run may end: it has shown what the experiment asks of it."""


def run_cell(module: str, settings: Any, out: Path, cell: Cell, report: Report) -> dict[str, Any]:
    """Meta-train a cell in a folder of its own, or continue what is there, and measure it."""
    experiment = load(module)
    config, folder = experiment.config(settings, cell), out / "cells" / cell_name(cell)

    def is_finished(step: int, numbers: Mapping[str, float]) -> bool:
        return experiment.is_finished is not None and experiment.is_finished(settings, cell, step, numbers)

    def evaluated(step: int, numbers: dict[str, float]) -> None:
        report(step, numbers["unseen_score"], numbers)
        if is_finished(step, numbers):
            raise _Finished

    resume, scores, done = (folder / "config.json").exists(), {}, False
    if resume:  # a try that was killed may have finished already
        lines = read_metrics(open_run(folder))
        done = any(is_finished(step, numbers) for step, numbers in read_evaluations(lines))
    try:
        if not done:
            _, scores = meta_train(config, folder, resume=resume, progress=Silent(), evaluated=evaluated)
    except _Finished:
        pass
    trained = Trained(config, scores, read_metrics(open_run(folder)), folder)
    return dict(experiment.measure(settings, cell, trained))


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
    """Run an experiment, or those of its cells that have not been run yet.

    Args:
        module: full name of its module, such as `experiments.in_context.transition`.
        settings: its settings.
        out: folder of the runs, of result.json and of the picture.
        preset: name of the settings, kept in the result.
        workers: see `metalearn.sweeps.run_sweep`.
        storage: see `experiments.suite.command_line.Suite`.
        watch: what a person sees.

    Returns:
        The content of result.json.

    Raises:
        RunError: the folder or the storage holds another experiment, other settings, the results of another version, or
            runs that today's code would configure in another way; or every cell failed, with the first reason. What was
            computed is kept.
        NotEnoughMemoryError: the largest cell does not fit; nothing was run.
        ValueError: no cell can be configured with these settings; nothing was run.
    """
    began, experiment, workers = time.monotonic(), load(module), worker_count(workers)
    old = _read_earlier(experiment, settings, out)
    cells = experiment.cells(settings)
    configs = _make_configs(experiment, settings, cells)
    _check_runs(configs, out)
    done = set() if old is None else {cell_name({k: row[k] for k in cells[0]}) for row in old["rows"]}
    if remaining := {name: config for name, config in configs.items() if name not in done}:
        check_largest(remaining, workers)
        announce_time(remaining, workers)
    plan = Plan(
        out.name if out.name.startswith(experiment.name) else f"{experiment.name}-{out.name}",
        {"experiment": experiment.name, "settings": settings},
        cells,
    )
    work = partial(run_cell, module, settings, out)
    records = run_sweep(plan, storage_url(storage, out), work, workers=workers, compiled=out / "compiled", watch=watch)
    result = make_result(experiment, settings, preset, records)
    result["seconds"] = round(time.monotonic() - began, 1)
    result["workers"] = max(1, min(workers, len(cells)))
    if old is not None and result["rows"] == old["rows"]:  # nothing was run, so this call's time means nothing
        result |= {key: old[key] for key in ("seconds", "cell_seconds", "workers", "compute") if key in old}
    elif old is not None:
        result["seconds"] = round(old["seconds"] + result["seconds"], 1)
    write_atomically(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    experiment.draw(result, out / f"{experiment.name}.png")
    return result


def _read_earlier(experiment: Experiment, settings: Any, out: Path) -> dict[str, Any] | None:
    """The result of an earlier call in this folder, or None.

    Raises:
        RunError: it is the result of another experiment or of other settings.
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


def _make_configs(experiment: Experiment, settings: Any, cells: Sequence[Cell]) -> dict[str, TrainConfig]:
    """The configuration of each cell, by name.

    A cell that cannot be configured is left out: it fails in the sweep, where its reason is recorded.

    Raises:
        ValueError: no cell can be configured; the first reason.
    """
    configs, reasons = {}, []
    for cell in cells:
        try:
            configs[cell_name(cell)] = experiment.config(settings, cell)
        except ValueError as error:
            reasons.append(error)
    if reasons and not configs:
        raise reasons[0]
    return configs


def _check_runs(configs: Mapping[str, TrainConfig], out: Path) -> None:
    """Refuse a folder with runs of another version of the experiment: their results would be mixed with new ones.

    Raises:
        RunError: a run has another configuration; with what differs.
    """
    for name, config in configs.items():
        folder = out / "cells" / name
        if (folder / "config.json").exists():
            old, new = rename_old_fields(open_run(folder).config), as_json(to_json(config))
            check_same_config(old, new, free_fields(config), f"{folder} was run with another configuration")
