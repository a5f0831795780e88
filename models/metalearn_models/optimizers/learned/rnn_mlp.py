"""A learned optimizer of two levels: one LSTM per tensor, above a small network per parameter.

Metz, Maheswaranathan, Freeman, Poole and Sohl-Dickstein 2020, "Tasks, stability, architecture, and compute: training
more effective learned optimizers, and using them to train themselves" (arXiv 2009.11243). Features, constants, their
order and the initialisation are those of the authors' published code (`RNNMLPLOpt`).

Gradients are clipped at ten times the running root mean square of earlier gradients. The LSTM of a tensor reads 18
statistics of it, the network's message about it and the mean message of all LSTMs, both from the step before. The
network reads 37 features of each parameter and the LSTM's message about its tensor. Its outputs are d, m and the
message; the update is `-step_size d exp(exponent m)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import (
    TIMESCALES,
    Layers,
    LearnedOptimizer,
    NumSteps,
    dense_layers,
    float32,
    inverse_rms,
    require_loss,
    require_params,
)
from metalearn_models.optimizers.frame import hold_still, transformation
from metalearn_models.optimizers.learned.parts.blocks import Block, fold_entries
from metalearn_models.optimizers.learned.parts.per_tensor import (
    LSTMState,
    linear,
    lstm_step,
    repeat_state,
    zero_state,
)
from metalearn_models.optimizers.learned.parts.placement import loose_shape, repeated_zeros
from metalearn_models.optimizers.learned.parts.rnn_mlp_features import (
    DECAYS,
    STATISTICS,
    TRAIN_DECAY,
    VALID_DECAY,
    RunningLoss,
    accumulate,
    relative_losses,
    tensor_sizes,
    tensor_statistics,
    time_sines,
    update_loss,
)

__all__ = ["RNNMLPState", "RNNMLPTheta", "rnn_mlp"]

NORMALISED = 3 + 4 * len(DECAYS)
"""Number of features that are divided by their root mean square over the tensor; features of the tensor follow them."""

FROM_NETWORK, FROM_LSTM, TO_NETWORK = 16, 18, 17
"""Sizes of the messages: network to LSTM, LSTM to the next step's LSTM, LSTM to network."""

CLIP_DECAY, CLIP = 0.99, 10.0
"""Decay of the running root mean square of the gradients; gradients are clipped at this multiple of it."""

WIDTH = 512
"""Parameters per block; measured on a CPU."""


class RNNMLPTheta(NamedTuple):
    """Meta-parameters, 35,799 by default.

    Attributes:
        layers: the network; outputs d, m and the message.
        lstm: the cell's weights.
        to_network: layer from the cell's output to the message to the network.
        to_lstm: layer from the cell's output to the message to all cells at the next step.
        start: the cell's first state.
        from_network: first message of the network.
        from_lstm: first message of the LSTM.
    """

    layers: Layers
    lstm: dict[str, Array]
    to_network: dict[str, Array]
    to_lstm: dict[str, Array]
    start: LSTMState
    from_network: Float[Array, "16"]
    from_lstm: Float[Array, "18"]


class RNNMLPState(NamedTuple):
    """What the optimizer remembers: ten times the parameters, and 2 H + 16 numbers per tensor.

    Attributes:
        momenta: like params, with a leading axis for the five decays.
        second_moments: like params, with a leading axis for the five decays.
        lstm: state of the cell, one row per tensor that has entries; at least one.
        from_network: message of the network, likewise.
        from_lstm: mean message of the LSTMs to themselves.
        train: the running training loss.
        valid: the running validation loss.
        size: the running root mean square of the gradients, before bias correction.
        step: number of updates so far.
    """

    momenta: Any
    second_moments: Any
    lstm: LSTMState
    from_network: Float[Array, "N 16"]
    from_lstm: Float[Array, "18"]
    train: RunningLoss
    valid: RunningLoss
    size: Float[Array, ""]
    step: Int[Array, ""]


