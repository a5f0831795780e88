"""RNNProp, a recurrent optimizer that reads what Adam and RMSProp would do.

Lv, Jiang and Li 2017, "Learning Gradient Descent: Better Generalization and Longer Horizons" (arXiv 1703.03633).
Inputs that do not change when the gradients are scaled, and bounded updates, are what makes it generalise. The paper's
random scaling of the training problems is a matter of the objectives, not of the optimizer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.optimizers.learned.parts.coordinatewise import (
    LSTMMemory,
    LSTMNetwork,
    coordinatewise,
    lstm_advance,
    lstm_network,
    lstm_start,
    truncated_normal,
)


class RNNPropTheta(NamedTuple):
    """Meta-parameters.

    Attributes:
        weight: of the layer before the LSTM, which reads `(m_hat / sqrt(v_hat), g / sqrt(v_hat))`.
        bias: of that layer.
        network: the LSTM and its output.
    """

    weight: Float[Array, "2 E"]
    bias: Float[Array, "E"]
    network: LSTMNetwork


class RNNPropMemory(NamedTuple):
    """Two moments of the gradient, not bias-corrected, and the memory of the LSTM."""

    first: Float[Array, "N"]
    second: Float[Array, "N"]
    network: LSTMMemory


def rnnprop(
    hidden: tuple[int, ...] = (20, 20), embed: int = 20, decay: float = 0.95, step_size: float = 0.1
) -> LearnedOptimizer:
    """The learned optimizer RNNProp.

    The moments m and v of the gradient with the given decay, bias-corrected as in Adam, make the two inputs
    `m_hat / sqrt(v_hat)` and `g / sqrt(v_hat)`, both within `1 / sqrt(1 - decay)` of 0. They pass a layer of ELU units
    and the LSTM; the update is `step_size tanh(output)`. The defaults are those of published implementations,
    which we could not compare with the paper's own text, and our choice where they differ: the layer of ELU units,
    and 1e-16 under the root, 1e-8 beside it there.

    A gradient that is NaN makes the memory of its own parameter NaN for good, and no other's;
    `optax.apply_if_finite` leaves such steps out.

    Args:
        hidden: units of each LSTM layer.
        embed: units of the ELU layer before the LSTM.
        decay: beta of both moments of the gradient, in [0, 1).
        step_size: the largest possible update.

    Returns:
        The optimizer; theta is an `RNNPropTheta`, a parameter's memory 82 floats. `num_steps` is ignored.

    Raises:
        ValueError: when the decay is not in [0, 1); by `init`, when a layer has no units.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"the decay of the moments must be in [0, 1), got {decay}")

    def init(key: PRNGKeyArray) -> RNNPropTheta:
        if embed < 1:
            raise ValueError(f"the layer before the LSTM needs at least one unit, got embed={embed}")
        key_embed, key_network = jax.random.split(key)
        weight = truncated_normal(key_embed, (2, embed), 2)
        return RNNPropTheta(weight, jnp.zeros(embed), lstm_network(key_network, embed, hidden))

    def start(size: int) -> RNNPropMemory:
        return RNNPropMemory(jnp.zeros(size), jnp.zeros(size), lstm_start(hidden, size))

    def transform(theta: RNNPropTheta, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def advance(memory: Any, step: Array, g: Float[Array, "N"]) -> tuple[Any, Float[Array, "N"]]:
            first = decay * memory.first + (1 - decay) * g
            second = decay * memory.second + (1 - decay) * g * g
            # 1 - decay^t, exact where decay^t is near 1.
            correction = -jnp.expm1((step + 1).astype(jnp.float32) * jnp.log(jnp.float32(decay)))
            # Added under the root, whose derivative is then finite where there has been no gradient yet.
            inverse = jax.lax.rsqrt(second / correction + 1e-16)
            x = theta.weight.T @ jnp.stack([first / correction * inverse, g * inverse])
            x = jax.nn.elu(x + jnp.broadcast_to(theta.bias[:, None], x.shape))
            network, output = lstm_advance(theta.network, memory.network, x)
            return RNNPropMemory(first, second, network), step_size * jnp.tanh(output)

        return coordinatewise(start, advance)

    return LearnedOptimizer(init, transform)
