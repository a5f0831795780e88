"""Meta-learn the learning rate of a multilayer perceptron and its decay.

This is the MNIST experiment of Vicol, Metz & Sohl-Dickstein 2021 (PES, arXiv 2112.13835) and Vicol 2023 (ES-Single,
arXiv 2304.11153): SGD with momentum and step size a_t = theta_0 / (1 + t / Q)^theta_1. The meta-loss is the training
loss, or the error rate on validation data, whose gradient is zero. Both parameters are positive and learned as
logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.inner import InnerLoop
from metalearn_models.networks.mlp import mlp

__all__ = [
    "Examples",
    "MLPScheduleConfig",
    "MLPState",
    "Objective",
    "Schedule",
    "learning_rate_at",
    "mlp_schedule",
    "schedule",
]

Objective = Literal["train", "accuracy"]
"""What the loss of a step measures; see `MLPScheduleConfig.objective`."""
Examples = tuple[Float[Array, "N D"], Int[Array, " N"]]
"""Inputs and labels."""
Schedule = dict[str, Float[Array, ""]]
"""The theta of a schedule: `log_learning_rate` and `log_decay`."""


@dataclass(frozen=True)
class MLPScheduleConfig:
    """The network, its training and its loss. The batch size is our choice, the other defaults are the papers'."""

    hidden: tuple[int, ...] = (100, 100)
    """Widths of the hidden layers."""
    classes: int = 10
    """C, the number of outputs of the network."""
    momentum: float = 0.9
    """Factor by which the velocity decays per step."""
    timescale: float = 5000.0
    """Q, the number of steps after which the step size has halved if the exponent of its decay is 1."""
    length: int = 5000
    """T, training steps."""
    batch: int = 100
    """Examples per batch, drawn with replacement."""
    objective: Objective = "train"
    """The loss of a step, on a fresh batch after the update. "train": cross-entropy on training examples. "accuracy":
    error rate on validation examples, whose gradient is zero."""


class MLPState(NamedTuple):
    """A network in training.

    Attributes:
        params: parameters of the network.
        velocity: a pytree like the parameters.
    """

    params: Any
    velocity: Any


def schedule(learning_rate: float, decay: float) -> Schedule:
    """Make a theta, in JAX's default float type.

    Args:
        learning_rate: theta_0, the first step size.
        decay: theta_1, the exponent of its decay.

    Raises:
        ValueError: an argument that is not positive.
    """
    if min(learning_rate, decay) <= 0:
        raise ValueError(f"learning_rate and decay must be positive, got {learning_rate} and {decay}")
    return {"log_learning_rate": jnp.array(math.log(learning_rate)), "log_decay": jnp.array(math.log(decay))}


def learning_rate_at(theta: Schedule, t: Array, timescale: float) -> Float[Array, ""]:
    """Compute the step size a_t = theta_0 / (1 + t / Q)^theta_1."""
    elapsed = t.astype(theta["log_decay"].dtype) / timescale
    return jnp.exp(theta["log_learning_rate"] - jnp.exp(theta["log_decay"]) * jnp.log1p(elapsed))


def mlp_schedule(config: MLPScheduleConfig = MLPScheduleConfig()) -> InnerLoop:
    """Make the inner loop: train a network from a fresh start, one batch per step.

    Its theta is `{"log_learning_rate": [], "log_decay": []}` (see `schedule`). Its `data` are training examples
    `(inputs[N, D], labels[N])`, or, with the objective "accuracy", a pair of those for training and validation. A step
    is v <- momentum v + gradient, params <- params - a_t v. Everything is computed in theta's float type.

    Args:
        config: the network, its training, and the loss of a step.

    Returns:
        An inner loop of `config.length` steps. Its aux are the `accuracy` on the batch of the loss, and the
        `learning_rate` of the step.

    Raises:
        UnknownNameError: an unknown objective.
        ValueError: a number that is not positive, or a momentum outside [0, 1).
    """
    if config.objective not in get_args(Objective):
        raise unknown_name("objective", config.objective, get_args(Objective))
    if min(config.classes, config.timescale, config.length, config.batch) <= 0:
        raise ValueError(f"classes, timescale, length and batch must be positive, got {config}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {config.momentum}")

    def split(data: Any) -> tuple[Examples, tuple[Float[Array, "M D"], Int[Array, " M"]]]:
        return data if config.objective == "accuracy" else (data, data)

    def draw(examples: Examples, key: PRNGKeyArray, dtype: Any) -> tuple[Float[Array, "B D"], Int[Array, "B"]]:
        inputs, labels = examples
        chosen = jax.random.randint(key, (config.batch,), 0, len(labels))
        return inputs[chosen].astype(dtype), labels[chosen]

    def logits(params: Any, inputs: Float[Array, "B D"]) -> Float[Array, "B C"]:
        network = mlp(inputs.shape[-1], config.hidden, config.classes)
        return jax.vmap(lambda x: network.apply(params, x))(inputs)

    def cross_entropy(params: Any, inputs: Float[Array, "B D"], labels: Int[Array, "B"]) -> Float[Array, ""]:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, inputs), labels).mean()

    def init(theta: Schedule, data: Any, key: PRNGKeyArray) -> MLPState:
        (inputs, _), _ = split(data)
        dtype = theta["log_learning_rate"].dtype
        params = mlp(inputs.shape[-1], config.hidden, config.classes).init(key)
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        return MLPState(params, jax.tree.map(jnp.zeros_like, params))

    def step(
        theta: Schedule, state: MLPState, t: Array, key: PRNGKeyArray, data: Any
    ) -> tuple[MLPState, Float[Array, ""], dict[str, Array]]:
        train, valid = split(data)
        key_update, key_loss = jax.random.split(key)
        rate = learning_rate_at(theta, t, config.timescale)
        gradient = jax.grad(cross_entropy)(state.params, *draw(train, key_update, rate.dtype))
        velocity = jax.tree.map(lambda v, g: config.momentum * v + g, state.velocity, gradient)
        params = jax.tree.map(lambda p, v: p - rate * v, state.params, velocity)

        inputs, labels = draw(valid, key_loss, rate.dtype)
        scores = logits(params, inputs)
        accuracy = (jnp.argmax(scores, -1) == labels).astype(rate.dtype).mean()
        if config.objective == "accuracy":
            loss = 1 - accuracy
        else:
            loss = optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()
        return MLPState(params, velocity), loss, {"accuracy": accuracy, "learning_rate": rate}

    return InnerLoop(init, step, None, config.length)