def rnn_mlp(
    hidden: tuple[int, ...] = (32, 32), units: int = 64, step_size: float = 1e-3, exponent: float = 1e-3
) -> LearnedOptimizer:
    """The two-level learned optimizer of Metz et al. 2020.

    `update` needs the loss as `value=`, and takes a validation loss as `valid_value=` at any step. Before the first
    validation loss its feature is that of a validation loss of 0, as in the published code. There a validation loss
    counts as a step of its own; here it belongs to the step it comes with.

    The tensors share statistics: NaN in any gradient or loss makes the memory and every later update NaN; see
    `optax.apply_if_finite`. An infinite gradient is clipped.

    Args:
        hidden: widths of the network's hidden layers, at least one; the defaults make 35,799 meta-parameters.
        units: width of the LSTM.
        step_size: factor on the updates.
        exponent: factor on the magnitude m inside the exponential.

    Returns:
        The optimizer; theta is an `RNNMLPTheta`. `num_steps` is ignored.

    Raises:
        ValueError: there is no hidden layer; by `init`: a width is less than 1; by `update`: the loss is missing.
    """
    if not hidden:
        raise ValueError(f"the network needs at least one hidden layer, got hidden={hidden}")

    def init(key: PRNGKeyArray) -> RNNMLPTheta:
        keys = jax.random.split(key, 6)

        def one_layer(key: PRNGKeyArray, fan_in: int, out: int) -> dict[str, Array]:
            return dense_layers(key, (fan_in, out))[0]

        def message(key: PRNGKeyArray, size: int) -> Array:
            # 0.87962566 is the standard deviation of a standard normal truncated at 2: here it becomes 1 / sqrt(size).
            return jax.random.truncated_normal(key, -2.0, 2.0, (size,), jnp.float32) / (0.87962566 * size**0.5)

        inputs = NORMALISED + len(TIMESCALES) + 3 + TO_NETWORK
        return RNNMLPTheta(
            dense_layers(keys[0], (inputs, *hidden, 2 + FROM_NETWORK)),
            one_layer(keys[1], STATISTICS + FROM_LSTM + FROM_NETWORK + units, 4 * units),
            one_layer(keys[2], units, TO_NETWORK),
            one_layer(keys[3], units, FROM_LSTM),
            zero_state(units),
            message(keys[4], FROM_NETWORK),
            message(keys[5], FROM_LSTM),
        )

    def transform(theta: RNNMLPTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> RNNMLPState:
            momenta, second = (jax.tree.map(lambda p: repeated_zeros(p, len(DECAYS)), params) for _ in range(2))
            rows = max(1, len(jax.tree.leaves(params)))
            messages = jnp.broadcast_to(theta.from_network, (rows, FROM_NETWORK))
            loss = RunningLoss(jnp.float32(0), jnp.float32(0), jnp.int32(0))
            size, step = jnp.float32(1 - CLIP_DECAY), jnp.int32(0)
            return RNNMLPState(
                momenta, second, repeat_state(theta.start, rows), messages, theta.from_lstm, loss, loss, size, step
            )

        def update(
            updates: optax.Updates,
            state: Any,
            params: optax.Params | None = None,
            *,
            value: Any = None,
            valid_value: Any = None,
            **extra: Any,
        ) -> tuple[optax.Updates, RNNMLPState]:
            del extra
            loss = require_loss(value)
            train, valid = update_loss(state.train, loss, TRAIN_DECAY), state.valid
            if valid_value is not None:
                valid = update_loss(valid, jnp.asarray(valid_value, jnp.float32), VALID_DECAY)
            losses = relative_losses(train, valid, loss)

            leaves, tree = jax.tree.flatten(require_params(params))
            if not leaves:
                return updates, state._replace(train=train, valid=valid, step=state.step + 1)
            memories = map(tree.flatten_up_to, (updates, state.momenta, state.second_moments))
            limit = CLIP * state.size / (1 - CLIP_DECAY ** (state.step + 1).astype(jnp.float32))
            tensors = []
            for p, g, m, v in zip(leaves, *memories, strict=True):
                shape = loose_shape(p)
                g = jnp.clip(float32(g).reshape(shape), -limit, limit)
                m, v = accumulate(g, *(x.reshape(len(DECAYS), *shape) for x in (m, v)))
                tensors.append((float32(p).reshape(shape), g, m, v))
            squares = sum((jnp.square(g).mean() for _, g, _, _ in tensors), jnp.float32(0)) / len(tensors)
            size = CLIP_DECAY * state.size + (1 - CLIP_DECAY) * jnp.sqrt(squares + 1e-8)

            inputs = []
            for old, (p, g, m, v), message in zip(leaves, tensors, state.from_network, strict=True):
                statistics = tensor_statistics(old.shape, p, g, m, v, losses)
                inputs.append(jnp.concatenate([state.from_lstm, message, statistics])[None])
            lstm = lstm_step(theta.lstm, jnp.concatenate(inputs), state.lstm)
            results, messages = [], []
            for old, (p, g, m, v), to_network in zip(
                leaves, tensors, linear(theta.to_network, lstm.hidden), strict=True
            ):
                tail = jnp.concatenate([time_sines(state.step), tensor_sizes(p, len(tensors)), to_network])
                step, message = _steps(theta.layers, tail, p, g, m, v, step_size, exponent)
                memory = (x.reshape(len(DECAYS), *old.shape) for x in (m, v))
                results.append((step.reshape(old.shape).astype(old.dtype), *memory))
                messages.append(message[None])

            updates, momenta, seconds = (tree.unflatten([r[i] for r in results]) for i in range(3))
            from_lstm, messages = linear(theta.to_lstm, lstm.hidden).mean(0), jnp.concatenate(messages)
            return updates, RNNMLPState(momenta, seconds, lstm, messages, from_lstm, train, valid, size, state.step + 1)

        return transformation(theta, start, update)

    return LearnedOptimizer(init, transform)


def _features(p: Array, g: Array, m: Array, v: Array) -> list[Float[Array, "_ *S"]]:
    """The features that are divided by their root mean square."""
    inverse = jax.lax.rsqrt(v + 1e-6)
    return [g, p, jnp.log(jnp.abs(p) + 1e-8), m, v, m * inverse, inverse]


def _steps(
    layers: Layers, tail: Float[Array, "T"], p: Array, g: Array, m: Array, v: Array, step_size: float, exponent: float
) -> tuple[Float[Array, "*S"], Float[Array, "16"]]:
    """The steps of one tensor, and its mean message, computed from the mean of the last units.

    Features and hidden units exist for one block of parameters at a time, so that they stay in a cache.

    The inputs that all parameters share (`tail`) are part of the first bias, the normaliser is part of the first
    weights.
    """
    entries = tuple(range(1, m.ndim))
    # One mean per kind of feature: joined into one array first, the features are as slow to square as the network is.
    squares = [jnp.square(x).mean(entries) for x in _features(p[None], g[None], m, v)]
    scale = inverse_rms(jnp.concatenate(squares))
    weight = layers[0]["weight"]
    first = weight[:NORMALISED] * jnp.broadcast_to(scale[:, None], (NORMALISED, weight.shape[1]))
    first = {"weight": first, "bias": layers[0]["bias"] + tail @ weight[NORMALISED:]}
    weight, bias = layers[-1]["weight"], layers[-1]["bias"]

    def apply(block: Block, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        steps, units = carry
        x = jnp.concatenate(_features(*(block.of(x, 1) for x in (p[None], g[None], m, v))))
        for layer in (first, *layers[1:-1]):
            x = jnp.tensordot(layer["weight"], x, (0, 0))
            x = jax.nn.relu(x + layer["bias"].reshape(-1, *[1] * p.ndim))
        direction, magnitude = jnp.tensordot(weight[:, :2], x, (0, 0)) + bias[:2].reshape(-1, *[1] * p.ndim)
        step = hold_still(-step_size * direction * jnp.exp(exponent * magnitude), block.of(g, 0), block.of(m, 1))
        return block.put(steps, step, 0), units + x.sum(entries)

    steps, units = fold_entries(p, WIDTH, apply, (jnp.zeros_like(p), jnp.zeros(weight.shape[0], jnp.float32)))
    return steps, (units / p.size) @ weight[:, 2:] + bias[2:]
