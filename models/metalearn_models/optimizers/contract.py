"""What every learned optimizer is: meta-parameters, and an optax transformation made from them.

Also what the optimizers of this folder share: the time features and the normalisation of Metz, Freeman, Harrison,
Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and performance in learned
optimizers" (arXiv 2203.11860), and the checks of a caller's arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

__all__ = [
    "TIMESCALES",
    "Differentiate",
    "Layers",
    "LearnedOptimizer",
    "NumSteps",
    "check_params",
    "dense_layers",
    "first_order",
    "float32",
    "inverse_rms",
    "loss_and_gradient",
    "require_loss",
    "require_params",
    "time_features",
]

TIMESCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
"""Numbers of steps over which the time features change."""

Layers = tuple[dict[str, Array], ...]
"""A small ReLU network: `{"weight": [in, out], "bias": [out]}` per layer."""


NumSteps = int | np.integer | Int[Array, ""]
"""The number of training steps to come: a number, or a traced scalar."""


Differentiate = Callable[[Callable[[Any], Float[Array, ""]]], Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]]
"""What an optimizer reads of a loss: `(loss_fn) -> (params, key) -> (loss, grads, extra)`.

`extra` holds further keyword arguments of its `update`; the key may be None where nothing is random.
"""


def loss_and_gradient(
    loss_fn: Callable[[Any], Float[Array, ""]],
) -> Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]:
    """The `Differentiate` of optimizers that read loss and gradient: a training loop passes on nothing else."""

    def compute(params: Any, key: Any = None) -> tuple[Any, Any, dict[str, Any]]:
        del key
        return *jax.value_and_grad(loss_fn)(params), {}

    return compute


class LearnedOptimizer(NamedTuple):
    """An optimizer with meta-parameters.

    Attributes:
        init: `(key) -> theta`, fresh meta-parameters.
        transform: `(theta, num_steps=None) -> optax.GradientTransformationExtraArgs`. `num_steps` is the number of
            training steps to come; optimizers that do not plan ahead ignore it. `update` needs `params` if the
            optimizer reads them. The transformation can be jitted, vmapped over theta or params or both, scanned,
            chained, and differentiated with respect to theta.
        differentiate: how its training loop differentiates the loss. Optimizers that read layer statistics have
            `metalearn_models.optimizers.curvature.loss_and_statistics` here.
    """

    init: Callable[[PRNGKeyArray], Any]
    transform: Callable[..., optax.GradientTransformationExtraArgs]
    differentiate: Differentiate = loss_and_gradient


def first_order(optimizer: LearnedOptimizer) -> LearnedOptimizer:
    """The same optimizer, whose meta-gradient leaves out the derivatives of the gradients it reads.

    Andrychowicz et al. 2016 (arXiv 1606.04474) assume that these are zero, which saves the second derivatives of the
    objective. The path through the parameters, from one update to the next loss, stays.

    Args:
        optimizer: any learned optimizer.

    Returns:
        An optimizer with the same updates and state; differentiation treats the incoming gradients as constants.
    """

    def transform(theta: Any, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        inner = optimizer.transform(theta, num_steps)

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
        ) -> tuple[optax.Updates, Any]:
            return inner.update(jax.lax.stop_gradient(updates), state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    return optimizer._replace(transform=transform)


def time_features(step: Int[Array, ""]) -> Float[Array, "11"]:
    """`tanh(t / T - 1)` for each timescale T, at step t, which counts from 0."""
    return jnp.tanh(step.astype(jnp.float32) / jnp.array(TIMESCALES, jnp.float32) - 1.0)


def inverse_rms(mean_square: Float[Array, "*F"]) -> Float[Array, "*F"]:
    """The factor that scales a feature to about unit size, from its mean square over its tensor."""
    return jax.lax.rsqrt(mean_square + 1e-5)


def dense_layers(key: PRNGKeyArray, widths: tuple[int, ...]) -> Layers:
    """Fresh layers: weights truncated normal (at two standard deviations) of scale 1 / sqrt(fan_in), biases 0.

    Args:
        key: random key.
        widths: inputs, hidden layers, outputs.

    Raises:
        ValueError: a width is less than 1.
    """
    if min(widths) < 1:
        raise ValueError(f"every layer needs at least one unit, got the widths {widths}")
    keys = jax.random.split(key, len(widths) - 1)
    return tuple(
        {
            "weight": jax.random.truncated_normal(k, -2.0, 2.0, (fan_in, out), jnp.float32) / fan_in**0.5,
            "bias": jnp.zeros(out, jnp.float32),
        }
        for k, (fan_in, out) in zip(keys, pairwise(widths), strict=True)
    )


def float32(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """`x` in float32, the dtype of all accumulators and networks, whatever the dtype of the parameters."""
    return jnp.asarray(x, jnp.float32)


def check_params(params: optax.Params) -> None:
    """Check that every parameter can be optimised.

    Raises:
        TypeError: a leaf is not a floating-point array.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"an optimizer updates floating-point parameters, got {dtype} at params"
                f"{jax.tree_util.keystr(path)}: leave it out, or wrap the optimizer in optax.masked"
            )


def require_params(params: optax.Params | None) -> optax.Params:
    """The parameters, for optimizers that read them.

    Raises:
        ValueError: they are missing.
    """
    if params is None:
        raise ValueError("this learned optimizer reads the parameters: call update(grads, state, params), got None")
    return params


def require_loss(value: Any) -> Float[Array, ""]:
    """The loss in float32, for optimizers that read it.

    Raises:
        ValueError: it is missing.
    """
    if value is None:
        raise ValueError(
            "this learned optimizer reads the loss: call update(grads, state, params, value=loss), got value=None"
        )
    return jnp.asarray(value, jnp.float32)
