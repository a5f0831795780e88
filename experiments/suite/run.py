"""Running an experiment: its cells are swept, what came of them is kept, summarised and drawn.

The cells are swept by `metalearn.sweeps`: over all cores by default, over other machines that are started with the same
`--storage`, and over kills of any of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.suite.experiment import Experiment, Trained, evaluations, load
from experiments.suite.results import read_result, summary
from metalearn.errors import RunError
from metalearn.recipes.in_context.config import TrainConfig, free_fields, rename_old_fields, to_json
from metalearn.recipes.in_context.fits import check_largest
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


class _Finished(Exception):
    """A run has shown what it was for."""


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
    """Run an experiment, or what is left of it.

    Args:
        module: its file, `experiments NAME`.
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
        ValueError: no cell can be configured with these settings; nothing was run.
    """
    began, experiment, workers = time.monotonic(), load(module), worker_count(workers)
    old = _earlier(experiment, settings, out)
    cells = experiment.cells(settings)
    configs = _configs(experiment, settings, cells)
    _check_runs(configs, out)
    done = set() if old is None else {cell_name({k: row[k] for k in cells[0]}) for row in old["rows"]}
    if left := {name: config for name, config in configs.items() if name not in done}:
        check_largest(left, workers)
    plan = Plan(
        out.name if out.name.startswith(experiment.name) else f"{experiment.name}-{out.name}",
        {"experiment": experiment.name, "settings": settings},
        cells,
    )
    work = partial(run_cell, module, settings, out)
    found = run_sweep(plan, storage_url(storage, out), work, workers=workers, compiled=out / "compiled", watch=watch)
    result = summary(experiment, settings, preset, found)
    result["seconds"] = round(time.monotonic() - began, 1)
    result["workers"] = max(1, min(workers, len(cells)))
    if old is not None and result["rows"] == old["rows"]:  # the time of a call that ran nothing says nothing
        result |= {key: old[key] for key in ("seconds", "cell_seconds", "workers", "compute") if key in old}
    elif old is not None:
        result["seconds"] = round(old["seconds"] + result["seconds"], 1)
    write_atomically(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    experiment.draw(result, out / f"{experiment.name}.png")
    return result


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
    """The configuration of each cell by name, without cells that have none: those fail by themselves, and say why.

    Raises:
        ValueError: no cell has one; the first reason.
    """
    found, reasons = {}, []
    for cell in cells:
        try:
            found[cell_name(cell)] = experiment.config(settings, cell)
        except ValueError as error:
            reasons.append(error)
    if reasons and not found:
        raise reasons[0]
    return found


def _check_runs(configs: Mapping[str, TrainConfig], out: Path) -> None:
    """Refuse a folder with runs of another version of the experiment, which would be shown beside new ones.

    Raises:
        RunError: one was configured in another way, with what differs.
    """
    for name, config in configs.items():
        folder = out / "cells" / name
        if (folder / "config.json").exists():
            old, new = rename_old_fields(open_run(folder).config), as_json(to_json(config))
            check_same_config(old, new, free_fields(config), f"{folder} was run with another configuration")
