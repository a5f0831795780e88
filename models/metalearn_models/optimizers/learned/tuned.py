"""Hand-designed optimizers whose hyper-parameters are meta-parameters: the baselines of every learned optimizer.

SGD, SGD with momentum (Polyak 1964) and Adam (Kingma and Ba 2014, arXiv 1412.6980) with the logarithms of the learning
rate, of 1 - beta and of epsilon as theta, as in Metz et al. 2022 (arXiv 2203.11860), where a beta that would be
negative is 0; and any optax transformation with a learning-rate schedule as theta. They equal optax's at the
hyper-parameters that theta stands for.

A gradient that is not finite makes the update, and what is remembered of it, not finite; see `optax.apply_if_finite`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, check_params, float32


class SGDTheta(NamedTuple):
    """Meta-parameters of SGD."""

    log_learning_rate: Float[Array, ""]


class MomentumTheta(NamedTuple):
    """Meta-parameters of SGD with momentum; `log_forgetting` is log(1 - beta)."""

    log_learning_rate: Float[Array, ""]
    log_forgetting: Float[Array, ""]


class AdamTheta(NamedTuple):
    """Meta-parameters of Adam; `log_forgetting1` is log(1 - beta1), `log_forgetting2` log(1 - beta2)."""

    log_learning_rate: Float[Array, ""]
    log_forgetting1: Float[Array, ""]
    log_forgetting2: Float[Array, ""]
    log_epsilon: Float[Array, ""]


class AdamState(NamedTuple):
    """Momentum and second moment, like params and before bias correction, and the updates made so far."""

    momentum: Any
    second_moment: Any
    step: Int[Array, ""]


class ScheduledState(NamedTuple):
    """The state of the scaled transformation, and the updates made so far."""

    base: Any
    step: Int[Array, ""]


def learnable_sgd(learning_rate: float = 1e-2) -> LearnedOptimizer:
    """SGD: the update is `-learning_rate g`.

    Args:
        learning_rate: where a fresh theta starts.

    Returns:
        The optimizer; theta is an `SGDTheta`. `num_steps` is ignored, and the params of `update` may be None.

    Raises:
        ValueError: when the learning rate is not positive.
    """
    start_theta = SGDTheta(_log("learning_rate", learning_rate))

    def transform(theta: SGDTheta, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def start(params: optax.Params) -> tuple[()]:
            check_params(params)
            return ()

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            del params, extra
            return _scaled(updates, updates, -jnp.exp(theta.log_learning_rate)), state

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(_constant(start_theta), transform)


def learnable_momentum(learning_rate: float = 1e-2, momentum: float = 0.9) -> LearnedOptimizer:
    """SGD with momentum: the update is `-learning_rate m`, with `m = beta m + g`, as `optax.sgd`.

    Args:
        learning_rate: where a fresh theta starts.
        momentum: the same, of beta.

    Returns:
        The optimizer; theta is a `MomentumTheta`. `num_steps` is ignored, and the params of `update` may be None.

    Raises:
        ValueError: when the learning rate is not positive or the momentum not in [0, 1).
    """
    start_theta = MomentumTheta(_log("learning_rate", learning_rate), _log_forgetting("momentum", momentum))

    def transform(theta: MomentumTheta, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            del params, extra
            decay = 1 - _mixing(theta.log_forgetting)
            state = jax.tree.map(lambda m, g: decay * m + float32(g), state, updates)
            return _scaled(state, updates, -jnp.exp(theta.log_learning_rate)), state

        return optax.GradientTransformationExtraArgs(_zeros, update)

    return LearnedOptimizer(_constant(start_theta), transform)


def learnable_adam(
    learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
) -> LearnedOptimizer:
    """Adam with bias correction, as `optax.adam`.

    Where the second moment is 0 the gradient with respect to theta is finite, other than that of `optax.adam`.

    Args:
        learning_rate: where a fresh theta starts.
        beta1: the same.
        beta2: the same.
        epsilon: the same.

    Returns:
        The optimizer; theta is an `AdamTheta`. `num_steps` is ignored, and the params of `update` may be None.

    Raises:
        ValueError: when the learning rate or epsilon is not positive or a beta not in [0, 1).
    """
    start_theta = AdamTheta(
        _log("learning_rate", learning_rate),
        _log_forgetting("beta1", beta1),
        _log_forgetting("beta2", beta2),
        _log("epsilon", epsilon),
    )

    def transform(theta: AdamTheta, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
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
            return _scaled(direction, updates, -jnp.exp(theta.log_learning_rate)), AdamState(m, v, step)

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(_constant(start_theta), transform)


def scheduled(base: optax.GradientTransformation, knots: int = 5, learning_rate: float = 1e-3) -> LearnedOptimizer:
    """A learning-rate schedule as an optimizer: `-learning_rate(t)` times the updates of `base`.

    The logarithm of the learning rate is linear between knots equally spaced from the first step to the last: one
    knot is a constant, two are an exponential schedule. After `num_steps` it keeps the last knot's value.

    Args:
        base: what gives the direction, such as `optax.scale_by_adam(eps_root=1e-16)` (without `eps_root` the gradient
            with respect to theta is NaN where a gradient has been 0 from the start), or a chain of such. It gets what
            `update` gets.
        knots: how many.
        learning_rate: where a fresh theta starts, at every knot.

    Returns:
        The optimizer; theta is `log_learning_rate[knots]`. `transform` needs `num_steps`, a number or a traced scalar.

    Raises:
        ValueError: when there is no knot or the learning rate is not positive; by `transform`, when `num_steps` is
            missing or less than 1.
    """
    if knots < 1:
        raise ValueError(f"a schedule needs at least one knot, got knots={knots}")
    start_theta = jnp.full(knots, _log("learning_rate", learning_rate))
    base = optax.with_extra_args_support(base)

    def transform(
        theta: Float[Array, "knots"], num_steps: int | Int[Array, ""] | None = None
    ) -> optax.GradientTransformationExtraArgs:
        if num_steps is None or (isinstance(num_steps, int | np.integer) and num_steps < 1):
            raise ValueError(
                "a schedule spans a whole training: call transform(theta, num_steps), or load(name, num_steps), with "
                "the number of its steps, "
                f"got {num_steps}"
            )

        def start(params: optax.Params) -> ScheduledState:
            check_params(params)
            return ScheduledState(base.init(params), jnp.int32(0))

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            with jax.numpy_dtype_promotion("standard"):  # optax counts on it
                directions, memory = base.update(updates, state.base, params, **extra)
            last = jnp.maximum(jnp.asarray(num_steps, jnp.float32) - 1, 1)
            position = state.step.astype(jnp.float32) / last * (knots - 1)
            log_rate = jnp.interp(position, jnp.arange(knots, dtype=jnp.float32), theta)
            return _scaled(directions, updates, -jnp.exp(log_rate)), ScheduledState(memory, state.step + 1)

        return optax.GradientTransformationExtraArgs(start, update)

    return LearnedOptimizer(_constant(start_theta), transform)


def _constant(theta: Any) -> Any:
    def init(key: PRNGKeyArray) -> Any:
        """Nothing random about it."""
        del key
        return theta

    return init


def _log(name: str, x: float) -> Float[Array, ""]:
    if not x > 0:
        raise ValueError(f"{name} must be positive, for its logarithm is learned, got {x}")
    return jnp.float32(math.log(x))


def _log_forgetting(name: str, beta: float) -> Float[Array, ""]:
    if not 0 <= beta < 1:
        raise ValueError(f"{name} must be in [0, 1), for log(1 - {name}) is learned, got {beta}")
    return jnp.float32(math.log1p(-beta))


def _zeros(params: optax.Params) -> Any:
    check_params(params)
    return jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)


def _scaled(directions: Any, like: optax.Updates, factor: Float[Array, ""]) -> optax.Updates:
    return jax.tree.map(lambda d, g: (factor * float32(d)).astype(g.dtype), directions, like)


def _mixing(log_forgetting: Float[Array, ""]) -> Float[Array, ""]:
    """1 - beta; below 1, for a beta of 0 would have a bias without a gradient, and one below 0 has no meaning."""
    return jnp.exp(jnp.minimum(log_forgetting, -6e-8))


def _bias(mixing: Float[Array, ""], step: Int[Array, ""]) -> Float[Array, ""]:
    """`1 - beta^step`, which computed like this in float32 would keep few digits of a beta near 1."""
    return -jnp.expm1(step.astype(jnp.float32) * jnp.log1p(-mixing))


def _root(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """The square root, whose gradient at 0 is set to 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)
