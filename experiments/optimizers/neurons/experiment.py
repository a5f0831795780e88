"""Gradient descent on neurons: FOOF against KFAC, natural gradients and what is used today.

Benzing, "Gradient Descent on Neurons and its Link to Approximate Second-Order Optimization" (ICML 2022, arXiv
2201.12250), Figs. 1A, 1D, 2A, 3A: KFAC beats the natural gradient that it approximates, its damping is why, and FOOF,
which has no Fisher matrix in it, beats both. Every method is tuned on a grid of its own, all grids of one size, by the
geometric mean of the final training loss over seeds that the comparison does not use. All points are run with one seed,
and the best quarter with the other tuning seeds too; with a single seed, chosen points had diverged with others. Losses
below 1e-9 count as equal, since float32 does not tell them apart; among equal points the one with the lower losses
before the end is taken. The comparison shows training loss per step and per second, test accuracy, and the whole
trajectory, since the best final loss may follow a large transient.

Rule of the verdict, written before the first run. On each task three ratios of final training losses (on all training
examples, after the last update) are taken seed by seed: FOOF (T=1) over KFAC with heuristic damping, this over KFAC
with standard damping, and KFAC with heuristic damping over the exact natural gradient. Reproduced: the geometric mean
of each is below 1 with its whole 95 % interval (Student's t on logarithms). Not reproduced: an interval lies above 1.
Open: otherwise, where a method of the rule was left out, and where one diverged. A method whose best point lies on the
edge of its grid is marked: it may be better than it looks. That a divergence leaves the verdict open was added after a
run, in which KFAC with standard damping diverged with four of five seeds at the point that the tuning seeds had chosen.
Since then the best quarter of every grid is run with five tuning seeds, where it was three.

Small decompositions are many times faster with one BLAS thread, here 16 times for eigenvectors on a busy machine: set
OPENBLAS_NUM_THREADS=1.

    python -m experiments neurons quick                      # digits, and 150 digits with half of the labels random
    python -m experiments neurons quick --tasks logistic     # Fig. 2A: no hidden layer, 100 digits
    python -m experiments neurons quick --tasks small-mnist --mnist FOLDER   # 14 x 14 images, 196-200-200-200-10
    python -m experiments neurons standard --mnist FOLDER    # 784-1000-1000-1000-10 on 10,000 images; the same command
                                                             # continues a run that was stopped
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from experiments.optimizers.neurons.cells import Cells
from experiments.optimizers.neurons.methods import METHODS, Method, Point
from experiments.optimizers.neurons.picture import FLOOR, draw, mean_curve, table
from experiments.optimizers.neurons.tasks import TASKS, Task
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from metalearn.errors import unknown_name
from metalearn.runs.progress import Progress

__all__ = [
    "PRESETS",
    "RULE",
    "Effort",
    "NeuronsConfig",
    "compare",
    "final_losses",
    "format_result",
    "judge",
    "ratio",
    "run",
]

RULE = (("FOOF, T=1", "KFAC, heuristic"), ("KFAC, heuristic", "KFAC, standard"), ("KFAC, heuristic", "NGD, exact"))
"""Pairs of methods of which the first must have the lower final training loss."""
TUNING_SEED = 1000
"""The first seed of tuning; the comparison has seeds from 0 on."""


class Effort(NamedTuple):
    """How much of everything a comparison runs; see `NeuronsConfig`."""

    tuning_seeds: int = 5
    tuning_steps: int | None = None
    seeds: int = 5
    turns: int = 5
    mnist: str = "mnist"


@dataclass(frozen=True)
class NeuronsConfig:
    """FOOF, KFAC, natural gradients and optimizers of today on small networks."""

    tasks: tuple[str, ...] = ("digits", "noise")
    """What is trained: digits, noise, logistic, mnist, small-mnist."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Optimizers in the comparison."""
    tuning_seeds: int = 5
    """Runs of the best quarter of the grid points; all others are run once."""
    tuning_steps: int | None = None
    """Updates of a run on the grid; None: as many as in the comparison."""
    seeds: int = 5
    """Runs of the best point."""
    turns: int = 5
    """Turns in which all methods are timed, one run each; the fastest counts."""
    mnist: str = "mnist"
    """MNIST: a name of tensorflow-datasets, or the folder that it prepared."""
    out: Path = Path("runs/neurons")
    """Folder of the pictures, the table, and the runs that are kept."""


