"""What experiments on learned optimizers share: meta-training several seeds in one compilation, and comparing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float, PRNGKeyArray

from experiments.suite.intervals import Interval, interval, shown
from metalearn.gradients.estimator import Estimator
from metalearn.outer import local_mesh, outer_loop
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_tasks.objectives.evaluation import Tuned, hand_designed, tuned
from metalearn_tasks.objectives.objective import Objective

HAND_DESIGNED: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "SGD": lambda rate: optax.sgd(rate),
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "Nesterov": lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True),
    "RMSProp": lambda rate: optax.rmsprop(rate),
    "Adam": lambda rate: optax.adam(rate),
}
RATES = tuple(float(f"{10**e:.3g}") for e in np.arange(-4.0, 0.51, 0.25))
"""Learning rates a hand-designed optimizer is tried with: four a decade."""


def meta_train(
    label: str,
    optimizer: LearnedOptimizer,
    estimator: Estimator,
    tx: optax.GradientTransformation,
    data: Any,
    steps: int,
    keys: PRNGKeyArray,
    progress: Progress | None = None,
    per_call: int = 50,
) -> list[Any]:
    """Meta-train once for every key, one after the other, in one compilation.

    Args:
        label: for the progress.
        optimizer: what is meta-trained.
        estimator: of its inner loop.
        tx: outer optimizer.
        data: of the inner loop.
        steps: outer steps; rounded up to whole calls.
        keys: one a seed.
        progress: told how far all are.
        per_call: outer steps in a dispatch.

    Returns:
        Theta of each seed.
    """
    per_call = min(per_call, steps)
    calls = -(-steps // per_call)
    loop = outer_loop(estimator, tx, per_call, local_mesh(estimator.batch))
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


def tuned_baselines(
    names: Sequence[str], objective: Objective, data: Any, keys: PRNGKeyArray, length: int, last: int | None = None
) -> dict[str, Tuned]:
    """Hand-designed optimizers, each at the best of `RATES` on the very runs it is compared on."""
    return {
        name: tuned(objective, hand_designed(HAND_DESIGNED[name]), RATES, data, keys, length, last) for name in names
    }


def final_interval(losses: Float[np.ndarray, "S ..."], geometric: bool = True) -> Interval:
    """Mean and 95 % interval of final losses; those of diverged runs are counted, not averaged."""
    return interval(np.asarray(losses, np.float64), geometric)


def loss_table(rows: Mapping[str, tuple[Float[np.ndarray, "S"], str]], measure: str = "final loss") -> str:
    """A line a contender: geometric mean of its final losses with a 95 % interval, and a remark."""
    lines = [f"{'optimizer':<28} {measure + ', geometric mean [95 % interval]':<44} remark"]
    for name, (losses, remark) in rows.items():
        lines.append(f"{name:<28} {shown(final_interval(losses)):<44} {remark}")
    return "\n".join(lines)
