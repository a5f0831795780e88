"""Constants of optimizers made by hand: learned by evolution strategies, or taken from a grid.

The constants of FOOF (Benzing 2022, arXiv 2201.12250) and of Adam with Lookahead (Zhang et al. 2019, arXiv 1907.08610)
are meta-parameters: NRES (Li et al. 2023, arXiv 2304.12180) learns their logarithms on training runs of a small
network, from the middle of a grid of 7 x 7 values of two of them. The grid is searched with `tuning_runs` training runs
per point. Both are judged by the mean training loss over all steps, on fresh training runs that neither has seen. A
third arm learns the two constants of the grid alone: it tells what the others add.

Rule of the verdict, written before the first run. Of each fresh run the loss with learned constants (the mean over
meta-trainings) is divided by that with the grid's best point. Learned: the 95 % interval of the geometric mean
(Student's t on logarithms) lies below 1. Grid: it lies above 1. Neither: it holds 1. The bound of 15 minutes on two
cores for one meta-training is part of the claim and is measured. Where the best point lies on the edge of its grid, the
grid is said to be too small. The rate of the outer Adam was raised from .03 to .1 after a first run of 150 outer steps
had ended on the way from the middle of the grid, with losses of 1.2 and 1.7 times those of the grid.

    python -m experiments learned_constants            # both optimizers, three meta-trainings each
    python -m experiments learned_constants quick      # one short meta-training each
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Key

from experiments.learned_optimizers._training import clipped_adam, meta_train_seeds
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns
from metalearn.errors import unknown_name
from metalearn.gradients import nres
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.handmade.constants import decode_constants, encode_constants
from metalearn_models.optimizers.handmade.table import handmade_entry
from metalearn_tasks import objectives
from metalearn_tasks.objectives import cap_losses, loss_curves, training_loop

__all__ = ["GRIDS", "PRESETS", "LearnedConstantsConfig", "compare", "format_result", "run"]

CEILING = 20.0
"""Losses above this count as this much, in meta-training, on the grid and in the comparison."""


class Grid(NamedTuple):
    """Values of two constants of an optimizer."""

    names: tuple[str, str]
    values: tuple[tuple[float, ...], tuple[float, ...]]


HALF_DECADES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
GRIDS = {
    "foof": Grid(
        ("learning_rate", "damping"),
        (tuple(10 * x for x in HALF_DECADES), HALF_DECADES),
    ),
    "lookahead-adam": Grid(
        ("learning_rate", "slow_step_size"),
        (tuple(x / 10 for x in HALF_DECADES), (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)),
    ),
}
"""The grid of each optimizer; both constants are positive."""


@dataclass(frozen=True)
class LearnedConstantsConfig:
    """Learn the constants of optimizers by NRES, and search them on a grid."""

    optimizers: tuple[str, ...] = tuple(GRIDS)
    """Optimizers made by hand."""
    objective: str = "mlp-digits"
    """What is trained."""
    length: int = 500
    """Steps of a training run."""
    steps: int = 500
    """Outer steps of a meta-training."""
    pairs: int = 8
    """Antithetic pairs of training runs per outer step."""
    window: int = 50
    """Steps of a training run per outer step."""
    sigma: float = 0.1
    """Standard deviation of the perturbation of each logarithm."""
    learning_rate: float = 0.1
    """Peak learning rate of the outer Adam; it falls to a hundredth along a cosine."""
    seeds: int = 3
    """Meta-trainings per arm."""
    tuning_runs: int = 8
    """Training runs per point of the grid."""
    runs: int = 64
    """Fresh training runs of the comparison."""
    out: Path = Path("runs/learned-constants")
    """Folder of the picture and the table."""


PRESETS = {
    "standard": LearnedConstantsConfig(),
    "quick": LearnedConstantsConfig(
        steps=300, seeds=1, tuning_runs=2, runs=16, out=Path("runs/learned-constants-quick")
    ),
}


def run(config: LearnedConstantsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, meta-train, compare and draw; returns what result.json holds.

    Raises:
        UnknownNameError: `GRIDS` lacks one of the optimizers.
    """
    begun = time.monotonic()
    for name in config.optimizers:
        if name not in GRIDS:
            raise unknown_name("optimizer", name, GRIDS)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = {name: _study(config, name, progress) for name in config.optimizers}
    picture = config.out / "learned_constants.png"
    draw(results, picture)
    result = {"optimizers": results, "picture": str(picture), "seconds": round(time.monotonic() - begun, 1)}
    return write_result(config.out, result)


