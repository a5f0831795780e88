"""Fitting a chaotic system: evolution strategies where exact gradients fail (Li et al. 2023, NRES, arXiv 2304.12180).

Two parameters of the Lorenz system are fitted to trajectories of 2,000 Euler steps, an update every 100 of them. The
loss, smoothed by noise on theta, leads to the truth, up to some hundredths, where chaos keeps the loss near 50.
Estimators that see one window at a time (TBPTT, truncated ES) come to rest elsewhere, and exact forward gradients
(DODGE) explode even with the paper's learning rate of 1e-10.

The loss is the mean squared error of a step, and learning rates, the paper's, multiply the gradient of its mean over a
window. Starts are drawn anew for each trajectory; the score is the mean loss over other starts, the same for all.

    python -m experiments lorenz            # a picture and a table, under a minute on two cores
    python -m experiments lorenz --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float

from experiments.gradients._comparison import Contender, Trace, chosen, compare, draw_traces, print_table, report
from experiments.suite.intervals import interval
from experiments.suite.results import write_result
from metalearn.gradients import dodge, full_es, nres, nres_a, pes, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.inner import unroll
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_tasks.systems.lorenz import START, LorenzConfig, lorenz, true_theta


@dataclass(frozen=True)
class LorenzExperimentConfig:
    """Online estimators on the Lorenz system."""

    pairs: int = 200
    """Antithetic pairs of the online estimators, and trajectories of DODGE and TBPTT."""
    window: int = 100
    """Steps an update."""
    sigma: float = 0.04
    """Standard deviation of perturbations."""
    updates: int = 1500
    """Updates of the online estimators; PES makes twice as many, as in the paper; full ES as many as cost the same."""
    drop: int = 2000
    """Update that divides the learning rate of PES by ten; 1,000 in the paper, where some seeds are on the way yet."""
    every: int = 75
    """Updates between two points of a curve."""
    seeds: int = 5
    """Runs of each estimator."""
    test_starts: int = 256
    """Trajectories of the score."""
    length: int = 2000
    """Steps of a trajectory."""
    estimators: tuple[str, ...] = ()
    """Names of those to run, as in the table; none: all."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/lorenz")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def contenders(config: LorenzExperimentConfig) -> dict[str, tuple[Contender, int]]:
    """What is compared, by name, and the inner steps of an update."""
    loop = lorenz(LorenzConfig(length=config.length))
    pairs, window = config.pairs, config.window
    few = max(1, config.pairs // (config.length // window))  # full ES takes whole trajectories, so fewer of them

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


def draw_map(ax: Any, traces: Mapping[str, Trace]) -> None:
    """The way of each seed towards the truth."""
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


def theta_error(trace: Trace) -> dict[str, float]:
    """The distance of theta from the truth after the last update: mean and 95 % interval over the seeds."""
    errors = np.linalg.norm(trace.theta[:, -1] - np.asarray(true_theta()), axis=-1)
    return {key: value.item() for key, value in interval(errors)._asdict().items()}


def test_loss(config: LorenzExperimentConfig) -> Callable[[Float[Array, "2"]], Float[Array, ""]]:
    """The mean loss over starts that no estimator is trained on."""
    loop = lorenz(LorenzConfig(length=config.length))
    keys = jax.random.split(jax.random.key(config.seed + 1_000_003), config.test_starts)
    return lambda theta: unroll(loop, theta, (), keys, config.length)[0].mean()


def main(config: LorenzExperimentConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run all estimators; returns the last test losses with intervals over seeds, and the curves."""
    began = time.monotonic()
    all_of_them = chosen(contenders(config), config.estimators)
    runs = {name: contender for name, (contender, _) in all_of_them.items()}
    traces = compare(runs, jnp.array(START), test_loss(config), config.seeds, config.seed, config.every, progress)
    figure, (left, right) = new_figure(columns=2, width=4.6)
    draw_traces(left, traces, {name: steps for name, (_, steps) in all_of_them.items()})
    left.set_ylabel("test loss")
    left.set_ylim(25, 3000)
    draw_map(right, traces)
    save(figure, config.out / "lorenz.png")
    result = {
        "runs": report(traces),
        "theta_error": {name: theta_error(trace) for name, trace in traces.items()},
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "lorenz.png"),
    }
    return write_result(config.out, result)


if __name__ == "__main__":
    command = tyro.cli(LorenzExperimentConfig, description=__doc__)
    found = main(command, default_progress())
    print_table(found["runs"], "test loss")
    errors = (f"{name} {error['mean']:.2f}" for name, error in found["theta_error"].items() if not error["diverged"])
    print("distance of theta from the truth:", ", ".join(errors))
    print(f"picture: {found['picture']} ({found['seconds']} s)")
    if command.json:
        print(json.dumps(found))
