"""The meta-trained network beside hand-designed optimizers, each at its best setting, on new problems."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from einops import rearrange, reduce
from jaxtyping import Array, Float

from experiments.learned_optimizers.reverse_engineering.meta_training import log_loop
from metalearn.inner import unroll
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.learned.component_rnn import ComponentTheta, component_rnn
from metalearn_tasks.objectives.objective import Objective

__all__ = ["compare_with_baselines", "hand_designed_grids"]


def hand_designed_grids() -> dict[str, tuple[LearnedOptimizer, Float[np.ndarray, "S 2"]]]:
    """Optimizers by name, with the settings to choose from: learning rates, and one more number each."""

    def grid(*others: float) -> Float[np.ndarray, "S 2"]:
        rates = np.logspace(-4.5, 1, 23)
        return np.stack([x.ravel() for x in np.meshgrid(rates, others, indexing="ij")], -1).astype(np.float32)

    def as_learned(make: Callable[[Any, Any], optax.GradientTransformation]) -> LearnedOptimizer:
        return LearnedOptimizer(
            lambda key: (), lambda theta, num_steps=None: optax.with_extra_args_support(make(theta[0], theta[1]))
        )

    decays = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    return {
        "momentum": (as_learned(lambda rate, beta: optax.sgd(rate, beta)), grid(*decays)),
        "RMSProp": (as_learned(lambda rate, decay: optax.rmsprop(rate, decay)), grid(0.9, 0.99, 0.999)),
        "Adam": (as_learned(lambda rate, beta: optax.adam(rate, beta)), grid(*decays)),
    }


def compare_with_baselines(
    objective: Objective, theta: ComponentTheta, *, length: int, problems: int, seed: int
) -> dict[str, dict[str, float]]:
    """Meta-loss and last loss on new problems; hand-designed optimizers are tuned on as many other problems.

    Args:
        objective: where all are compared.
        theta: the meta-trained network.
        length: steps per training run.
        problems: number of problems of the comparison, and of problems to tune on.
        seed: seed of the meta-training; the problems are drawn from another one.

    Returns:
        `meta_loss` and `last_loss` by optimizer; for hand-designed ones also `learning_rate` and `second`, the other
        number of the best setting.
    """
    keys = jax.random.split(jax.random.key(seed + 1_000_003), 2 * problems)

    def mean_curves(optimizer: LearnedOptimizer, theta: Any) -> Float[Array, "2 T"]:
        """Means over the problems to tune on, and over those of the comparison."""
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            logs, _ = unroll(log_loop(objective, optimizer, length), theta, (), keys, length)
        return reduce(logs, "(part problem) t -> part t", "mean", part=2)

    def summarise(logs: Float[np.ndarray, "T"]) -> dict[str, float]:
        return {"meta_loss": float(logs.mean()), "last_loss": float(np.exp(logs[-1]))}

    learner = component_rnn(theta.initial.shape[0])
    learned = jax.jit(lambda theta: mean_curves(learner, theta))(theta)
    scores = {"learned": summarise(np.asarray(learned[1], np.float64))}
    for name, (optimizer, settings) in hand_designed_grids().items():
        logs = jax.jit(lambda s, o=optimizer: jax.lax.map(lambda x: mean_curves(o, x), s))(settings)
        tuning, test = rearrange(np.asarray(logs, np.float64), "setting part t -> part setting t")
        best = np.argmin(tuning.mean(1))
        rate, second = settings[best].tolist()
        scores[name] = {**summarise(test[best]), "learning_rate": rate, "second": second}
    return scores
