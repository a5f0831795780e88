"""NNAdam: Adam whose hyper-parameters are moved by an LSTM, separately for each tensor.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860), where it is the variant with the smallest cost. Features,
constants, their order and the initialisation are those of the authors' published code (`NNAdam`).

The controls of a tensor are a tenth of the logarithms of its learning rate, 1 - beta1, 1 - beta2 and epsilon. Each step
uses the controls of the step before; then the LSTM reads 19 statistics of the tensor and adds 0.01 times its output to
the controls. With the momentum m and the second moment v, neither bias-corrected, the update is

    -learning_rate (1 + epsilon) m / (epsilon + sqrt(v + 1e-10)),

which is SGD with momentum when epsilon is large.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import (
    LearnedOptimizer,
    NumSteps,
    dense_layers,
    float32,
    require_params,
)
from metalearn_models.optimizers.frame import transformation
from metalearn_models.optimizers.learned.parts.per_tensor import (
    LSTMState,
    linear,
    log_size,
    lstm_step,
    repeat_state,
    variance,
    zero_state,
)

__all__ = ["NNAdamState", "NNAdamTheta", "nn_adam"]

FEATURES = 19
"""Number of statistics of a tensor that the LSTM reads."""

LARGEST_GRADIENT = 1000.0
"""Gradient entries are clipped to this size."""

_LOWEST = tuple(0.1 * math.log(x) for x in (1e-8, math.exp(-10), math.exp(-10), 1e-11))
_HIGHEST = tuple(0.1 * math.log(x) for x in (1e3, 1.0, 1.0, 1e4))


class NNAdamTheta(NamedTuple):
    """Meta-parameters, 6,856 by default.

    Attributes:
        lstm: the cell's weights.
        readout: layer from the cell's output to the increments of the four controls.
        start: the cell's first state.
        controls: with which every tensor starts: a tenth of the logarithms of learning rate, 1 - beta1, 1 - beta2 and
            epsilon.
    """

    lstm: dict[str, Array]
    readout: dict[str, Array]
    start: LSTMState
    controls: Float[Array, "4"]


class NNAdamState(NamedTuple):
    """What the optimizer remembers: twice the parameters, and 4 + 2 H numbers per tensor.

    Attributes:
        momentum: like params.
        second_moment: like params.
        controls: as in theta, one row per tensor that has entries; at least one.
        lstm: state of the cell, likewise.
        step: number of updates so far.
    """

    momentum: Any
    second_moment: Any
    controls: Float[Array, "N 4"]
    lstm: LSTMState
    step: Int[Array, ""]


def nn_adam(
    units: int = 32,
    learning_rate: float = 1e-4,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    output_scale: float = 0.01,
) -> LearnedOptimizer:
    """The learned optimizer NNAdam.

    `init` sets the readout to 0: a fresh NNAdam keeps the hyper-parameters given here.

    An infinite gradient is clipped to a finite one. A gradient with NaN makes the memory, controls and later updates of
    its tensor NaN and does not affect other tensors; see `optax.apply_if_finite`.

    Args:
        units: width of the LSTM; the default makes 6,856 meta-parameters.
        learning_rate: learning rate with which a fresh theta starts every tensor.
        beta1: decay of the momentum with which a fresh theta starts every tensor.
        beta2: decay of the second moment with which a fresh theta starts every tensor.
        epsilon: Adam's epsilon with which a fresh theta starts every tensor.
        output_scale: factor on the LSTM's outputs, which move the four hyper-parameters.

    Returns:
        The optimizer; theta is an `NNAdamTheta`. `num_steps` is ignored.

    Raises:
        ValueError: a hyper-parameter is out of range; by `init`: `units` is less than 1.
    """
    if not (learning_rate > 0 and epsilon > 0 and 0 <= beta1 < 1 and 0 <= beta2 < 1):
        raise ValueError(
            "NNAdam needs a positive learning rate and epsilon, and betas in [0, 1), got "
            f"learning_rate={learning_rate}, beta1={beta1}, beta2={beta2}, epsilon={epsilon}"
        )

    def init(key: PRNGKeyArray) -> NNAdamTheta:
        (lstm,) = dense_layers(key, (FEATURES + units, 4 * units))
        readout = {"weight": jnp.zeros((units, 4), jnp.float32), "bias": jnp.zeros(4, jnp.float32)}
        controls = [0.1 * math.log(x) for x in (learning_rate, 1 - beta1, 1 - beta2, epsilon)]
        return NNAdamTheta(lstm, readout, zero_state(units), jnp.array(controls, jnp.float32))

    def transform(theta: NNAdamTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> NNAdamState:
            momentum, second = (jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params) for _ in range(2))
            rows = max(1, len(jax.tree.leaves(params)))
            controls = jnp.broadcast_to(theta.controls, (rows, 4))
            return NNAdamState(momentum, second, controls, repeat_state(theta.start, rows), jnp.int32(0))

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
        ) -> tuple[optax.Updates, NNAdamState]:
            del extra
            leaves, tree = jax.tree.flatten(require_params(params))
            if not leaves:
                return updates, state._replace(step=state.step + 1)
            memories = map(tree.flatten_up_to, (updates, state.momentum, state.second_moment))
            inputs, results = [], []
            for controls, p, g, *memory in zip(state.controls, leaves, *memories, strict=True):
                g = jnp.clip(float32(g), -LARGEST_GRADIENT, LARGEST_GRADIENT)
                step, *memory = _adam(controls, g, *memory)
                results.append((step.astype(p.dtype), *memory))
                inputs.append(_features(controls, float32(p), g, *memory)[None])
            lstm = lstm_step(theta.lstm, jnp.concatenate(inputs), state.lstm)
            controls = state.controls + output_scale * linear(theta.readout, lstm.hidden)
            lowest, highest = (jnp.broadcast_to(jnp.array(x, jnp.float32), controls.shape) for x in (_LOWEST, _HIGHEST))
            updates, momentum, second = (tree.unflatten([r[i] for r in results]) for i in range(3))
            return updates, NNAdamState(momentum, second, jnp.clip(controls, lowest, highest), lstm, state.step + 1)

        return transformation(theta, start, update)

    return LearnedOptimizer(init, transform)


def _adam(controls: Float[Array, "4"], g: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
    """The update, momentum and second moment of one tensor."""
    rate, mixing1, mixing2, epsilon = jnp.exp(10 * controls)
    m = (1 - mixing1) * m + mixing1 * g
    v = (1 - mixing2) * v + mixing2 * (g * g)
    return -(rate * (1 + epsilon)) / (epsilon + jnp.sqrt(v + 1e-10)) * m, m, v


def _features(controls: Float[Array, "4"], p: Array, g: Array, m: Array, v: Array) -> Float[Array, "19"]:
    """Controls, rank and statistics of one tensor, ordered by their names in the published code."""
    rate, mixing1, mixing2, epsilon = jnp.clip(controls, -5, 5) * 0.2
    means = [x.mean() for x in (g, m, p, v)]
    mean_g, mean_m, mean_p, mean_v = (0.5 * log_size(x) for x in means)
    sign_g, sign_m, sign_p, sign_v = map(jnp.sign, means)
    sizes = 0.5 * log_size(jnp.abs(g).mean())
    variances = [0.5 * log_size(variance(x, mean)) for x, mean in zip((g, m, p, v), means, strict=True)]
    vector, scalar = (jnp.float32(1 if p.ndim == rank else -1) for rank in (1, 0))
    shared = [mixing1, mixing2, epsilon, vector, scalar, rate]
    return jnp.stack([*shared, mean_g, sign_g, sizes, mean_m, sign_m, mean_p, sign_p, mean_v, sign_v, *variances])
