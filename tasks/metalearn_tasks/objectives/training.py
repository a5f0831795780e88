"""The inner loop of a learned optimizer: it trains on an objective, and its training losses are the meta-loss."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn.inner import InnerLoop
from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps
from metalearn_tasks.objectives.objective import Objective, draw_start

__all__ = [
    "TrainingState",
    "cap_losses",
    "log_transform_losses",
    "training_loop",
    "training_loop_of_lengths",
    "weigh_late_losses",
]


OPTIMIZER = 0x6F7074
"""Folded into a step's key, it gives the key of what an optimizer samples; any number that `sample` does not use."""


class TrainingState(NamedTuple):
    """A training run between two steps."""

    problem: Any
    params: Any
    optimizer: Any


def training_loop(objective: Objective, optimizer: LearnedOptimizer, length: int) -> InnerLoop:
    """Make an inner loop of training by a learned optimizer, one update per step.

    A run draws a problem of the family and initial parameters. Step t draws a fresh batch with its key, computes the
    objective's loss and gradient on it, with whatever else the optimizer reads, and makes one update. It reports that
    loss, which is on the step's own batch and before its update, even if it is not finite (`cap_losses` bounds it).

    Args:
        objective: what to minimise; its `data` are those of the loop.
        optimizer: what trains; its meta-parameters are the theta of the loop.
        length: steps per run; the optimizer gets this number as `num_steps`.

    Returns:
        An inner loop without aux.

    Raises:
        ValueError: `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TrainingState:
        del data
        return _start(objective, optimizer, theta, key, length)

    def step(
        theta: Any, state: TrainingState, t: Array, key: PRNGKeyArray, data: Any
    ) -> tuple[TrainingState, Array, dict[str, Array]]:
        del t  # The optimizer counts its own steps.
        return _step(objective, optimizer, theta, state, key, data, length)

    return InnerLoop(init, step, None, length)


def training_loop_of_lengths(objective: Objective, optimizer: LearnedOptimizer, longest: int) -> InnerLoop:
    """The loop of `training_loop`, for runs of several lengths: the optimizer gets that of its own run as `num_steps`.

    Args:
        objective: what to minimise.
        optimizer: what trains.
        longest: steps of the longest run, and of those whose length nobody says.

    Returns:
        An inner loop whose state is a `TrainingState` and the length of the run.

    Raises:
        ValueError: `longest` is not positive.
    """
    if longest < 1:
        raise ValueError(f"longest must be at least 1, got {longest}")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> tuple[TrainingState, Array]:
        del data
        return _start(objective, optimizer, theta, key, longest), jnp.int32(longest)

    def step(
        theta: Any, state: tuple[TrainingState, Array], t: Array, key: PRNGKeyArray, data: Any
    ) -> tuple[tuple[TrainingState, Array], Array, dict[str, Array]]:
        del t
        training, length = state
        training, loss, aux = _step(objective, optimizer, theta, training, key, data, length)
        return (training, length), loss, aux

    def with_length(state: tuple[TrainingState, Array], length: Array) -> tuple[TrainingState, Array]:
        return state[0], length

    return InnerLoop(init, step, None, longest, with_length=with_length)


def _start(
    objective: Objective, optimizer: LearnedOptimizer, theta: Any, key: PRNGKeyArray, length: int
) -> TrainingState:
    problem, params = draw_start(objective, key)
    return TrainingState(problem, params, optimizer.transform(theta, length).init(params))


def _step(
    objective: Objective,
    optimizer: LearnedOptimizer,
    theta: Any,
    state: TrainingState,
    key: PRNGKeyArray,
    data: Any,
    length: NumSteps,
) -> tuple[TrainingState, Array, dict[str, Array]]:
    batch = objective.sample(state.problem, data, key)
    differentiate = optimizer.differentiate(lambda params: objective.loss(state.problem, params, batch))
    loss, grads, extra = differentiate(state.params, jax.random.fold_in(key, OPTIMIZER))
    tx = optimizer.transform(theta, length)
    updates, memory = tx.update(grads, state.optimizer, state.params, value=loss, **extra)
    return TrainingState(state.problem, optax.apply_updates(state.params, updates), memory), loss, {}


def cap_losses(loop: InnerLoop, ceiling: float) -> InnerLoop:
    """Return the same loop with every loss above `ceiling`, and NaN and infinity, replaced by `ceiling`.

    A diverged run then adds no more than the ceiling to a mean over runs, and evolution strategies still learn that it
    diverged. The gradient of a capped loss is 0 while the run is finite; backpropagation through NaN or infinity still
    gives NaN.

    Args:
        loop: any inner loop.
        ceiling: the largest loss, in the units of the loop's losses.

    Raises:
        ValueError: the ceiling is not finite.
    """
    if not math.isfinite(ceiling):
        raise ValueError(f"ceiling must be a finite number, got {ceiling}")

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, jnp.where(loss < ceiling, loss, ceiling), aux

    return loop._replace(step=step)


def log_transform_losses(loop: InnerLoop, floor: float) -> InnerLoop:
    """Return the same loop with `log(loss + floor)` in place of each loss; losses must be at least 0.

    The end of a run, where losses are small, then weighs as much in the mean as its beginning, and easy problems weigh
    as much as hard ones. Differences between losses far below the floor no longer count.

    Args:
        loop: any inner loop.
        floor: in the units of the loop's losses.

    Raises:
        ValueError: the floor is not positive.
    """
    if not floor > 0:
        raise ValueError(f"floor must be positive, got {floor}")

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, jnp.log(loss + floor), aux

    return loop._replace(step=step)


def weigh_late_losses(loop: InnerLoop) -> InnerLoop:
    """Return the same loop whose losses are multiplied by weights that grow linearly, from about 0 to about 2.

    The mean weight over a trajectory of the loop's length is 1; shorter ones weigh less, as their length. What counts
    in a training run is where it ends: with a learning rate that
    falls to 0, a rule that is slower at first may end lower.

    Args:
        loop: an inner loop with a length.

    Raises:
        ValueError: the loop has no length.
    """
    if loop.length is None:
        raise ValueError("weights that grow over a run need an inner loop of fixed length; this one has length=None")
    length = loop.length

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, loss * (2 * (t + 1) / (length + 1)).astype(loss.dtype), aux

    return loop._replace(step=step, run=None)
