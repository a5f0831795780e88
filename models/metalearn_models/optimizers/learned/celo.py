"""Celo, a small learned update rule under a learned schedule, made to be meta-trained with little compute.

Moudgil, Knyazev, Lajoie and Belilovsky 2025, "Celo: Training Versatile Learned Optimizers on a Compute Diet" (TMLR,
arXiv 2501.12670); features, constants, their order and the initialisation are those of the authors' published code.

The rule is a network on 30 features of a parameter, all divided by their root mean square over the tensor. The
schedule is an LSTM that reads how much of the training is over and how the loss has fallen; its one number multiplies
the update. In the published code every tensor has an LSTM of its own, but all read the same and start the same, so that
here there is one.
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
    check_params,
    dense_layers,
    float32,
    require_params,
)
from metalearn_models.optimizers.learned.parts.celo_rule import FEATURES, apply_rule, start_memory
from metalearn_models.optimizers.learned.parts.per_tensor import LSTMState, linear, lstm_step, one_each, zero_state

FRACTIONS = (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)
"""Of the training, around each of which one input of the LSTM changes."""

LOSS_MEANS = 10
"""Running means of the loss, of time constants from 10 steps to all of the training; a feature each two neighbours."""


class CeloSchedule(NamedTuple):
    """Meta-parameters of the schedule, which the paper meta-trains second.

    Attributes:
        skip: `[18, H]`, from the inputs to the cell.
        mix: the same shape, its outputs after a ReLU are added to those of `skip`.
        lstm: the cell's weights.
        readout: `[H, 1]`, from the cell's output to the logarithm of ten times the multiplier.
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
        rule: the network, which the paper meta-trains first, its multiplier 1: that of a schedule whose `readout` has
            the weight 0 and the bias log 10.
        schedule: what makes the multiplier.
    """

    rule: Layers
    schedule: CeloSchedule


class LossMeans(NamedTuple):
    """The loss at ten time scales.

    Attributes:
        means: running means, before bias correction.
        lowest: the smallest that each was after it.
    """

    means: Float[Array, "10"]
    lowest: Float[Array, "10"]


class CeloState(NamedTuple):
    """What the optimizer remembers: about four times the parameters, and 2 H + 21 numbers.

    Attributes:
        tensors: like params, a `TensorMemory` for each.
        lstm: one row.
        losses: what is left of the losses.
        step: updates made so far.
    """

    tensors: Any
    lstm: LSTMState
    losses: LossMeans
    step: Int[Array, ""]


def celo(
    hidden: tuple[int, ...] = (4, 4), units: int = 64, step_size: float = 1e-3, exponent: float = 1e-3
) -> LearnedOptimizer:
    """The learned optimizer Celo.

    The update is `-multiplier step_size size d exp(exponent m)`: d and m are the outputs of the rule for the parameter,
    size is the root mean square of its tensor, multiplier is what the schedule says. `celo_theta` reads the
    meta-parameters that the authors published; they belong to the default settings.

    `update` needs the loss as `value=`. A loss above twice the largest of its running means counts as that. NaN in a
    loss makes every update NaN from then on, NaN in a gradient those of its tensor; an infinite gradient is clipped.
    See `optax.apply_if_finite`.

    Args:
        hidden: widths of the hidden layers of the rule's network.
        units: width of the schedule's LSTM.
        step_size: factor on the updates.
        exponent: factor on the magnitude m inside the exponential.

    Returns:
        The optimizer; theta is a `CeloTheta`. `transform` needs `num_steps`, a number or a traced scalar; training may
        go on after them.

    Raises:
        ValueError: by `init`, when a width is not positive; by `transform`, when `num_steps` is missing or not
            positive; by `update`, when there is no loss.
    """

    def init(key: PRNGKeyArray) -> CeloTheta:
        keys = jax.random.split(key, 5)
        inputs = len(FRACTIONS) + LOSS_MEANS - 1
        widths = (inputs, units), (inputs, units), (2 * units, 4 * units), (units, 1)
        skip, mix, lstm, readout = (dense_layers(k, w)[0] for k, w in zip(keys[1:], widths, strict=True))
        rule = dense_layers(keys[0], (FEATURES, *hidden, 2))
        return CeloTheta(rule, CeloSchedule(skip, mix, lstm, readout, zero_state(units)))

    def transform(
        theta: CeloTheta, num_steps: int | Int[Array, ""] | None = None
    ) -> optax.GradientTransformationExtraArgs:
        if num_steps is None or (isinstance(num_steps, int | np.integer) and num_steps < 1):
            raise ValueError(
                "Celo plans a whole training: call transform(theta, num_steps), or load(name, num_steps), with the "
                "number of its steps, "
                f"got {num_steps}"
            )
        length = jnp.asarray(num_steps, jnp.float32)
        loss_decays = jnp.exp(-1 / jnp.logspace(1, jnp.log10(length), LOSS_MEANS, dtype=jnp.float32))

        def start(params: optax.Params) -> CeloState:
            check_params(params)
            tensors = jax.tree.map(lambda p: start_memory(p.shape), params)
            losses = LossMeans(jnp.zeros(LOSS_MEANS), jnp.full(LOSS_MEANS, 999999999999.0, jnp.float32))
            return CeloState(tensors, one_each(theta.schedule.start, 1), losses, jnp.int32(0))

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, *, value: Any = None, **extra: Any
        ) -> tuple[optax.Updates, CeloState]:
            del extra
            if value is None:
                raise ValueError(
                    "this learned optimizer reads the loss: call update(grads, state, params, value=loss), got None"
                )
            leaves, tree = jax.tree.flatten(require_params(params))
            losses = _follow(state.losses, loss_decays, state.step, jnp.asarray(value, jnp.float32))
            fraction = state.step.astype(jnp.float32) / length
            inputs = [jnp.tanh(10 * (fraction - jnp.array(FRACTIONS))), _progress(losses, loss_decays, state.step)]
            multiplier, lstm = _schedule(theta.schedule, jnp.concatenate(inputs)[None], state.lstm)
            steps, tensors = [], []
            for p, g, memory in zip(leaves, *map(tree.flatten_up_to, (updates, state.tensors)), strict=True):
                step = jnp.zeros(p.shape)
                if p.size:
                    (direction, magnitude), memory = apply_rule(theta.rule, float32(g), float32(p), memory)
                    size = jnp.sqrt(jnp.square(float32(p)).mean() + 1e-9)
                    step = -multiplier * step_size * size * direction * jnp.exp(exponent * magnitude)
                steps.append(step.astype(p.dtype))
                tensors.append(memory)
            return tree.unflatten(steps), CeloState(tree.unflatten(tensors), lstm, losses, state.step + 1)

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(init, transform)


def _follow(losses: LossMeans, decays: Float[Array, "10"], step: Int[Array, ""], loss: Float[Array, ""]) -> LossMeans:
    # Before the update the correction is that of one update more, as in the published code.
    correction = 1 - decays ** (step + 1).astype(jnp.float32)
    largest = jnp.where(step == 0, loss, (losses.means / correction).max())
    loss = jnp.minimum(2 * jnp.abs(largest), loss)
    means = losses.means * decays + loss * (1 - decays)
    return LossMeans(means, jnp.minimum(losses.lowest, means / correction))


def _progress(losses: LossMeans, decays: Float[Array, "10"], step: Int[Array, ""]) -> Float[Array, "9"]:
    """Each mean between its lowest (-1) and the next slower mean (0); 0 for the first two updates."""
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
