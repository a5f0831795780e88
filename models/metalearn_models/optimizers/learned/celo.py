"""Celo, a small learned update rule under a learned schedule, made for meta-training with little compute.

Moudgil, Knyazev, Lajoie and Belilovsky 2025, "Celo: Training Versatile Learned Optimizers on a Compute Diet" (TMLR,
arXiv 2501.12670); features, constants, their order and the initialisation are those of the authors' published code.

The rule is a network that reads 30 features of a parameter, each divided by its root mean square over the tensor. The
schedule is an LSTM that reads which fraction of the training is over and how the loss has fallen; its one output
multiplies the update. In the published code every tensor has its own LSTM, but all of them read the same inputs and
start in the same state; here there is one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import (
    Layers,
    LearnedOptimizer,
    NumSteps,
    dense_layers,
    float32,
    require_loss,
    require_params,
)
from metalearn_models.optimizers.frame import hold_still, transformation
from metalearn_models.optimizers.learned.parts.celo_rule import FEATURES, TensorMemory, apply_rule, start_memory
from metalearn_models.optimizers.learned.parts.per_tensor import LSTMState, linear, lstm_step, repeat_state, zero_state

__all__ = ["CeloSchedule", "CeloState", "CeloTheta", "LossMeans", "celo"]

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Fractions of the training; around each of them one input of the LSTM changes."""

LOSS_MEANS = 10
"""Number of running means of the loss, with time constants from 10 steps to the whole training.

Each pair of neighbours makes one input of the LSTM."""


class CeloSchedule(NamedTuple):
    """Meta-parameters of the schedule, which the paper meta-trains second.

    Attributes:
        skip: layer `[18, H]` from the inputs to the cell.
        mix: layer `[18, H]`; its outputs, after a ReLU, are added to those of `skip`.
        lstm: the cell's weights.
        readout: layer `[H, 1]` from the cell's output to the logarithm of ten times the multiplier.
        start: the cell's first state.
    """

    skip: dict[str, Array]
    mix: dict[str, Array]
    lstm: dict[str, Array]
    readout: dict[str, Array]
    start: LSTMState


class CeloTheta(NamedTuple):
    """Meta-parameters, 35,803 by default.

    Attributes:
        rule: the network. The paper meta-trains it first, with the multiplier 1, which is that of a schedule whose
            `readout` has weight 0 and bias log 10.
        schedule: makes the multiplier.
    """

    rule: Layers
    schedule: CeloSchedule


class LossMeans(NamedTuple):
    """The loss at ten time scales.

    Attributes:
        means: running means, before bias correction.
        lowest: the smallest value of each mean so far, after bias correction.
    """

    means: Float[Array, "10"]
    lowest: Float[Array, "10"]


class CeloState(NamedTuple):
    """What the optimizer remembers: about four times the parameters, and 2 H + 21 numbers.

    Attributes:
        tensors: a `TensorMemory` whose entries are like params, with those of every tensor.
        lstm: state of the schedule's LSTM, one row.
        losses: running means of the loss.
        step: number of updates so far.
    """

    tensors: TensorMemory
    lstm: LSTMState
    losses: LossMeans
    step: Int[Array, ""]


