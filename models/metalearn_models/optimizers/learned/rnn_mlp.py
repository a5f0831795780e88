"""A learned optimizer of two levels: an LSTM over the tensors, a small network over the parameters of each.

Metz, Maheswaranathan, Freeman, Poole and Sohl-Dickstein 2020, "Tasks, stability, architecture, and compute: training
more effective learned optimizers, and using them to train themselves" (arXiv 2009.11243); features, constants, their
order and the initialisation are those of the authors' published code (`RNNMLPLOpt`).

Gradients are clipped at ten times the running root mean square of what came before. The LSTM reads 18 statistics of
each tensor, what the network said of the tensor and the mean of what all LSTMs said at the step before; the network
reads 37 features of each parameter and what the LSTM says of its tensor. The update is `-step_size d exp(exponent m)`.
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
    check_params,
    dense_layers,
    float32,
    inverse_rms,
    require_params,
)
from metalearn_models.optimizers.learned.parts.per_tensor import (
    LSTMState,
    linear,
    log_size,
    lstm_step,
    one_each,
    variance,
    zero_state,
)

DECAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)
"""Of the momenta and of the second moments, per step."""

STATISTICS = 18
"""What the LSTM reads of a tensor, apart from what it and the network said."""

NORMALISED = 3 + 4 * len(DECAYS)
"""Features of a parameter divided by their root mean square over the tensor; those of its tensor follow them."""

FROM_NETWORK, FROM_LSTM, TO_NETWORK = 16, 18, 17
"""Sizes of the messages: network to LSTM, LSTM to the next step's LSTM, LSTM to network."""

TRAIN_DECAY, VALID_DECAY, CLIP_DECAY, CLIP = 0.9, 0.95, 0.99, 10.0
"""Of the running losses, of the running gradient, and how many times that is let through."""


