"""Fitting a chaotic system: evolution strategies where exact gradients fail (Li et al. 2023, NRES, arXiv 2304.12180).

Two parameters of the Lorenz system are fitted to trajectories of 2,000 Euler steps, with one update per 100 steps. The
loss, smoothed by noise on theta, leads to within a few hundredths of the truth, where chaos keeps the loss near 50.
Estimators that see one window at a time (TBPTT, truncated ES) converge elsewhere. Exact forward gradients (DODGE)
explode even with the paper's learning rate of 1e-10.

The loss of a step is its mean squared error. The learning rates are the paper's, and multiply the gradient of the mean
loss over a window. Each trajectory has a fresh start. The score is the mean loss over other starts, the same for all.

    python -m experiments lorenz            # a picture and a table, under a minute on two cores
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.gradients._comparison import (
    Contender,
    Trace,
    compare_estimators,
    draw_traces,
    format_runs,
    select_estimators,
    summarise_traces,
)
from experiments.suite.intervals import finite_interval
from experiments.suite.results import write_result
from metalearn.gradients import dodge, full_es, nres, nres_a, pes, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.inner import unroll
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_tasks.systems.lorenz import START, LorenzConfig, lorenz, true_theta


@dataclass(frozen=True)
class LorenzExperimentConfig:
    """Online estimators on the Lorenz system."""

    pairs: int = 200
    """Antithetic pairs of the online estimators; trajectories of DODGE and TBPTT."""
    window: int = 100
    """Steps per update."""
    sigma: float = 0.04
    """Standard deviation of perturbations."""
    updates: int = 1500
    """Updates of the online estimators. PES makes twice as many, as in the paper; full ES as many as cost the same."""
    drop: int = 2000
    """Update at which the learning rate of PES is divided by ten; 1,000 in the paper, too early for some seeds."""
    every: int = 75
    """Updates between two points of a curve."""
    seeds: int = 5
    """Runs per estimator."""
    test_starts: int = 256
    """Trajectories that the score is a mean over."""
    length: int = 2000
    """Steps per trajectory."""
    estimators: tuple[str, ...] = ()
    """Names of the estimators to run, as in the table; empty: all."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/lorenz")
    """Folder for the picture and the table."""


PRESETS = {"standard": LorenzExperimentConfig()}


def contenders(config: LorenzExperimentConfig) -> dict[str, tuple[Contender, int]]:
    """The contenders by name, each with its inner steps per update."""
    loop = lorenz(LorenzConfig(length=config.length))
    pairs, window = config.pairs, config.window
    few = max(
        1, config.pairs // (config.length // window)
    )  # full ES needs whole trajectories, so it gets fewer of them

    def online(estimator: Estimator, rate: float) -> tuple[Contender, int]:
        return Contender(estimator, optax.sgd(rate), config.updates), window

    falling = optax.piecewise_constant_schedule(1e-5, {config.drop: 0.1})
    whole = max(config.every, config.updates * window // config.length)
    return {
        "NRES": online(nres(loop, config.sigma, pairs, window), 1e-5),
        "PES": (Contender(pes(loop, config.sigma, pairs, window), optax.sgd(falling), 2 * config.updates), window),
        "NRES-A": online(nres_a(loop, config.sigma, pairs, window), 1e-5),
        "full ES": (Contender(full_es(loop, config.sigma, few), optax.sgd(3e-5), whole), config.length),
        "truncated ES": online(truncated_es(loop, config.sigma, pairs, window), 3e-4),
        "TBPTT": online(truncated_backprop(loop, pairs, window), 3e-4),
        "DODGE": online(dodge(loop, pairs, window), 1e-10),
    }


def theta_error(trace: Trace) -> dict[str, float]:
    """Distance of the last theta from the truth: mean and 95 % interval over seeds."""
    errors = np.linalg.norm(trace.theta[:, -1] - np.asarray(true_theta()), axis=-1)
    return {key: value.item() for key, value in finite_interval(errors)._asdict().items()}


def make_test_loss(config: LorenzExperimentConfig) -> Callable[[Float[Array, "2"]], Float[Array, ""]]:
    """A function from theta to the mean loss over starts that no estimator is trained on."""
    loop = lorenz(LorenzConfig(length=config.length))
    keys = jax.random.split(jax.random.key(config.seed + 1_000_003), config.test_starts)
    return lambda theta: unroll(loop, theta, (), keys, config.length)[0].mean()


def run(config: LorenzExperimentConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run all estimators; returns what result.json holds: test losses with intervals over seeds, and curves."""
    start = time.monotonic()
    selected = select_estimators(contenders(config), config.estimators)
    runs = {name: contender for name, (contender, _) in selected.items()}
    score = make_test_loss(config)
    traces = compare_estimators(runs, jnp.array(START), score, config.seeds, config.seed, config.every, progress)
    picture = config.out / "lorenz.png"
    draw(traces, {name: steps for name, (_, steps) in selected.items()}, picture)
    result = {
        "runs": summarise_traces(traces),
        "theta_error": {name: theta_error(trace) for name, trace in traces.items()},
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(picture),
    }
    return write_result(config.out, result)


def draw(traces: Mapping[str, Trace], steps: Mapping[str, int], path: Path) -> None:
    """Draw curves of the test loss, and paths towards the truth; `steps`: inner steps per update."""
    figure, (left, right) = new_figure(columns=2, width=4.6)
    draw_traces(left, traces, steps)
    left.set_ylabel("test loss")
    left.set_ylim(25, 3000)
    draw_map(right, traces)
    save(figure, path)


def draw_map(ax: Any, traces: Mapping[str, Trace]) -> None:
    """Draw the path of each seed towards the truth."""
    for number, trace in enumerate(traces.values()):
        for path in trace.theta:
            ax.plot(path[:, 0], path[:, 1], color=f"C{number}", linewidth=1.2)
            ax.plot(*path[-1], "o", color=f"C{number}", markersize=4)
    ax.plot(*START, "k*", markersize=9, label="start")
    ax.plot(*true_theta(), "k+", markersize=12, markeredgewidth=2, linestyle="", label="truth")
    ax.legend(fontsize=8, frameon=False)
    ax.set_xlim(2.1, 4.1)
    ax.set_ylim(3.1, 3.9)
    ax.set_xlabel("log a")
    ax.set_ylabel("log r")


def format_result(result: Mapping[str, Any]) -> str:
    """The table of test losses, and the distance of theta from the truth."""
    errors = result["theta_error"].items()
    distances = ", ".join(f"{name} {error['mean']:.2f}" for name, error in errors if not error["diverged"])
    return (
        f"{format_runs(result['runs'], 'test loss')}\n"
        f"distance of theta from the truth: {distances}\n"
        f"picture: {result['picture']} ({result['seconds']} s)"
    )
