"""Measure how well an optimizer trains: loss curves over many runs, and the best learning rate of a baseline.

Runs with the same key have the same problem, start and batches whatever the optimizer, so curves can be compared run
by run. A run whose loss was ever NaN or infinite counts as infinitely bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from metalearn.inner import unroll
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_tasks.objectives.objective import Objective
from metalearn_tasks.objectives.training import training_loop

__all__ = ["TunedLearningRate", "final_losses", "loss_curves", "tune_learning_rate"]


class TunedLearningRate(NamedTuple):
    """A hand-designed optimizer at every learning rate that was tried, and the best of them.

    Attributes:
        rates: the learning rates, ascending.
        final: final loss per rate and run; infinite if the run diverged.
        best: index of the rate with the least mean final loss. A rate at which a run diverged never beats one at which
            none did. If every rate has a diverged run, it is 0.
        curves: the losses of the runs at the best rate, uncapped.
    """

    rates: Float[np.ndarray, " R"]
    final: Float[np.ndarray, "R K"]
    best: int
    curves: Float[np.ndarray, "K T"]

    @property
    def rate(self) -> float:
        """The best learning rate."""
        return float(self.rates[self.best])

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the least or the largest one tried, so a better one may lie outside the grid."""
        return self.best in (0, len(self.rates) - 1)


def loss_curves(
    objective: Objective, optimizer: LearnedOptimizer, theta: Any, data: Any, keys: Key[Array, " K"], length: int
) -> Float[Array, "K T"]:
    """Train once per key.

    Args:
        objective: what to minimise. It is hashed, like the optimizer: a second call with the same objects and shapes
            does not compile again.
        optimizer: the optimizer that trains.
        theta: its meta-parameters.
        data: the data of the objective.
        keys: one per run.
        length: T, steps per run.

    Returns:
        The loss on each step's batch before its update, uncapped.

    Raises:
        ValueError: `length` is not positive.
    """
    return _train(objective, optimizer, length, theta, data, keys)


def final_losses(curves: Float[np.ndarray | Array, "*K T"], last: int | None = None) -> Float[np.ndarray, "*K"]:
    """Average the losses of each run over its last steps; a run with any NaN or infinite loss gets infinity.

    Args:
        curves: losses, with the steps as the last axis.
        last: number of steps in the average. None: a tenth of them, at least one.

    Returns:
        The final loss of each run, in float64.

    Raises:
        ValueError: `last` is not between 1 and T.
    """
    losses = np.asarray(curves, np.float64)
    last = _resolve_last(losses.shape[-1], last)
    with np.errstate(invalid="ignore"):  # Infinities of both signs add up to NaN, which is replaced below.
        means = losses[..., -last:].mean(-1)
    return np.where(np.isfinite(losses).all(-1), means, np.inf)


def tune_learning_rate(
    objective: Objective,
    optimizer: LearnedOptimizer,
    rates: Sequence[float] | Float[np.ndarray, " R"],
    data: Any,
    keys: Key[Array, " K"],
    length: int,
    last: int | None = None,
) -> TunedLearningRate:
    """Train at every learning rate from every key, in one compiled program, and pick the best rate.

    Args:
        objective: what to minimise.
        optimizer: an optimizer whose theta is its learning rate; see `baselines.hand_designed_optimizer`.
        rates: learning rates to try; see `baselines.learning_rates`.
        data: the data of the objective.
        keys: one per run, the same for every rate.
        length: T, steps per run.
        last: number of steps that make the final loss; see `final_losses`.

    Returns:
        All final losses, and the best rate.

    Raises:
        ValueError: no rate, a rate that is not positive and finite, or two equal rates; `length` or `last` out of
            range.
    """
    ascending = np.unique(np.asarray(rates, np.float64))
    if ascending.size == 0 or ascending.size != np.size(rates):
        raise ValueError(f"rates must have at least one learning rate and each only once, got {list(rates)}")
    if not (np.isfinite(ascending).all() and ascending[0] > 0):
        raise ValueError(f"rates must be positive and finite, got {list(rates)}")
    last = _resolve_last(length, last) if length > 0 else None  # The training loop refuses other lengths.
    losses = np.asarray(_train_at_rates(objective, optimizer, length, jnp.asarray(ascending, jnp.float32), data, keys))
    final = final_losses(losses, last)
    best = int(np.argmin(final.mean(1)))
    return TunedLearningRate(ascending, final, best, losses[best])


def _resolve_last(length: int, last: int | None) -> int:
    last = max(1, length // 10) if last is None else last
    if not 1 <= last <= length:
        raise ValueError(f"last must be between 1 and the {length} steps of a run, got {last}")
    return last


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train(
    objective: Objective, optimizer: LearnedOptimizer, length: int, theta: Any, data: Any, keys: Key[Array, " K"]
) -> Float[Array, "K T"]:
    return unroll(training_loop(objective, optimizer, length), theta, data, keys, length)[0]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train_at_rates(
    objective: Objective, optimizer: LearnedOptimizer, length: int, rates: Array, data: Any, keys: Key[Array, " K"]
) -> Float[Array, "R K T"]:
    return jax.vmap(lambda rate: _train(objective, optimizer, length, rate, data, keys))(rates)
