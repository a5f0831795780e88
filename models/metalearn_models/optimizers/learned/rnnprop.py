"""RNNProp, a recurrent optimizer that reads the steps that Adam and RMSProp would make.

Lv, Jiang and Li 2017, "Learning Gradient Descent: Better Generalization and Longer Horizons" (arXiv 1703.03633).
It generalises because its inputs do not change when the gradients are scaled, and because its updates are bounded. The
paper's random scaling of the training problems belongs to the objectives, not to the optimizer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps
from metalearn_models.optimizers.learned.parts.coordinatewise import (
    LSTMMemory,
    LSTMNetwork,
    contract,
    coordinatewise,
    lstm_advance,
    lstm_network,
    lstm_start,
    rest,
    truncated_normal,
)

__all__ = ["RNNPropMemory", "RNNPropTheta", "rnnprop"]


class RNNPropTheta(NamedTuple):
    """Meta-parameters.

    Attributes:
        weight: weight of the layer before the LSTM, which reads `(m_hat / sqrt(v_hat), g / sqrt(v_hat))`.
        bias: bias of that layer.
        network: the LSTM and its output.
    """

    weight: Float[Array, "2 E"]
    bias: Float[Array, "E"]
    network: LSTMNetwork


class RNNPropMemory(NamedTuple):
    """Two moments of the gradient, not bias-corrected, and the memory of the LSTM."""

    first: Float[Array, "*S"]
    second: Float[Array, "*S"]
    network: LSTMMemory


def rnnprop(
    hidden: tuple[int, ...] = (20, 20), embed: int = 20, decay: float = 0.95, step_size: float = 0.1
) -> LearnedOptimizer:
    """The learned optimizer RNNProp.

    The moments m and v of the gradient, bias-corrected as in Adam, make the two inputs `m_hat / sqrt(v_hat)` and
    `g / sqrt(v_hat)`, both within `1 / sqrt(1 - decay)` of 0. A layer of ELU units and the LSTM read them; the update
    is `step_size tanh(output)`. The defaults are those of published implementations, which we could not compare with
    the text of the paper. Where these implementations differ, the choice is ours: the layer of ELU units, and 1e-16
    under the root, where they have 1e-8 beside it.

    A gradient that is NaN makes the memory of its own parameter NaN for good, and of no other parameter;
    `optax.apply_if_finite` skips such steps.

    Args:
        hidden: units of each LSTM layer.
        embed: units of the ELU layer before the LSTM.
        decay: beta of both moments of the gradient, in [0, 1).
        step_size: the largest possible update.

    Returns:
        The optimizer; theta is an `RNNPropTheta`, the memory per parameter 82 floats. `num_steps` is ignored.

    Raises:
        ValueError: the decay is not in [0, 1); by `init`: a layer has no units.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the decay of the moments must be in [0, 1), got {decay}")

    def init(key: PRNGKeyArray) -> RNNPropTheta:
        if embed < 1:
            raise ValueError(f"the layer before the LSTM needs at least one unit, got embed={embed}")
        key_embed, key_network = jax.random.split(key)
        weight = truncated_normal(key_embed, (2, embed), 2)
        return RNNPropTheta(weight, jnp.zeros(embed, jnp.float32), lstm_network(key_network, embed, hidden))

    def start(size: int) -> RNNPropMemory:
        first, second = (jnp.zeros(size, jnp.float32) for _ in range(2))
        return RNNPropMemory(first, second, lstm_start(hidden, size))

    def transform(theta: RNNPropTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def advance(memory: Any, step: Array, g: Float[Array, "*S"]) -> tuple[Any, Float[Array, "*S"]]:
            first = decay * memory.first + (1 - decay) * g
            second = decay * memory.second + (1 - decay) * g * g
            # 1 - decay^t, exact where decay^t is near 1.
            correction = -jnp.expm1((step + 1).astype(jnp.float32) * jnp.log(jnp.float32(decay)))
            # Under the root: its derivative is then finite where all gradients so far were 0.
            inverse = jax.lax.rsqrt(second / correction + 1e-16)
            x = contract(theta.weight, jnp.stack([first / correction * inverse, g * inverse]))
            x = jax.nn.elu(x + theta.bias.reshape(-1, *[1] * g.ndim))
            network, output = lstm_advance(theta.network, memory.network, x)
            new = RNNPropMemory(first, second, network)
            return rest((g == 0) & (memory.first == 0), memory, new, step_size * jnp.tanh(output))

        return coordinatewise(theta, start, advance)

    return LearnedOptimizer(init, transform)