def celo(
    hidden: tuple[int, ...] = (4, 4), units: int = 64, step_size: float = 1e-3, exponent: float = 1e-3
) -> LearnedOptimizer:
    """The learned optimizer Celo.

    The update is `-multiplier step_size size d exp(exponent m)`. d and m are the outputs of the rule for the parameter,
    size is the root mean square of its tensor, and the multiplier comes from the schedule. `celo_theta` reads the
    meta-parameters that the authors published; they belong to the default settings.

    `update` needs the loss as `value=`. A loss above twice the largest of its running means is clipped to that. NaN in
    a loss makes every later update NaN; NaN in a gradient makes every later update of its tensor NaN. An infinite
    gradient is clipped. See `optax.apply_if_finite`.

    Args:
        hidden: widths of the hidden layers of the rule's network.
        units: width of the schedule's LSTM.
        step_size: factor on the updates.
        exponent: factor on the magnitude m inside the exponential.

    Returns:
        The optimizer; theta is a `CeloTheta`. `transform` needs `num_steps`, a number or a traced scalar; training may
        continue beyond it.

    Raises:
        ValueError: by `init`: a width is less than 1; by `transform`: `num_steps` is missing or less than 1; by
            `update`: the loss is missing.
    """

    def init(key: PRNGKeyArray) -> CeloTheta:
        keys = jax.random.split(key, 5)
        inputs = len(FRACTIONS) + LOSS_MEANS - 1
        widths = (inputs, units), (inputs, units), (2 * units, 4 * units), (units, 1)
        skip, mix, lstm, readout = (dense_layers(k, w)[0] for k, w in zip(keys[1:], widths, strict=True))
        rule = dense_layers(keys[0], (FEATURES, *hidden, 2))
        return CeloTheta(rule, CeloSchedule(skip, mix, lstm, readout, zero_state(units)))

    def transform(theta: CeloTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        if num_steps is None or (isinstance(num_steps, int | np.integer) and num_steps < 1):
            raise ValueError(
                "Celo needs the number of training steps: call transform(theta, num_steps) or load(name, num_steps), "
                f"got num_steps={num_steps}"
            )
        length = jnp.asarray(num_steps, jnp.float32)
        loss_decays = jnp.exp(-1 / jnp.logspace(1, jnp.log10(length), LOSS_MEANS, dtype=jnp.float32))

        def start(params: optax.Params) -> CeloState:
            leaves, tree = jax.tree.flatten(params)
            tensors = _gather(tree, [start_memory(p) for p in leaves])
            losses = LossMeans(jnp.zeros(LOSS_MEANS, jnp.float32), jnp.full(LOSS_MEANS, 999999999999.0, jnp.float32))
            return CeloState(tensors, repeat_state(theta.schedule.start, 1), losses, jnp.int32(0))

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, *, value: Any = None, **extra: Any
        ) -> tuple[optax.Updates, CeloState]:
            del extra
            loss = require_loss(value)
            leaves, tree = jax.tree.flatten(require_params(params))
            losses = _follow(state.losses, loss_decays, state.step, loss)
            fraction = state.step.astype(jnp.float32) / length
            inputs = [
                jnp.tanh(10 * (fraction - jnp.array(FRACTIONS, jnp.float32))),
                _progress(losses, loss_decays, state.step),
            ]
            multiplier, lstm = _schedule(theta.schedule, jnp.concatenate(inputs)[None], state.lstm)
            steps, memories = [], []
            for p, g, *held in zip(leaves, *map(tree.flatten_up_to, (updates, *state.tensors)), strict=True):
                (direction, magnitude), memory = apply_rule(theta.rule, float32(g), float32(p), TensorMemory(*held))
                size = jnp.sqrt(jnp.square(float32(p)).mean() + 1e-9)
                step = -multiplier * step_size * size * direction * jnp.exp(exponent * magnitude)
                steps.append(hold_still(step, g, memory.momenta).astype(p.dtype))
                memories.append(memory)
            return tree.unflatten(steps), CeloState(_gather(tree, memories), lstm, losses, state.step + 1)

        return transformation(theta, start, update)

    return LearnedOptimizer(init, transform)


def _gather(tree: Any, memories: list[TensorMemory]) -> TensorMemory:
    """The memories of all tensors as one, of trees: `nnx.Optimizer` keeps no other structure below the parameters."""
    return TensorMemory(*(tree.unflatten([m[i] for m in memories]) for i in range(len(TensorMemory._fields))))


def _follow(losses: LossMeans, decays: Float[Array, "10"], step: Int[Array, ""], loss: Float[Array, ""]) -> LossMeans:
    # The correction counts one update more than the means have seen, as in the published code.
    correction = 1 - decays ** (step + 1).astype(jnp.float32)
    largest = jnp.where(step == 0, loss, (losses.means / correction).max())
    loss = jnp.minimum(2 * jnp.abs(largest), loss)
    means = losses.means * decays + loss * (1 - decays)
    return LossMeans(means, jnp.minimum(losses.lowest, means / correction))


def _progress(losses: LossMeans, decays: Float[Array, "10"], step: Int[Array, ""]) -> Float[Array, "9"]:
    """Where each mean is between its lowest value (-1) and the next slower mean (0); 0 for the first two updates."""
    means = losses.means / (1 - decays ** (step + 1).astype(jnp.float32))
    faster, lowest = means[:-1], losses.lowest[:-1]
    feature = jnp.clip((faster - lowest) / jnp.maximum(1e-8, means[1:] - lowest) - 1, -1, 1)
    return feature * (step >= 2).astype(jnp.float32)


def _schedule(
    theta: CeloSchedule, inputs: Float[Array, "1 18"], state: LSTMState
) -> tuple[Float[Array, ""], LSTMState]:
    x = linear(theta.skip, inputs) + jax.nn.relu(linear(theta.mix, inputs))
    state = lstm_step(theta.lstm, x, state)
    return 0.1 * jnp.exp(linear(theta.readout, state.hidden)[0, 0]), state
