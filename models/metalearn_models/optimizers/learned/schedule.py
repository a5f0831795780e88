"""A learning-rate schedule as a learned optimizer: any optax transformation gives the direction, theta the rates.

The logarithm of the learning rate is linear between equally spaced knots, which are theta. With a constant theta it
equals optax's optimizer at that learning rate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps
from metalearn_models.optimizers.frame import transformation
from metalearn_models.optimizers.learned.parts.constants import constant_init, log_of_positive, scale_like

__all__ = ["ScheduleState", "learnable_adam_schedule", "learnable_schedule"]


class ScheduleState(NamedTuple):
    """The state of the transformation that gives the direction, and the number of updates so far."""

    base: Any
    step: Int[Array, ""]


def learnable_schedule(
    base: optax.GradientTransformation, knots: int = 5, learning_rate: float = 1e-3
) -> LearnedOptimizer:
    """A learning-rate schedule: the update is `-learning_rate(t)` times that of `base`.

    The logarithm of the learning rate is linear between knots equally spaced from the first step to the last: one knot
    is a constant, two are an exponential schedule. After `num_steps` steps the rate stays at the last knot.

    Args:
        base: gives the direction, such as `optax.scale_by_adam(eps_root=1e-16)` or a chain; it gets all arguments of
            `update`. Without `eps_root` the gradient with respect to theta is NaN where every gradient was 0.
        knots: number of knots.
        learning_rate: learning rate of a fresh theta at every knot.

    Returns:
        The optimizer; theta is `log_learning_rate[knots]`. `transform` needs `num_steps`, a number or a traced scalar.

    Raises:
        ValueError: there is no knot, or the learning rate is not positive; by `transform`: `num_steps` is missing or
            less than 1.
    """
    if knots < 1:
        raise ValueError(f"a schedule needs at least one knot, got knots={knots}")
    fresh = jnp.full(knots, log_of_positive("learning_rate", learning_rate), jnp.float32)
    base = optax.with_extra_args_support(base)

    def transform(
        theta: Float[Array, "knots"], num_steps: NumSteps | None = None
    ) -> optax.GradientTransformationExtraArgs:
        if num_steps is None or (isinstance(num_steps, int | np.integer) and num_steps < 1):
            raise ValueError(
                "a learning-rate schedule needs the number of training steps: call transform(theta, num_steps) or "
                f"load(name, num_steps), got num_steps={num_steps}"
            )

        def start(params: optax.Params) -> ScheduleState:
            return ScheduleState(base.init(params), jnp.int32(0))

        def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                directions, memory = base.update(updates, state.base, params, **extra)
            last = jnp.maximum(jnp.asarray(num_steps, jnp.float32) - 1, 1)
            position = state.step.astype(jnp.float32) / last * (knots - 1)
            log_rate = jnp.interp(position, jnp.arange(knots, dtype=jnp.float32), theta)
            return scale_like(directions, updates, -jnp.exp(log_rate)), ScheduleState(memory, state.step + 1)

        return transformation(theta, start, update)

    return LearnedOptimizer(constant_init(fresh), transform)


def learnable_adam_schedule(knots: int = 5, learning_rate: float = 1e-3) -> LearnedOptimizer:
    """`learnable_schedule` around Adam's direction, with an `eps_root` that keeps its derivative finite.

    Args:
        knots: number of knots, equally spaced over the training.
        learning_rate: learning rate of a fresh theta at every knot.

    Returns:
        The optimizer, as in `learnable_schedule`.

    Raises:
        ValueError: as in `learnable_schedule`.
    """
    return learnable_schedule(optax.scale_by_adam(eps_root=1e-16), knots, learning_rate)
