"""A chaotic meta-loss in two dimensions: which estimators find the valley (Vicol et al. 2021, arXiv 2112.13835).

The toy problem of PES (Vicol, Metz & Sohl-Dickstein) and of ES-Single, here called NRES (Vicol 2023, arXiv
2304.11153): a learning rate that goes from e^theta_0 to e^theta_1 over 100 steps of gradient descent. The meta-loss is
2488 at the start and 556 at the best point of a grid of spacing 1/4. Exact gradients get stuck in the folds before the
valley, both those of whole trajectories and those of windows (TBPTT). Noise smooths the folds away, and the unbiased
estimators PES and NRES reach the valley. Full ES makes a tenth of their updates from the same steps, and gets only a
little way. Truncated ES smooths too, but its bias leads elsewhere.

    python -m experiments schedule_2d            # a picture and a table, under a minute on two cores
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from experiments.gradients._comparison import (
    Contender,
    Trace,
    compare_estimators,
    draw_traces,
    format_runs,
    select_estimators,
    summarise_traces,
)
from experiments.suite.results import write_result
from metalearn.gradients import backprop, full_es, nres, pes, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_tasks.systems.schedule_2d import START, Schedule2DConfig, meta_loss, meta_loss_grid, schedule_2d


@dataclass(frozen=True)
class Schedule2DExperimentConfig:
    """Unbiased, truncated and exact gradients on the two-dimensional schedule."""

    pairs: int = 50
    """Antithetic pairs; half of N in the papers."""
    window: int = 10
    """Steps per update of the online estimators."""
    sigma: float = 0.3
    """Standard deviation of perturbations."""
    biased_sigma: float = 1.0
    """The same for truncated ES, which is larger in the papers too."""
    learning_rate: float = 1e-2
    """Learning rate of Adam with b1 = 0.99."""
    updates: int = 5000
    """Updates of the online estimators; full ES and full backprop make as many as cost the same inner steps."""
    every: int = 100
    """Updates between two points of a curve."""
    seeds: int = 5
    """Runs per estimator."""
    estimators: tuple[str, ...] = ()
    """Names of the estimators to run, as in the table; empty: all."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/schedule_2d")
    """Folder for the picture and the table."""


PRESETS = {"standard": Schedule2DExperimentConfig()}


def contenders(config: Schedule2DExperimentConfig) -> dict[str, tuple[Contender, int]]:
    """The contenders by name, each with its inner steps per update."""
    loop, adam = schedule_2d(), optax.adam(config.learning_rate, b1=0.99)
    length = Schedule2DConfig().length
    whole = max(config.every, config.updates * config.window // length)

    def online(make: Callable[..., Estimator], sigma: float) -> tuple[Contender, int]:
        return Contender(make(loop, sigma, config.pairs, config.window), adam, config.updates), config.window

    return {
        "PES": online(pes, config.sigma),
        "NRES": online(nres, config.sigma),
        "full ES": (Contender(full_es(loop, config.sigma, config.pairs), adam, whole), length),
        "truncated ES": online(truncated_es, config.biased_sigma),
        "TBPTT": (Contender(truncated_backprop(loop, 1, config.window), adam, config.updates), config.window),
        "full backprop": (Contender(backprop(loop, 1), adam, whole), length),
    }


def run(config: Schedule2DExperimentConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run all estimators; returns what result.json holds: meta-losses with intervals, and the grid's best."""
    start_time = time.monotonic()
    start, selected = jnp.array(START), select_estimators(contenders(config), config.estimators)
    runs = {name: contender for name, (contender, _) in selected.items()}
    traces = compare_estimators(runs, start, meta_loss, config.seeds, config.seed, config.every, progress)
    axis, losses = meta_loss_grid(-8.0, 8.0, 65)
    best = np.unravel_index(np.argmin(losses), losses.shape)
    picture = config.out / "schedule_2d.png"
    draw(traces, {name: steps for name, (_, steps) in selected.items()}, float(losses[best]), picture)
    result = {
        "runs": summarise_traces(traces),
        "grid": {"loss": float(losses[best]), "theta": [float(axis[i]) for i in best]},
        "start": float(meta_loss(start)),
        "seconds": round(time.monotonic() - start_time, 1),
        "picture": str(picture),
    }
    return write_result(config.out, result)


def draw(traces: Mapping[str, Trace], steps: Mapping[str, int], best: float, path: Path) -> None:
    """Draw paths on the map of the meta-loss, and curves beside the grid's best; `steps`: inner steps per update."""
    figure, (left, right) = new_figure(columns=2, width=4.6)
    draw_paths(left, traces)
    draw_traces(right, traces, steps)
    right.axhline(best, color="0.3", linewidth=0.8, linestyle=":")
    right.set_ylabel("meta-loss")
    right.set_yticks([600, 1000, 2000], ["600", "1000", "2000"])
    right.minorticks_off()
    right.legend(loc="center right", bbox_to_anchor=(1, 0.35), ncols=2, fontsize=8, frameon=False)
    save(figure, path)


def draw_paths(ax: Any, traces: Mapping[str, Trace]) -> None:
    """Draw the path of each estimator's first seed on a map of the meta-loss."""
    from matplotlib.colors import LogNorm

    axis, losses = meta_loss_grid(-5.0, 5.0, 241)
    image = ax.pcolormesh(axis, axis, np.asarray(losses).T, cmap="Greys", norm=LogNorm(500, 5000), rasterized=True)
    ax.figure.colorbar(
        image, ax=ax, label="meta-loss", extend="max", ticks=[500, 1000, 2000, 5000], format="%d"
    ).minorticks_off()
    for number, (name, trace) in enumerate(traces.items()):
        path = trace.theta[0]
        ax.plot(path[:, 0], path[:, 1], color=f"C{number}", linewidth=1.6, label=name)
        ax.plot(*path[-1], "o", color=f"C{number}", markersize=5, markeredgecolor="white")
    ax.plot(*START, "k*", markersize=9, zorder=3)
    ax.grid(False)
    ax.set_xlabel("theta_0: log of the first learning rate")
    ax.set_ylabel("theta_1: log of the last")


def format_result(result: Mapping[str, Any]) -> str:
    """The table of meta-losses, and the best of a grid."""
    grid = result["grid"]
    return (
        f"{format_runs(result['runs'], 'meta-loss')}\n"
        f"best on a grid: {grid['loss']:.1f} at {tuple(grid['theta'])}; at the start: {result['start']:.1f}\n"
        f"picture: {result['picture']} ({result['seconds']} s)"
    )
