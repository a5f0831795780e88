"""The training of a network with a loss that has free parameters, as an inner loop for any meta-gradient estimator.

With one step, the validation loss after it, and backpropagation this is the meta-training of ML3 (Bechtle et al. 2021,
arXiv 1906.05374) and of EvoMAL's coefficients (Raymond et al. 2023, arXiv 2209.08907). More steps look further ahead
and cost memory or, with evolution strategies, noise.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.inner import InnerLoop
from metalearn_models.losses.parametric import LearnableLoss
from metalearn_models.losses.search.population import LossTask, check_task

__all__ = ["Judge", "TrainingState", "joint_loop", "loss_loop", "task_data", "task_error", "task_loss"]

Examples = tuple[Float[Array, "_N ..."], Array]
TaskData = tuple[tuple[Examples, Examples], ...]
Moment = Literal["every", "last"]


@dataclass(frozen=True)
class Judge:
    """When the network is judged by the task's own loss, and on how many examples.

    Attributes:
        batch: validation examples per judgement, drawn at random. None: all of them, in their order.
        moment: "every": after each step, so the loss of a trajectory is the area under its learning curve. "last":
            after the last step only.
    """

    batch: int | None = 128
    moment: Moment = "every"


class TrainingState(NamedTuple):
    """The state of a training.

    Attributes:
        params: weights of the network.
        memory: state of the optimizer.
    """

    params: Any
    memory: Any


def task_data(tasks: Sequence[LossTask]) -> TaskData:
    """The argument `data` of `joint_loop`: training and validation examples per task."""
    return tuple(
        (jax.tree.map(jnp.asarray, tuple(task.train)), jax.tree.map(jnp.asarray, tuple(task.valid))) for task in tasks
    )


def task_loss(outputs: Float[Array, "B C"], labels: Array, kind: str) -> Float[Array, ""]:
    """The task's own loss, averaged over a batch: cross-entropy or squared error."""
    if kind == "classification":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()
    return jnp.square(outputs - labels.reshape(outputs.shape)).mean()


def task_error(outputs: Float[Array, "B C"], labels: Array, kind: str) -> Float[Array, ""]:
    """The error that tables show: the rate of wrong classes or the squared error; NaN if an output is not finite."""
    if kind != "classification":
        return task_loss(outputs, labels, kind)
    wrong = (jnp.argmax(outputs, -1) != labels).astype(outputs.dtype).mean()
    return jnp.where(jnp.isfinite(outputs).all(), wrong, jnp.nan)


def loss_loop(
    task: LossTask,
    learnable: LearnableLoss,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch: int | None = 128,
    judge: Judge = Judge(),
) -> InnerLoop:
    """Train one network from scratch with the learnable loss, and judge it on validation data by the task's own loss.

    Args:
        task: network and shapes of the data; the data themselves are the loop's argument `data`, see `task_data`.
        learnable: the training loss; its parameters are the loop's theta.
        optimizer: makes one update per training batch and receives the learned loss as `value`. Backpropagation must be
            able to differentiate through it, such as Adam with `eps_root` > 0.
        steps: length of a trajectory, K.
        batch: training examples per step, drawn with replacement. None: all of them, in their order, as if there are no
            more than `batch`.
        judge: when and on how many examples the loss of a step is computed.

    Returns:
        An inner loop of length `steps` over `data = (train, valid)`. The loss of step t is the task's loss after the
        update of step t, and its aux is `{"error": ...}`, the task's error. If only the last step is judged, its values
        are multiplied by K and the others are 0, so the mean over a trajectory is the value after its last step.

    Raises:
        ValueError: a task that cannot be trained on, a number of steps or a batch that is not positive, or an unknown
            moment.
    """
    _check_positive(steps=steps, batch=batch, **{"judge.batch": judge.batch})
    check_task(task)
    if judge.moment not in get_args(Moment):
        raise unknown_name("moment to judge at", judge.moment, get_args(Moment))
    tx = optax.with_extra_args_support(optimizer)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TrainingState:
        del theta, data
        params = task.init(key)
        return TrainingState(params, tx.init(params))

    def step(
        theta: Any, state: TrainingState, t: Array, key: PRNGKeyArray, data: tuple[Examples, Examples]
    ) -> tuple[TrainingState, Array, dict[str, Array]]:
        train, valid = data
        key_train, key_valid = jax.random.split(key)
        xs, ys = _draw(train, batch, key_train)

        def learned_loss(params: Any) -> Array:
            return learnable.apply(theta, task.apply(params, xs), ys).mean()

        value, grads = jax.value_and_grad(learned_loss)(state.params)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, memory = tx.update(grads, state.memory, state.params, value=value)
            params = optax.apply_updates(state.params, updates)

        def measure() -> tuple[Array, Array]:
            xs, ys = _draw(valid, judge.batch, key_valid)
            outputs = task.apply(params, xs)
            return task_loss(outputs, ys, task.kind), task_error(outputs, ys, task.kind)

        if judge.moment == "every":
            loss, error = measure()
        else:
            nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(measure))
            weighted = lambda: jax.tree.map(lambda a: steps * a, measure())  # noqa: E731
            loss, error = jax.lax.cond(t == steps - 1, weighted, lambda: nothing)
        return TrainingState(params, memory), loss, {"error": error}

    return InnerLoop(init, step, None, steps)


def joint_loop(loops: Sequence[InnerLoop]) -> InnerLoop:
    """Run several inner loops side by side with the same theta; losses, aux and meta-gradients are added up.

    Args:
        loops: inner loops of equal length with the same names in their aux.

    Returns:
        An inner loop over a tuple of their data.

    Raises:
        ValueError: `loops` is empty, or their lengths differ.
    """
    lengths = {loop.length for loop in loops}
    if len(lengths) != 1:
        raise ValueError(f"joint loops must have equal lengths, got {[loop.length for loop in loops]}")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> tuple[Any, ...]:
        return tuple(
            loop.init(theta, own, jax.random.fold_in(key, i))
            for i, (loop, own) in enumerate(zip(loops, data, strict=True))
        )

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        outs = [
            loop.step(theta, inner, t, jax.random.fold_in(key, i), own)
            for i, (loop, inner, own) in enumerate(zip(loops, state, data, strict=True))
        ]
        states, losses, aux = zip(*outs, strict=True)
        return tuple(states), _sum(*losses), jax.tree.map(_sum, *aux)

    return InnerLoop(init, step, None, loops[0].length)


def _sum(*values: Array) -> Array:
    return functools.reduce(jnp.add, values)


def _draw(examples: Examples, batch: int | None, key: PRNGKeyArray) -> Examples:
    xs, ys = examples
    if batch is None or batch >= xs.shape[0]:
        return examples
    chosen = jax.random.randint(key, (batch,), 0, xs.shape[0])
    return xs[chosen], ys[chosen]


def _check_positive(**numbers: int | None) -> None:
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