class RNNMLPTheta(NamedTuple):
    """Meta-parameters, 35,799 by default.

    Attributes:
        layers: the network; outputs d, m and the message.
        lstm: the cell's weights.
        to_network: from the cell's output to the network's input.
        to_lstm: from the cell's output to the next step's input.
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


class RunningLoss(NamedTuple):
    """Mean and variance of a loss over the recent past, before bias correction."""

    mean: Float[Array, ""]
    variance: Float[Array, ""]
    updates: Int[Array, ""]


class RNNMLPState(NamedTuple):
    """What the optimizer remembers: ten times the parameters, and 2 H + 16 numbers a tensor.

    Attributes:
        momenta: like params, with a leading axis of the five decays.
        second_moments: the same.
        lstm: a row for each tensor that has entries.
        from_network: the same.
        from_lstm: the LSTMs' message to themselves.
        train: the losses of the steps.
        valid: the validation losses that were handed in.
        size: the running root mean square of the gradients, before bias correction.
        step: updates made so far.
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

    `update` needs the loss as `value=`; it takes a validation loss as `valid_value=` at the steps where there is one.
    Without any, the feature of it reads as a validation loss of 0, as in the published code, which counts a
    validation loss as a step of its own; here it belongs to the step it comes with.

    The tensors share statistics, so that NaN in any gradient or loss makes every update and the memory NaN from
    then on (an infinite gradient is clipped); see `optax.apply_if_finite`.

    Args:
        hidden: widths of the network's hidden layers, at least one; the defaults make 35,799 meta-parameters.
        units: width of the LSTM.
        step_size: factor on the updates.
        exponent: factor on the magnitude m inside the exponential.

    Returns:
        The optimizer; theta is an `RNNMLPTheta`. `num_steps` is ignored.

    Raises:
        ValueError: when there is no hidden layer; by `init`, when a width is not positive; by `update`, when there
            is no loss.
    """
    if not hidden:
        raise ValueError("the network needs at least one hidden layer, got hidden=()")

    def init(key: PRNGKeyArray) -> RNNMLPTheta:
        keys = jax.random.split(key, 6)

        def one_layer(key: PRNGKeyArray, fan_in: int, out: int) -> dict[str, Array]:
            return dense_layers(key, (fan_in, out))[0]

        def message(key: PRNGKeyArray, size: int) -> Array:
            # 0.87962566 is the deviation of a standard normal truncated at 2, so that this one's is 1 / sqrt(size).
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

    def transform(theta: RNNMLPTheta, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> RNNMLPState:
            check_params(params)
            zeros = jax.tree.map(lambda p: jnp.zeros((len(DECAYS), *p.shape), jnp.float32), params)
            rows = sum(p.size > 0 for p in jax.tree.leaves(params))
            messages = jnp.broadcast_to(theta.from_network, (rows, FROM_NETWORK))
            loss = RunningLoss(jnp.float32(0), jnp.float32(0), jnp.int32(0))
            size, step = jnp.float32(1 - CLIP_DECAY), jnp.int32(0)
            return RNNMLPState(
                zeros, zeros, one_each(theta.start, rows), messages, theta.from_lstm, loss, loss, size, step
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
            if value is None:
                raise ValueError(
                    "this learned optimizer reads the loss: call update(grads, state, params, value=loss), got None"
                )
            loss = jnp.asarray(value, jnp.float32)
            train, valid = _follow(state.train, loss, TRAIN_DECAY), state.valid
            if valid_value is not None:
                valid = _follow(valid, jnp.asarray(valid_value, jnp.float32), VALID_DECAY)
            losses = [_relative(train, loss), _relative(train, valid.mean * _correction(valid, VALID_DECAY))]

            leaves, tree = jax.tree.flatten(require_params(params))
            memories = map(tree.flatten_up_to, (updates, state.momenta, state.second_moments))
            tensors = [(float32(p).ravel(), *memory) for p, *memory in zip(leaves, *memories, strict=True) if p.size]
            shapes = [p.shape for p in leaves if p.size]
            limit = CLIP * state.size / (1 - CLIP_DECAY ** (state.step + 1).astype(jnp.float32))
            tensors = [(p, *_accumulate(jnp.clip(float32(g).ravel(), -limit, limit), m, v)) for p, g, m, v in tensors]
            squares = sum((jnp.square(g).mean() for _, g, _, _ in tensors), jnp.float32(0)) / max(len(tensors), 1)
            size = CLIP_DECAY * state.size + (1 - CLIP_DECAY) * jnp.sqrt(squares + 1e-8)

            inputs = [jnp.zeros((0, theta.lstm["weight"].shape[0] - theta.start.hidden.size))]
            for shape, tensor, message in zip(shapes, tensors, state.from_network, strict=True):
                statistics = _statistics(shape, *tensor, *losses)
                inputs.append(jnp.concatenate([state.from_lstm, message, jnp.stack(statistics)])[None])
            lstm = lstm_step(theta.lstm, jnp.concatenate(inputs), state.lstm)
            results, messages = [], [jnp.zeros((0, FROM_NETWORK))]
            for tensor, said in zip(tensors, linear(theta.to_network, lstm.hidden), strict=True):
                tail = jnp.concatenate([_sines(state.step), _sizes(tensor[0], len(tensors)), said])
                (direction, magnitude), message = _network(theta.layers, tail, *tensor)
                results.append((-step_size * direction * jnp.exp(exponent * magnitude), *tensor[2:]))
                messages.append(message[None])

            rest = iter(results)
            full = [next(rest) if p.size else (p, *(jnp.zeros((len(DECAYS), 0)),) * 2) for p in leaves]
            updates = tree.unflatten([r[0].reshape(p.shape).astype(p.dtype) for r, p in zip(full, leaves, strict=True)])
            momenta, seconds = (
                tree.unflatten([r[i].reshape(len(DECAYS), *p.shape) for r, p in zip(full, leaves, strict=True)])
                for i in (1, 2)
            )
            said = linear(theta.to_lstm, lstm.hidden)
            from_lstm = said.mean(0) if tensors else state.from_lstm
            messages = jnp.concatenate(messages)
            return updates, RNNMLPState(momenta, seconds, lstm, messages, from_lstm, train, valid, size, state.step + 1)

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(init, transform)


def _follow(running: RunningLoss, loss: Float[Array, ""], decay: float) -> RunningLoss:
    mean = decay * running.mean + (1 - decay) * loss
    return RunningLoss(mean, decay * running.variance + (1 - decay) * jnp.square(mean - loss), running.updates + 1)


def _correction(running: RunningLoss, decay: float) -> Float[Array, ""]:
    """Of the bias towards 0 of what started there; the means themselves are 0 before any update."""
    # A maximum, not a sum: compiled, 1 - x + 1e-8 becomes (1 + 1e-8) - x, which is 0 at first.
    return 1 / jnp.maximum(1 - decay ** running.updates.astype(jnp.float32), 1e-8)


def _relative(train: RunningLoss, loss: Float[Array, ""]) -> Float[Array, ""]:
    """A loss in deviations from the mean of the recent training losses, at most 5."""
    c = _correction(train, TRAIN_DECAY)
    return jnp.clip((loss - c * train.mean) * jax.lax.rsqrt(c * train.variance + 1e-8), -5, 5)


def _accumulate(g: Float[Array, "N"], m: Array, v: Array) -> tuple[Array, Float[Array, "5 N"], Float[Array, "5 N"]]:
    decays, mixing = (
        jnp.broadcast_to(jnp.array(xs, jnp.float32)[:, None], (len(DECAYS), g.size))
        for xs in (DECAYS, [1 - d for d in DECAYS])
    )
    m, v = m.reshape(decays.shape), v.reshape(decays.shape)
    new = jnp.broadcast_to(g, decays.shape)
    return g, decays * m + mixing * new, decays * v + mixing * (new * new)


def _norm(x: Float[Array, "N"]) -> Float[Array, ""]:
    """Euclidean; its gradient at 0 is 0, where that of the square root is not a number."""
    square = jnp.square(x).sum()
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _statistics(
    shape: tuple[int, ...], p: Array, g: Array, m: Array, v: Array, train: Array, valid: Array
) -> list[Array]:
    """What the LSTM reads of one tensor, in the order of the names in the published code."""
    mean_m, mean_v, mean_p = m.mean(), v.mean(), p.mean()
    sizes = jnp.log(jnp.array((*shape, 1, 1, 1, 1)[:4], jnp.float32)) - 1
    scalar = jnp.float32(-1 if shape else 1)
    norms = log_size(_norm(g)), log_size(_norm(p))
    means = [f(x) for x in (mean_m, mean_v, mean_p) for f in (log_size, jnp.sign)]
    variances = [log_size(variance(x, mean)) for x, mean in ((m, mean_m), (v, mean_v), (p, mean_p))]
    return [norms[0], scalar, *means, norms[1], *sizes, train, valid, *variances]


def _sines(step: Int[Array, ""]) -> Float[Array, "11"]:
    return jnp.sin(step.astype(jnp.float32) / (jnp.array(TIMESCALES, jnp.float32) * jnp.pi))


def _sizes(p: Float[Array, "N"], tensors: int) -> Float[Array, "3"]:
    return jnp.stack([jnp.log(jnp.float32(tensors)) - 1, jnp.log(_norm(p) + 1e-8), jnp.log(jnp.float32(p.size))])


def _network(
    layers: Layers, tail: Float[Array, "T"], p: Array, g: Array, m: Array, v: Array
) -> tuple[Float[Array, "2 N"], Float[Array, "16"]]:
    """Direction and magnitude of every parameter, and the mean of the messages, which is that of the last units.

    What all parameters share is part of the first bias, the normaliser part of the first weights.
    """
    inverse = jax.lax.rsqrt(v + 1e-6)
    features = jnp.concatenate([g[None], p[None], jnp.log(jnp.abs(p) + 1e-8)[None], m, v, m * inverse, inverse])
    weight = layers[0]["weight"]
    scale = inverse_rms(jnp.square(features).mean(1))
    first = weight[:NORMALISED] * jnp.broadcast_to(scale[:, None], (NORMALISED, weight.shape[1]))
    first = {"weight": first, "bias": layers[0]["bias"] + tail @ weight[NORMALISED:]}
    x = features
    for layer in (first, *layers[1:-1]):
        x = layer["weight"].T @ x
        x = jax.nn.relu(x + jnp.broadcast_to(layer["bias"][:, None], x.shape))
    weight, bias = layers[-1]["weight"], layers[-1]["bias"]
    outputs = weight[:, :2].T @ x
    outputs = outputs + jnp.broadcast_to(bias[:2, None], outputs.shape)
    return outputs, x.mean(1) @ weight[:, 2:] + bias[2:]
