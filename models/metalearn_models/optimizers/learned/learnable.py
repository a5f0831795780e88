"""SGD, momentum and Adam with learned hyper-parameters: the baselines of every learned optimizer.

SGD, SGD with momentum (Polyak 1964) and Adam (Kingma and Ba 2014, arXiv 1412.6980). As in Metz et al. 2022 (arXiv
2203.11860), theta holds the logarithms of the learning rate, of 1 - beta and of epsilon; a beta below 0 counts as 0.
Each equals optax's optimizer with the same hyper-parameters.

A gradient that is not finite makes the update and the memory not finite, for good; see `optax.apply_if_finite`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps, float32
from metalearn_models.optimizers.frame import transformation
from metalearn_models.optimizers.learned.parts.constants import constant_init, log_of_positive, scale_like

__all__ = [
    "AdamState",
    "AdamTheta",
    "MomentumTheta",
    "SGDTheta",
    "learnable_adam",
    "learnable_momentum",
    "learnable_sgd",
]


class SGDTheta(NamedTuple):
    """Meta-parameters of SGD."""

    log_learning_rate: Float[Array, ""]


class MomentumTheta(NamedTuple):
    """Meta-parameters of SGD with momentum; `log_forgetting` is log(1 - beta)."""

    log_learning_rate: Float[Array, ""]
    log_forgetting: Float[Array, ""]


class AdamTheta(NamedTuple):
    """Meta-parameters of Adam; `log_forgetting1` is log(1 - beta1), `log_forgetting2` is log(1 - beta2)."""

    log_learning_rate: Float[Array, ""]
    log_forgetting1: Float[Array, ""]
    log_forgetting2: Float[Array, ""]
    log_epsilon: Float[Array, ""]


class AdamState(NamedTuple):
    """Momentum and second moment, each like params and before bias correction, and the number of updates so far."""

    momentum: Any
    second_moment: Any
    step: Int[Array, ""]


def learnable_sgd(learning_rate: float = 1e-2) -> LearnedOptimizer:
    """SGD: the update is `-learning_rate g`.

    Args:
        learning_rate: learning rate of a fresh theta.

    Returns:
        The optimizer; theta is an `SGDTheta`. `num_steps` is ignored, and `update` works without `params`.

    Raises:
        ValueError: the learning rate is not positive.
    """
    fresh = SGDTheta(log_of_positive("learning_rate", learning_rate))

    def transform(theta: SGDTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> tuple[()]:
            del params
            return ()

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            del params, extra
            return scale_like(updates, updates, -jnp.exp(theta.log_learning_rate)), state

        return transformation(theta, start, update)

    return LearnedOptimizer(constant_init(fresh), transform)


def learnable_momentum(learning_rate: float = 1e-2, momentum: float = 0.9) -> LearnedOptimizer:
    """SGD with momentum: the update is `-learning_rate m`, with `m = beta m + g`, as in `optax.sgd`.

    Args:
        learning_rate: learning rate of a fresh theta.
        momentum: decay of the momentum of a fresh theta, beta.

    Returns:
        The optimizer; theta is a `MomentumTheta`. `num_steps` is ignored, and `update` works without `params`.

    Raises:
        ValueError: the learning rate is not positive, or the momentum is not in [0, 1).
    """
    fresh = MomentumTheta(log_of_positive("learning_rate", learning_rate), _log_forgetting("momentum", momentum))

    def transform(theta: MomentumTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            del params, extra
            decay = 1 - _mixing(theta.log_forgetting)
            state = jax.tree.map(lambda m, g: decay * m + float32(g), state, updates)
            return scale_like(state, updates, -jnp.exp(theta.log_learning_rate)), state

        return transformation(theta, _zeros, update)

    return LearnedOptimizer(constant_init(fresh), transform)


def learnable_adam(
    learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> LearnedOptimizer:
    """Adam with bias correction, as `optax.adam`.

    Unlike in `optax.adam`, the gradient with respect to theta is finite where the second moment is 0.

    Args:
        learning_rate: learning rate of a fresh theta.
        beta1: decay of the momentum of a fresh theta.
        beta2: decay of the second moment of a fresh theta.
        epsilon: epsilon of a fresh theta, added to the root of the second moment.

    Returns:
        The optimizer; theta is an `AdamTheta`. `num_steps` is ignored, and `update` works without `params`.

    Raises:
        ValueError: the learning rate or epsilon is not positive, or a beta is not in [0, 1).
    """
    fresh = AdamTheta(
        log_of_positive("learning_rate", learning_rate),
        _log_forgetting("beta1", beta1),
        _log_forgetting("beta2", beta2),
        log_of_positive("epsilon", epsilon),
    )

    def transform(theta: AdamTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> AdamState:
            return AdamState(_zeros(params), _zeros(params), jnp.int32(0))

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            del params, extra
            step = state.step + 1
            mixing1, mixing2 = _mixing(theta.log_forgetting1), _mixing(theta.log_forgetting2)
            m = jax.tree.map(lambda m, g: (1 - mixing1) * m + mixing1 * float32(g), state.momentum, updates)
            v = jax.tree.map(
                lambda v, g: (1 - mixing2) * v + mixing2 * jnp.square(float32(g)), state.second_moment, updates
            )
            bias1, bias2 = _bias(mixing1, step), _bias(mixing2, step)
            epsilon = jnp.exp(theta.log_epsilon)
            direction = jax.tree.map(lambda m, v: m / bias1 / (_root(v / bias2) + epsilon), m, v)
            return scale_like(direction, updates, -jnp.exp(theta.log_learning_rate)), AdamState(m, v, step)

        return transformation(theta, start, update)

    return LearnedOptimizer(constant_init(fresh), transform)


def _log_forgetting(name: str, beta: float) -> Float[Array, ""]:
    if not 0 <= beta < 1:
        raise ValueError(f"{name} must be in [0, 1), because log(1 - {name}) is learned, got {beta}")
    return jnp.float32(math.log1p(-beta))


def _zeros(params: optax.Params) -> Any:
    return jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)


def _mixing(log_forgetting: Float[Array, ""]) -> Float[Array, ""]:
    """1 - beta, kept below 1: at beta = 0 the bias correction has no gradient, and a beta below 0 has no meaning."""
    return jnp.exp(jnp.minimum(log_forgetting, -6e-8))


def _bias(mixing: Float[Array, ""], step: Int[Array, ""]) -> Float[Array, ""]:
    """`1 - beta^step`; computed directly in float32 it would keep few digits for a beta near 1."""
    return -jnp.expm1(step.astype(jnp.float32) * jnp.log1p(-mixing))


def _root(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """The square root; its gradient at 0 is set to 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
