"""Ridge regression (Hoerl and Kennard 1970) refitted after every example, by recursive least squares.

The exact solution at every position for the price of two matrix-vector products an example. The covariance is
kept as a square root (Potter 1963, in Bierman 1977, "Factorization Methods for Discrete Sequential Estimation",
chapter II), which in float32 keeps the digits that the plain Sherman-Morrison update of the inverse loses, and
calls no LAPACK routine. In classification the targets are one-hot labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Learner, Signature, encode_label


class RidgeState(NamedTuple):
    """The fit to the examples so far, `y = target_mean + weights^T (x - input_mean)`.

    Attributes:
        input_mean: mean of the inputs.
        target_mean: mean of the (one-hot) labels.
        root: S with S S^T the inverse of (penalty I + scatter of the inputs around their mean).
        weights: the slopes.
        stored: number of examples.
    """

    input_mean: Float[Array, "D"]
    target_mean: Float[Array, "C"]
    root: Float[Array, "D D"]
    weights: Float[Array, "D C"]
    stored: Float[Array, ""]


@dataclass(frozen=True)
class RidgeConfig:
    """Least squares with a penalty on the weights."""

    penalty: float = 1.0
    """Multiplies the sum of squared weights beside the sum of squared errors; the intercept is free. The default is our
    choice, tuned on randomly projected digits (16 inputs of unit variance); 10 to 100 was best with 196 inputs."""


def ridge(signature: Signature, config: RidgeConfig = RidgeConfig()) -> Learner:
    """Ridge regression on all examples so far, with an unpenalised intercept.

    Minimises `sum_i |y_i - b - W^T x_i|^2 + penalty |W|^2` at every position, as scikit-learn's `Ridge`. The
    intercept costs nothing: adding an example changes the scatter around the mean by one outer product too,
    `n / (n + 1)` times that of its distance from the old mean. The prediction before any example is 0.

    Args:
        signature: shapes of the task. Labels are classes (fitted one-hot; the logits are the fitted values) or real.
        config: the penalty.

    Returns:
        A learner without meta-parameters, exact at any number of examples.

    Raises:
        ValueError: when the penalty is not positive.
    """
    if config.penalty <= 0:
        raise ValueError(f"the penalty must be positive, got {config.penalty}")
    inputs, outputs = signature.inputs, signature.outputs

    def init(key: PRNGKeyArray) -> tuple[()]:
        del key  # nothing is meta-learned
        return ()

    def start(theta: Any, key: PRNGKeyArray) -> RidgeState:
        del theta, key
        root = jnp.eye(inputs) / config.penalty**0.5
        return RidgeState(jnp.zeros(inputs), jnp.zeros(outputs), root, jnp.zeros((inputs, outputs)), jnp.float32(0))

    def predict(theta: Any, state: RidgeState, x: Array) -> Array:
        del theta
        return state.target_mean + _dot(x - state.input_mean, state.weights)

    def observe(theta: Any, state: RidgeState, x: Array, y: Array) -> RidgeState:
        del theta
        n = state.stored
        scale = jnp.sqrt(n / (n + 1))
        z = scale * (x - state.input_mean)
        target = scale * (encode_label(y, outputs) - state.target_mean)
        projected = _dot(z, state.root)
        innovation = 1 + jnp.square(projected).sum()  # 1 + z^T S S^T z
        direction = _dot(state.root, projected)
        error = target - _dot(z, state.weights)
        weights = state.weights + jnp.outer(direction / innovation, error)
        shrink = 1 / (innovation + jnp.sqrt(innovation))
        return RidgeState(
            state.input_mean + (x - state.input_mean) / (n + 1),
            state.target_mean + (encode_label(y, outputs) - state.target_mean) / (n + 1),
            state.root - shrink * jnp.outer(direction, projected),
            weights,
            n + 1,
        )

    size = inputs + outputs + inputs**2 + inputs * outputs + 1
    return Learner(init, start, predict, observe, None, size, signature)


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)  # accelerators default to less than float32
