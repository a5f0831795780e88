"""Meta-training of a component-wise recurrent network on the logarithm of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn.gradients import truncated_backprop
from metalearn.inner import InnerLoop
from metalearn.outer import outer_loop
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_models.optimizers.learned.component_rnn import ComponentTheta, component_rnn
from metalearn_tasks.objectives.functions import rosenbrock, rotate
from metalearn_tasks.objectives.objective import Objective
from metalearn_tasks.objectives.regression import linear_regression
from metalearn_tasks.objectives.training import cap_losses, training_loop

__all__ = ["TASKS", "Recipe", "log_loop", "meta_train"]


class Recipe(NamedTuple):
    """A task and how to meta-train on it.

    Attributes:
        objective: makes the objective.
        factor: outer steps as a multiple of the configured ones.
        learning_rate: first learning rate of the outer Adam; it falls to a hundredth along a cosine.
    """

    objective: Callable[[], Objective]
    factor: int
    learning_rate: float


TASKS = {
    # Few examples, so that curvatures differ and momentum helps. No noise, so that the loss has no floor.
    "regression": Recipe(lambda: linear_regression(inputs=8, examples=10, noise=0.0), 1, 3e-3),
    # Rotated, so that the one minimum cannot be memorised. An update costs a quarter of one on regression.
    "rosenbrock": Recipe(lambda: rotate(rosenbrock()), 4, 5e-3),
}
"""Meta-training tasks by name."""


def log_loop(objective: Objective, optimizer: LearnedOptimizer, length: int) -> InnerLoop:
    """Training with the loss log(loss + 1e-6), so that every order of magnitude counts the same."""
    loop = cap_losses(training_loop(objective, optimizer, length), 1e6)

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, jnp.log(loss + 1e-6), aux

    return loop._replace(step=step)


def meta_train(
    recipe: Recipe,
    *,
    hidden: int,
    length: int,
    window: int,
    batch: int,
    outer_steps: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[ComponentTheta, list[float]]:
    """Meta-train one network.

    Args:
        recipe: the task.
        hidden: state variables of the network.
        length: steps per training run.
        window: steps per outer step.
        batch: training runs that are under way at any time.
        outer_steps: configured outer steps; the recipe multiplies them by its factor.
        seed: seed of theta and of the training runs.
        progress: receives the number of outer steps done.

    Returns:
        The meta-trained theta, and the meta-loss of each outer step.
    """
    outer_steps = recipe.factor * outer_steps
    optimizer = first_order(component_rnn(hidden))
    loop = log_loop(recipe.objective(), optimizer, length)
    rate = optax.cosine_decay_schedule(recipe.learning_rate, outer_steps, 0.01)
    adam = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), 100)
    calls = max(1, outer_steps // 50)
    per_call = outer_steps // calls
    init, step = outer_loop(truncated_backprop(loop, batch, window), adam, steps_per_call=per_call)
    key_theta, key_run = jax.random.split(jax.random.key(seed))
    state, losses = init(optimizer.init(key_theta), (), key_run), []
    for call in range(calls):
        state, metrics = step(state, ())
        losses += np.asarray(metrics["loss"]).tolist()
        if progress is not None:
            progress.update((call + 1) * per_call, {"loss": float(np.mean(losses[-per_call:]))})
    return state.theta, losses
