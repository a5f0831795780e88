"""The coordinate-wise LSTM optimizer.

Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford and de Freitas 2016, "Learning to learn by gradient
descent by gradient descent" (arXiv 1606.04474). Two layers of 20 LSTM cells read the gradient of one parameter. All
parameters share the weights; each has its own memory of 80 floats.

The paper meta-trains it without the derivatives of the gradients it reads: see `first_order`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps
from metalearn_models.optimizers.learned.parts.coordinatewise import (
    LSTMNetwork,
    coordinatewise,
    is_fresh,
    lstm_advance,
    lstm_network,
    lstm_start,
    rest,
)

__all__ = ["Preprocess", "identity", "log_and_sign", "lstm_optimizer"]

Preprocess = Callable[[Float[Array, "*S"]], Float[Array, "F *S"]]
"""Turns the gradients of parameters of any shape into the network's inputs, F numbers per parameter."""


def identity(g: Float[Array, "*S"]) -> Float[Array, "1 *S"]:
    """The gradients as they are."""
    return g[None]


def log_and_sign(p: float = 10.0) -> Preprocess:
    """The logarithm and the sign of each gradient, so that gradients of any size down to exp(-p) are resolved alike.

    The features are `(log|g| / p, sign g)` if |g| >= exp(-p), else `(-1, exp(p) g)`. They are continuous, with finite
    derivatives everywhere. The paper has p = 10. Its published code has p = 5 and adds the machine epsilon to |g|
    inside the logarithm, which changes the feature by less than 1e-5.

    Args:
        p: gradients below exp(-p) are no longer resolved on the logarithmic scale.

    Raises:
        ValueError: `p` is not positive.
    """
    if not p > 0:
        raise ValueError(f"log_and_sign needs p > 0, got {p}")

    def preprocess(g: Float[Array, "*S"]) -> Float[Array, "2 *S"]:
        return jnp.stack([jnp.log(jnp.maximum(jnp.abs(g), math.exp(-p))) / p, jnp.clip(g * math.exp(p), -1.0, 1.0)])

    return preprocess


def lstm_optimizer(
    hidden: tuple[int, ...] = (20, 20), output_scale: float = 1.0, preprocess: Preprocess = identity
) -> LearnedOptimizer:
    """The coordinate-wise LSTM.

    The update is `output_scale` times the linear output of the last layer. The paper uses the defaults on quadratics,
    and `output_scale=0.01, preprocess=log_and_sign()` on neural networks. A parameter stays where it is, with a fresh
    memory, until its gradient is not exactly 0 for the first time; in the paper it moves.

    A gradient that is NaN makes the memory of its own parameter NaN for good, and of no other parameter;
    `optax.apply_if_finite` skips such steps.

    Args:
        hidden: units of each LSTM layer; the memory per parameter is twice their sum, in floats.
        output_scale: factor on the updates.
        preprocess: turns gradients into the network's inputs: `identity`, `log_and_sign(p)`, or your own function.

    Returns:
        The optimizer; theta is an `LSTMNetwork`. `num_steps` is ignored.

    Raises:
        ValueError: by `init`: there is no layer, or a layer has no units.
    """
    features = jax.eval_shape(preprocess, jax.ShapeDtypeStruct((1,), jnp.float32)).shape[0]

    def init(key: PRNGKeyArray) -> LSTMNetwork:
        return lstm_network(key, features, hidden)

    def transform(theta: LSTMNetwork, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def advance(memory: Any, step: Array, g: Float[Array, "*S"]) -> tuple[Any, Float[Array, "*S"]]:
            del step
            new, output = lstm_advance(theta, memory, preprocess(g))
            return rest(is_fresh(memory) & (g == 0), memory, new, output_scale * output)

        return coordinatewise(theta, lambda size: lstm_start(hidden, size), advance)

    return LearnedOptimizer(init, transform)
