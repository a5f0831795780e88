"""What the meta-trainings of an experiment cost, and the share of this machine's peak that they reached.

    python -m experiments compute runs/phase_diagram-paper                # on the machine where it was run
    python -m experiments compute docs/results/phase_diagram-quick.json   # of a copy: the peak and the share anew

Operations are those of matrix products, counted by `metalearn.costs.flops` over all outer steps. The time is that of
the cells, with compilation, evaluation and saving, and without tries that were killed. The peak is that of a large
matrix product on all devices at once; measure it while nothing else runs. All of this is added to the result.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from experiments.catalogue import find_module
from experiments.suite.experiment import load
from experiments.suite.results import read_result, read_settings
from metalearn.costs.flops import peak_flops, step_flops
from metalearn.errors import RunError
from metalearn.recipes.driving import compile_outer_loop, initial_state
from metalearn.recipes.in_context.build import prepare
from metalearn.recipes.in_context.config import TrainConfig, from_json
from metalearn.runs.environment import environment
from metalearn.runs.files import write_atomically
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics
from metalearn.runs.progress import Progress, duration
from metalearn.sweeps import cell_name

__all__ = ["Options", "compute_cost", "flops_per_step", "format_compute", "format_result", "run"]


def flops_per_step(config: TrainConfig) -> float | None:
    """Floating-point operations of the products in an outer step, see `metalearn.costs.flops.step_flops`.

    Nothing is compiled. Configurations that differ only in seeds and numbers of tasks are counted once.

    Returns:
        None if the operations cannot be counted.
    """
    family = dataclasses.replace(config.family, seed=0, num_tasks=None)
    return _flops_per_step(dataclasses.replace(config, family=family, seed=0))


@lru_cache
def _flops_per_step(config: TrainConfig) -> float | None:
    recipe = prepare(config)
    loop, per_call = compile_outer_loop(recipe.training, config.steps)
    state = jax.eval_shape(lambda: initial_state(recipe.training, loop))
    try:
        return step_flops(loop.step, state, recipe.data) / per_call
    except ValueError:  # a loop of unknown length
        return None


def compute_cost(path: Path) -> dict[str, Any]:
    """Operations and seconds of the cells that an experiment has run to their end, and their share of the peak.

    Args:
        path: the folder of an experiment, or a copy of its result in which the operations were counted before.

    Returns:
        `flops` of all cells; `uncounted`, the number of cells whose operations cannot be counted; `seconds` of all
        cells together; `workers` that shared them; `peak`, operations per second; `share`, flops / (seconds / workers)
        / peak; `time` of this measurement.

    Raises:
        RunError: there is no result of this version; the runs are lost, or the operations of a copy were never counted;
            or the share is above 1.
    """
    is_copy = path.is_file()
    result = read_result(path if is_copy else path / "result.json")
    if is_copy and "compute" not in result:
        raise RunError(f"the operations of {path} were never counted: name the folder with its runs")
    experiment = load(find_module(result["experiment"]))
    settings = read_settings(result)
    flops, uncounted, precisions = 0.0, 0, set[str]()
    cells = {cell_name(cell): cell for cell in experiment.cells(settings)}
    keys = {key for cell in cells.values() for key in cell}
    done = {cell_name({k: v for k, v in row.items() if k in keys}) for row in result["rows"]}
    for name, cell in cells.items():
        if name not in done:
            continue
        if is_copy:
            precisions.add(getattr(experiment.config(settings, cell).learner, "compute", "float32"))
            continue
        run = open_run(path / "cells" / name)
        config = from_json(run.config)
        precisions.add(getattr(config.learner, "compute", "float32"))
        steps = max((line["step"] for line in read_metrics(run)), default=0)
        per_step = flops_per_step(config)
        flops, uncounted = flops + steps * (per_step or 0.0), uncounted + (per_step is None)
    if is_copy:
        flops, uncounted = result["compute"]["flops"], result["compute"]["uncounted"]
    dtype = jnp.bfloat16 if "bfloat16" in precisions else jnp.float32
    peak = peak_flops(dtype) * (1 if jax.default_backend() == "cpu" else jax.local_device_count())
    share = flops / (result["cell_seconds"] / result["workers"]) / peak
    if share > 1:
        raise RunError(
            f"{flops:.2g} operations in {result['cell_seconds']:.0f} s of {result['workers']} workers would be "
            f"{100 * share:.0f} % of this machine's peak, so the peak was measured too low. Measure again on the "
            "machine of the runs while nothing else runs. The time also lacks the first part of a run that was killed "
            "and continued"
        )
    return {
        "flops": flops,
        "uncounted": uncounted,
        "seconds": result["cell_seconds"],
        "workers": result["workers"],
        "peak": peak,
        "share": share,
        "time": environment()["time"],
    }


def format_compute(compute: dict[str, Any]) -> str:
    """`4.1e+14 operations in 28m03s of 2 workers, 21 % of the machine's peak`."""
    return (
        f"{compute['flops']:.2g} operations in {duration(compute['seconds'] / compute['workers'])} of "
        f"{compute['workers']} workers, {100 * compute['share']:.1f} % of the machine's peak"
        + (f"; {compute['uncounted']} runs are not counted" if compute["uncounted"] else "")
    )


@dataclass(frozen=True)
class Options:
    """Count what an experiment cost."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of an experiment, with result.json and the runs; or a copy of its result."""


def run(options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Count, and add what was counted to the result; returns it."""
    compute = compute_cost(options.path)
    file = options.path if options.path.is_file() else options.path / "result.json"
    result = {**read_result(file), "compute": compute}
    write_atomically(file, (json.dumps(result, indent=1) + "\n").encode())
    return compute


def format_result(result: dict[str, Any]) -> str:
    """What the command prints at the end."""
    return format_compute(result)
