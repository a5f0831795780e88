"""Meta-training of several seeds in one compiled program, tuned baselines, and tables of final losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Key

from experiments.suite.intervals import SeedInterval, finite_interval, format_interval
from metalearn.gradients.estimator import Estimator
from metalearn.outer import local_mesh, outer_loop
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_tasks.objectives import (
    Objective,
    TunedLearningRate,
    baseline,
    learning_rates,
    tune_learning_rate,
)

__all__ = [
    "RATES",
    "clipped_adam",
    "final_interval",
    "format_losses",
    "meta_train_seeds",
    "over_adam",
    "tune_baselines",
]

RATES = learning_rates(1e-4, 3.16, per_decade=4)
"""Learning rates that hand-designed optimizers are tuned over: four per decade."""


def meta_train_seeds(
    label: str,
    optimizer: LearnedOptimizer,
    estimator: Estimator,
    outer_optimizer: optax.GradientTransformation,
    data: Any,
    steps: int,
    keys: Key[Array, "S"],
    progress: Progress | None = None,
    per_call: int = 50,
) -> list[Any]:
    """Meta-train once per key, one run after the other, with a single compilation.

    Args:
        label: name of the learned optimizer in the progress.
        optimizer: the learned optimizer.
        estimator: estimator of the meta-gradients of its inner loop.
        outer_optimizer: optimizer of theta.
        data: data of the inner loop.
        steps: outer steps; rounded up to whole calls.
        keys: one key per seed.
        progress: receives the number of calls done.
        per_call: outer steps per dispatch.

    Returns:
        Theta of each seed.
    """
    per_call = min(per_call, steps)
    calls = -(-steps // per_call)
    loop = outer_loop(estimator, outer_optimizer, per_call, local_mesh(estimator.batch))
    thetas = []
    if progress is not None:
        progress.note(f"meta-training {label}, {len(keys)} seed{'s' if len(keys) > 1 else ''}")
        progress.start(0, calls * len(keys))
    for seed, key in enumerate(keys):
        theta_key, outer_key = jax.random.split(key)
        state = loop.init(optimizer.init(theta_key), data, outer_key)
        for call in range(calls):
            state, metrics = loop.step(state, data)
            if progress is not None:
                progress.update(seed * calls + call + 1, {"loss": float(metrics["loss"].mean())})
        thetas.append(jax.tree.map(np.asarray, state.theta))
    if progress is not None:
        progress.close()
    return thetas


def clipped_adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam on gradients clipped to norm 1; its learning rate falls to a hundredth along a cosine."""
    schedule = optax.cosine_decay_schedule(learning_rate, steps, 0.01)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def tune_baselines(
    names: Sequence[str],
    objective: Objective,
    data: Any,
    keys: Key[Array, "K"],
    length: int,
    last: int | None = None,
) -> dict[str, TunedLearningRate]:
    """Hand-designed optimizers, each at the best of `RATES` on the same runs that it is compared on.

    Args:
        names: names of `baseline`, in any case: "Adam", "SGD".
        objective: what to minimise.
        data: data of the objective.
        keys: one key per run.
        length: steps per run.
        last: number of last steps whose mean is the final loss; None: a tenth of `length`.
    """
    optimizers = {name: baseline(name.lower()) for name in names}
    return {
        name: tune_learning_rate(objective, optimizer, RATES, data, keys, length, last)
        for name, optimizer in optimizers.items()
    }


def final_interval(losses: Float[np.ndarray, "S"]) -> SeedInterval:
    """Geometric mean and 95 % interval of final losses; those of diverged runs are counted and left out."""
    return finite_interval(np.asarray(losses, np.float64), geometric=True)


def over_adam(losses: Float[np.ndarray, "S"], adam: Float[np.ndarray, "K"]) -> float:
    """The geometric mean of final losses over that of Adam's."""
    return float(final_interval(losses).mean / final_interval(adam).mean)


def format_losses(rows: Mapping[str, tuple[SeedInterval, str]], measure: str = "final loss") -> str:
    """A table with one line per optimizer: geometric mean and 95 % interval of its final losses, and a remark."""
    lines = [f"{'optimizer':<28} {measure + ', geometric mean [95 % interval]':<44} remark"]
    for name, (found, remark) in rows.items():
        lines.append(f"{name:<28} {format_interval(found):<44} {remark}")
    return "\n".join(lines)