def _study(config: LearnedConstantsConfig, name: str, progress: Progress | None) -> dict[str, Any]:
    problem, grid = objectives.load(config.objective), GRIDS[name]
    tuning_key, fresh_key = jax.random.split(jax.random.key(1))
    tuning, fresh = jax.random.split(tuning_key, config.tuning_runs), jax.random.split(fresh_key, config.runs)
    middle = (values[len(values) // 2] for values in grid.values)
    full = handmade_entry(name).learnable(**dict(zip(grid.names, middle, strict=True)))

    def score(optimizer: LearnedOptimizer, theta: Any, keys: Key[Array, " K"]) -> Float[np.ndarray, " K"]:
        """The mean training loss over all steps of each run."""
        curves = np.asarray(loss_curves(problem.objective, optimizer, theta, problem.data, keys, config.length))
        return np.where(curves < CEILING, curves, CEILING).astype(np.float64).mean(1)

    start = time.monotonic()
    points = [[(a, b) for b in grid.values[1]] for a in grid.values[0]]
    scores = np.array([[score(full, _with(full, grid, point), tuning).mean() for point in row] for row in points])
    best = tuple(int(i) for i in np.unravel_index(int(np.argmin(scores)), scores.shape))
    point = points[best[0]][best[1]]
    grid_seconds = round(time.monotonic() - start, 1)
    reference = score(full, _with(full, grid, point), fresh)
    found: dict[str, Any] = {
        "grid": scores,
        "point": dict(zip(grid.names, point, strict=True)),
        "edge": any(i in (0, len(v) - 1) for i, v in zip(best, grid.values, strict=True)),
        "grid_seconds": grid_seconds,
        "grid_updates": scores.size * config.tuning_runs * config.length,
        "learning_updates": config.steps * 2 * config.pairs * config.window,
        "arms": {"grid": {"losses": reference}},
    }
    for arm, optimizer in (("NRES, all", full), ("NRES, two", _only(full, grid))):
        thetas, seconds = _meta_train(config, f"{name}, {arm}", problem, optimizer, progress)
        losses = np.stack([score(optimizer, theta, fresh) for theta in thetas])
        found["arms"][arm] = {
            "losses": losses.mean(0),
            "each": losses.mean(1),
            "constants": [{k: float(v) for k, v in decode_constants(theta).items()} for theta in thetas],
            "seconds": seconds,
            **compare(losses.mean(0), reference),
        }
        if progress is not None:
            progress.note(f"{name}, {arm}: {found['arms'][arm]['words']}")
    return found


def _meta_train(
    config: LearnedConstantsConfig,
    label: str,
    problem: objectives.NamedObjective,
    optimizer: LearnedOptimizer,
    progress: Progress | None,
) -> tuple[list[Any], float]:
    """Theta of each seed, and the seconds of one meta-training, its share of the compilation included."""
    loop = cap_losses(training_loop(problem.objective, optimizer, config.length), CEILING)
    estimator = nres(loop, config.sigma, config.pairs, config.window, stagger=True)
    outer, keys = clipped_adam(config.learning_rate, config.steps), jax.random.split(jax.random.key(0), config.seeds)
    start = time.monotonic()
    thetas = meta_train_seeds(label, optimizer, estimator, outer, problem.data, config.steps, keys, progress)
    return thetas, round((time.monotonic() - start) / config.seeds, 1)


def _with(optimizer: LearnedOptimizer, grid: Grid, point: tuple[float, float]) -> dict[str, Any]:
    """A fresh theta whose two constants of the grid are those of a point."""
    return optimizer.init(jax.random.key(0)) | encode_constants(dict(zip(grid.names, point, strict=True)))


def _only(optimizer: LearnedOptimizer, grid: Grid) -> LearnedOptimizer:
    """The same optimizer, of which only the constants of the grid are meta-parameters."""
    fresh = optimizer.init(jax.random.key(0))
    names = {f"log_{name}" for name in grid.names}
    rest = {name: x for name, x in fresh.items() if name not in names}
    return optimizer._replace(
        init=lambda key: {name: fresh[name] for name in sorted(names)},
        transform=lambda theta, num_steps=None: optimizer.transform({**rest, **theta}, num_steps),
    )


def compare(learned: Float[np.ndarray, " K"], grid: Float[np.ndarray, " K"]) -> dict[str, Any]:
    """The verdict by the rule of this module: the ratio with its interval, and words."""
    value, low, high = (float(np.exp(x)) for x in list_interval(np.log(learned / grid).tolist()))
    verdict = "learned" if high < 1 else "grid" if low > 1 else "neither"
    words = {
        "learned": "the learned constants train better than the best of the grid",
        "grid": "the best of the grid trains better than the learned constants",
        "neither": "learned constants and the best of the grid do not differ",
    }[verdict]
    words += f", ratio {value:.4f} [{low:.4f}, {high:.4f}]"
    return {"ratio": [value, low, high], "verdict": verdict, "words": words}


def format_result(result: Mapping[str, Any]) -> str:
    """A table per optimizer: the mean training loss of each arm, its ratio to the grid, constants and time."""
    lines = []
    for name, found in result["optimizers"].items():
        columns: dict[str, list[str]] = {"mean loss": [], "over the grid's [95 %]": [], "constants": [], "s": []}
        for row in found["arms"].values():
            constants = row["constants"][0] if "constants" in row else found["point"]
            ratio = "{:.4f} [{:.4f}, {:.4f}]".format(*row["ratio"]) if "ratio" in row else ""
            columns["mean loss"].append(f"{np.mean(row['losses']):.4f}")
            columns["over the grid's [95 %]"].append(ratio)
            columns["constants"].append(", ".join(f"{k} {v:.3g}" for k, v in constants.items()))
            columns["s"].append(f"{row.get('seconds', found['grid_seconds']):g}")
        lines += [name, format_columns(list(found["arms"]), columns)]
        lines += [f"{arm}: {row['words']}" for arm, row in found["arms"].items() if "words" in row]
        lines += ["the grid is too small: its best point lies on its edge"] if found["edge"] else []
        lines.append("")
    return "\n".join([*lines, f"picture: {result['picture']} ({result['seconds']} s)"])


def _edges(values: tuple[float, ...]) -> Float[np.ndarray, " E"]:
    """The borders of cells around values on a logarithmic axis."""
    logs = np.log(values)
    middles = (logs[1:] + logs[:-1]) / 2
    return np.exp(np.concatenate([[2 * logs[0] - middles[0]], middles, [2 * logs[-1] - middles[-1]]]))


def draw(results: Mapping[str, Any], path: Path) -> Path:
    """Draw each grid as a map of mean losses, with its best point and what was learned."""
    figure, axes = new_figure(columns=len(results), width=5.4, height=4.4)
    for ax, (name, found) in zip(axes, results.items(), strict=True):
        grid = GRIDS[name]
        scores = np.asarray(found["grid"], np.float64)
        mesh = ax.pcolormesh(*map(_edges, grid.values), np.log10(scores).T, cmap="viridis_r")
        figure.colorbar(mesh, ax=ax, label="log10 of the mean training loss")
        ax.plot(*found["point"].values(), "s", color="white", markeredgecolor="black", label="best of the grid")
        for arm, marker in (("NRES, all", "*"), ("NRES, two", "o")):
            points = np.array([[c[n] for n in grid.names] for c in found["arms"][arm]["constants"]])
            ax.plot(*points.T, marker, color="red", markeredgecolor="black", label=arm, linestyle="none")
        ax.plot(grid.values[0][3], grid.values[1][3], "x", color="red", label="where NRES begins")
        labels = [name.replace("_", " ") for name in grid.names]
        ax.set(xscale="log", yscale="log", xlabel=labels[0], ylabel=labels[1])
        ax.set_title(f"{name}: {found['arms']['NRES, all']['words']}", fontsize=7)
        ax.grid(False)
        ax.legend(fontsize=7, loc="upper left", frameon=True)
    return save(figure, path)
