"""The inner loop of a learned optimizer: it trains, and what is meta-learned is how well."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn.inner import InnerLoop
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_tasks.objectives.objective import Objective, start


class TrainingState(NamedTuple):
    """A training run between two steps."""

    problem: Any
    params: Any
    optimizer: Any


def training_loop(objective: Objective, optimizer: LearnedOptimizer, length: int) -> InnerLoop:
    """Training by a learned optimizer, one update a step.

    A run draws a problem of the family and initial parameters. Step t draws a fresh batch by its key, takes loss and
    gradient of the objective on it, and makes one update. The loss reported is that loss: on the step's own batch,
    before its update. It is reported as it is, also where a run has diverged (`capped` bounds it).

    Args:
        objective: what to minimise; its `data` are the loop's.
        optimizer: theta of the loop are its meta-parameters.
        length: steps of a whole run, told to the optimizer as `num_steps`.

    Returns:
        An inner loop without aux.

    Raises:
        ValueError: when `length` is not positive.
    """
    if length < 1:
        raise ValueError(f"a training run needs at least one step, got length={length}")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TrainingState:
        del data
        problem, params = start(objective, key)
        return TrainingState(problem, params, optimizer.transform(theta, length).init(params))

    def step(
        theta: Any, state: TrainingState, t: Array, key: PRNGKeyArray, data: Any
    ) -> tuple[TrainingState, Array, dict[str, Array]]:
        del t  # the optimizer counts its own steps
        batch = objective.sample(state.problem, data, key)
        loss, grads = jax.value_and_grad(objective.loss, 1)(state.problem, state.params, batch)
        updates, memory = optimizer.transform(theta, length).update(grads, state.optimizer, state.params, value=loss)
        return TrainingState(state.problem, optax.apply_updates(state.params, updates), memory), loss, {}

    return InnerLoop(init, step, None, length)


def capped(loop: InnerLoop, ceiling: float) -> InnerLoop:
    """The same loop with losses of at most `ceiling`, which is also what a loss that is not finite counts.

    One diverged run then weighs no more than the ceiling in a mean over runs, and evolution strategies still learn
    from it that it diverged. The gradient of a capped loss is 0 where the run is still finite; backpropagation through
    numbers that are not gives NaN all the same.

    Args:
        loop: any inner loop.
        ceiling: in the units of its losses.

    Raises:
        ValueError: when the ceiling is not a number.
    """
    if not math.isfinite(ceiling):
        raise ValueError(f"losses are capped at a number, got {ceiling}")

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, jnp.where(loss < ceiling, loss, ceiling), aux

    return loop._replace(step=step)


def logarithmic(loop: InnerLoop, floor: float) -> InnerLoop:
    """The same loop with `log(loss + floor)` for its losses, all of them at least 0.

    In the mean over a run its end, where losses are small, then weighs as much as its beginning, and easy problems as
    much as hard ones. A loss far below the floor no longer counts as smaller.

    Args:
        loop: any inner loop.
        floor: in the units of its losses.

    Raises:
        ValueError: when the floor is not positive.
    """
    if not floor > 0:
        raise ValueError(f"the logarithm of a loss needs a positive floor, got {floor}")

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, jnp.log(loss + floor), aux

    return loop._replace(step=step)
