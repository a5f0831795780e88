"""A chaotic meta-loss in two dimensions: which estimators find the valley (Vicol et al. 2021, arXiv 2112.13835).

The toy problem of PES (Vicol, Metz & Sohl-Dickstein) and of ES-Single, here NRES (Vicol 2023, arXiv 2304.11153): a
learning rate that goes from e^theta_0 to e^theta_1 over 100 steps of gradient descent. The meta-loss is 2488 where
theta starts and 556 at the best point of a grid of spacing 1/4. Exact gradients are stuck in the folds before the
valley, those of whole trajectories and those of windows (TBPTT). Smoothing by noise takes the folds away, and PES and
NRES, which are unbiased, reach the valley. Full ES makes a tenth of their updates from the same steps and has only set
out. Truncated ES smooths too, but its bias leads elsewhere.

    python -m experiments schedule_2d            # a picture and a table, under a minute on two cores
    python -m experiments schedule_2d --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.gradients._comparison import Contender, Trace, chosen, compare, draw_traces, print_table, report
from experiments.suite.results import write_result
from metalearn.gradients import backprop, full_es, nres, pes, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_tasks.systems.schedule_2d import START, Schedule2DConfig, meta_loss, meta_loss_grid, schedule_2d


@dataclass(frozen=True)
class Schedule2DExperimentConfig:
    """Unbiased, truncated and exact gradients on the two-dimensional schedule."""

    pairs: int = 50
    """Antithetic pairs: half of the papers' N."""
    window: int = 10
    """Steps an update, of the online estimators."""
    sigma: float = 0.3
    """Standard deviation of perturbations."""
    biased_sigma: float = 1.0
    """The same for truncated ES, which the papers give more."""
    learning_rate: float = 1e-2
    """Of Adam with b1 = 0.99."""
    updates: int = 5000
    """Updates of the online estimators; full ES and full backprop make as many as cost the same inner steps."""
    every: int = 100
    """Updates between two points of a curve."""
    seeds: int = 5
    """Runs of each estimator."""
    estimators: tuple[str, ...] = ()
    """Names of those to run, as in the table; none: all."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/schedule_2d")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def contenders(config: Schedule2DExperimentConfig) -> dict[str, tuple[Contender, int]]:
    """What is compared, by name, and the inner steps of an update."""
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


def main(config: Schedule2DExperimentConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run all estimators; returns the last meta-losses with intervals over seeds, and the grid's best."""
    began = time.monotonic()
    start, all_of_them = jnp.array(START), chosen(contenders(config), config.estimators)
    runs = {name: contender for name, (contender, _) in all_of_them.items()}
    traces = compare(runs, start, meta_loss, config.seeds, config.seed, config.every, progress)
    axis, losses = meta_loss_grid(-8.0, 8.0, 65)
    best = np.unravel_index(np.argmin(losses), losses.shape)
    figure, (left, right) = new_figure(columns=2, width=4.6)
    draw_paths(left, traces)
    draw_traces(right, traces, {name: steps for name, (_, steps) in all_of_them.items()})
    right.axhline(float(losses[best]), color="0.3", linewidth=0.8, linestyle=":")
    right.set_ylabel("meta-loss")
    right.set_yticks([600, 1000, 2000], ["600", "1000", "2000"])
    right.minorticks_off()
    right.legend(loc="center right", bbox_to_anchor=(1, 0.35), ncols=2, fontsize=8, frameon=False)
    save(figure, config.out / "schedule_2d.png")
    result = {
        "runs": report(traces),
        "grid": {"loss": float(losses[best]), "theta": [float(axis[i]) for i in best]},
        "start": float(meta_loss(start)),
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "schedule_2d.png"),
    }
    return write_result(config.out, result)


def draw_paths(ax: Any, traces: Mapping[str, Trace]) -> None:
    """The way of each estimator's first seed over a map of the meta-loss."""
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


if __name__ == "__main__":
    command = tyro.cli(Schedule2DExperimentConfig, description=__doc__)
    found = main(command, default_progress())
    print_table(found["runs"], "meta-loss")
    grid = found["grid"]
    print(f"best on a grid: {grid['loss']:.1f} at {tuple(grid['theta'])}; at the start: {found['start']:.1f}")
    print(f"picture: {found['picture']} ({found['seconds']} s)")
    if command.json:
        print(json.dumps(found))