PRESETS = {
    "quick": NeuronsConfig(),
    "standard": NeuronsConfig(("mnist",), tuning_seeds=1, tuning_steps=50, turns=2, out=Path("runs/neurons-standard")),
}


def run(config: NeuronsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Tune, compare, time and draw; returns what result.json holds.

    Raises:
        UnknownNameError: a task or a method is not known; with the nearest names.
        DataNotPreparedError: MNIST is not there.
    """
    for kind, names, known in (("task", config.tasks, TASKS), ("method", config.methods, METHODS)):
        for name in names:
            if name not in known:
                raise unknown_name(kind, name, known)
    begun = time.monotonic()
    results, note = {}, (lambda text: None) if progress is None else progress.note
    effort = Effort(config.tuning_seeds, config.tuning_steps, config.seeds, config.turns, config.mnist)
    chosen = {method: METHODS[method] for method in config.methods}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name in config.tasks:
            results[name] = compare(
                effort, TASKS[name], chosen, config.out / name, lambda text, n=name: note(f"{n}: {text}")
            )
    pictures = {name: draw(found, name, config.out / f"neurons-{name}.png") for name, found in results.items()}
    verdicts = {name: judge(found["methods"]) for name, found in results.items()}
    result = {"tasks": results, "verdicts": verdicts, "pictures": {k: str(v) for k, v in pictures.items()}}
    return write_result(config.out, result | {"seconds": round(time.monotonic() - begun, 1)})


def compare(
    effort: Effort, task: Task, chosen: Mapping[str, Method], out: Path, note: Callable[[str], None]
) -> dict[str, Any]:
    """Tune every method on one task, train it with all seeds, and time it.

    Args:
        effort: how much of each.
        task: what is trained.
        chosen: methods by name, each with its grid.
        out: folder of the runs, which are kept.
        note: gets one line per method.

    Returns:
        `steps`, and `methods`: by name the point that was chosen, whether it lies on the edge of its grid, the grid's
        scores, the curves of all seeds, and seconds.
    """
    short = task if effort.tuning_steps is None else replace_steps(task, effort.tuning_steps)
    grid_cells = Cells(out / "grid.jsonl", short, chosen, effort.mnist)
    cells = Cells(out / "runs.jsonl", task, chosen, effort.mnist)
    methods: dict[str, dict[str, Any]] = {}
    for name, method in chosen.items():
        start = time.monotonic()
        best, scores = _tune(grid_cells, name, method.grid, effort.tuning_seeds)
        runs = [cells.run(name, best, seed) for seed in range(effort.seeds)]
        methods[name] = {
            "point": best,
            "edge": _is_at_edge(method.grid, best),
            "grid": scores,
            **{field: np.stack([r[field] for r in runs]) for field in ("batch_loss", "train_loss", "test_accuracy")},
        }
        final = mean_curve(methods[name]["train_loss"])[-1]
        note(f"{name}: {final:.3g} at {best} ({time.monotonic() - start:.0f} s)")
    seconds = _time(cells, {name: found["point"] for name, found in methods.items()}, effort.turns)
    for name, found in methods.items():
        share = (task.steps + chosen[name].warm_up) / task.steps
        found["seconds"] = seconds[name]
        found["milliseconds_per_step"] = 1e3 * seconds[name] / task.steps / share
    return {"steps": task.steps, "methods": methods}


def replace_steps(task: Task, steps: int) -> Task:
    """The same task with another number of updates."""
    return task._replace(steps=steps)


def _tune(cells: Cells, name: str, grid: tuple[Point, ...], seeds: int) -> tuple[Point, list[list[float]]]:
    """The best point of a method's grid, and the score of each: `[rate, damping, geometric mean of final losses]`.

    All points are run with the first seed, and the best quarter of them with the others too.
    """

    def score(point: Point, seeds: int) -> tuple[float, float]:
        runs = [cells.run(name, point, TUNING_SEED + i)["train_loss"] for i in range(seeds)]
        curve = mean_curve(np.stack(runs))
        return float(curve[-1]), float(np.log(curve).mean())

    first = {point: score(point, 1) for point in grid}
    kept = sorted(first, key=lambda point: first[point])[: max(1, len(first) // 4)]
    scores = first | {point: score(point, seeds) for point in kept}
    best = min(kept, key=lambda point: scores[point])
    return best, [[*point, final] for point, (final, _) in scores.items()]


def _is_at_edge(grid: tuple[Point, ...], best: Point) -> bool:
    """Whether a better point may lie outside the grid: in its ratio of rate and damping, or in its damping."""
    dampings = sorted({damping for _, damping in grid})
    rates = sorted(rate for rate, damping in grid if damping == best[1])
    ends = {dampings[0], dampings[-1]} if len(dampings) > 1 else set()
    return best[0] in (rates[0], rates[-1]) or best[1] in ends


def _time(cells: Cells, points: Mapping[str, Point], turns: int) -> dict[str, float]:
    """Seconds of a whole run without evaluations, methods in turns; the fastest of each."""
    fastest = dict.fromkeys(points, float("inf"))
    for turn in range(turns + 1):  # the first one compiles
        for name, point in points.items():
            start = time.perf_counter()
            cells.train(name, point, 0, False)
            if turn:
                fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest


def ratio(methods: Mapping[str, Mapping[str, Any]], first: str, second: str) -> list[float]:
    """The geometric mean over seeds of the first method's final loss over the second's, and its 95 % interval.

    A run that is not finite makes its method infinitely bad: the ratio is then infinite, 0, or NaN if both have one.
    """
    a, b = (final_losses(methods[name]["train_loss"]) for name in (first, second))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        value = float(np.where(np.isfinite(a).all(), 0.0, np.inf if np.isfinite(b).all() else np.nan))
        return [value, value, value]
    return [float(np.exp(x)) for x in list_interval(np.log(a / b).tolist())]


def final_losses(losses: Any) -> Float[np.ndarray, " S"]:
    """The final losses of curves [seeds, times], at least `FLOOR`; NaN where a run is not finite."""
    return np.maximum(np.array([np.nan if row[-1] is None else row[-1] for row in losses], np.float64), FLOOR)


def judge(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict on one task by the rule of this module: the ratios, the verdict and its reasons."""
    ratios = {f"{a} over {b}": ratio(methods, a, b) for a, b in RULE if a in methods and b in methods}
    compared = sorted({name for pair in RULE for name in pair})
    diverged = [n for n in compared if n in methods and not np.isfinite(final_losses(methods[n]["train_loss"])).all()]
    if diverged:
        verdict = "open"
    elif any(low > 1 for _, low, _ in ratios.values()):
        verdict = "not reproduced"
    elif len(ratios) == len(RULE) and all(high < 1 for _, _, high in ratios.values()):
        verdict = "reproduced"
    else:
        verdict = "open"
    words = "; ".join(f"{name} {v:.3g} [{low:.3g}, {high:.3g}]" for name, (v, low, high) in ratios.items())
    missing = [name for name in compared if name not in methods]
    words += f"{'; ' if words else ''}without {', '.join(missing)}" if missing else ""
    words += f"; diverged: {', '.join(diverged)}" if diverged else ""
    order = sorted(methods, key=lambda name: mean_curve(methods[name]["train_loss"])[-1])  # diverged ones last
    return {"verdict": verdict, "words": words, "ratios": ratios, "order": order}


def format_result(result: Mapping[str, Any]) -> str:
    """A table and the verdict per task."""
    lines = []
    for name, found in result["tasks"].items():
        verdict = result["verdicts"][name]
        lines += [f"{name}, {found['steps']} updates", table(found), f"{verdict['verdict']}: {verdict['words']}", ""]
    lines += [f"picture: {path}" for path in result["pictures"].values()]
    return "\n".join([*lines, f"time: {result['seconds']} s"])
