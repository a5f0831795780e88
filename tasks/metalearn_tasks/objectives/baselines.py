"""Hand-designed optimizers, with which learned ones are compared, and grids of learning rates to tune them on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import Differentiate, LearnedOptimizer, loss_and_gradient
from metalearn_models.optimizers.handmade.table import HANDMADE, handmade_entry

__all__ = ["BASELINES", "baseline", "hand_designed_optimizer", "learning_rates"]

BASELINES: Mapping[str, Callable[[Any], optax.GradientTransformation]] = MappingProxyType(
    {name: entry.make for name, entry in HANDMADE.items()}
)
"""Every optimizer made by hand: name -> `(learning_rate) -> optax transformation`. The learning rate may be traced."""


def hand_designed_optimizer(
    make: Callable[[Any], optax.GradientTransformation],
    learning_rate: float = 1e-3,
    differentiate: Differentiate = loss_and_gradient,
) -> LearnedOptimizer:
    """Make a learned optimizer of an optax optimizer; its only meta-parameter is the learning rate.

    Args:
        make: `(learning_rate) -> transformation`, such as `BASELINES["adam"]`. The learning rate is a traced scalar.
        learning_rate: the theta that `init` returns.
        differentiate: what the optimizer reads of the loss, such as `curvature.loss_and_statistics`.

    Returns:
        An optimizer; theta is the learning rate, a scalar.
    """

    def init(key: PRNGKeyArray) -> Float[Array, ""]:
        del key  # Nothing is random.
        return jnp.float32(learning_rate)

    def transform(theta: Any, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps
        inner = optax.with_extra_args_support(make(theta))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it.
                return inner.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    return LearnedOptimizer(init, transform, differentiate)


def baseline(name: str, learning_rate: float = 1e-3) -> LearnedOptimizer:
    """An optimizer made by hand, whose only meta-parameter is the learning rate; its other constants are the defaults.

    Args:
        name: one of `BASELINES`.
        learning_rate: the theta that `init` returns.

    Raises:
        UnknownNameError: no optimizer made by hand has this name; with the nearest names.
    """
    entry = handmade_entry(name)
    return hand_designed_optimizer(entry.make, learning_rate, entry.differentiate)


def learning_rates(low: float, high: float, per_decade: int, digits: int = 3) -> tuple[float, ...]:
    """Make a grid of learning rates: the powers 10^(k / per_decade), k an integer, that lie between two ends.

    `learning_rates(1e-3, 0.1, 2)` is `(0.001, 0.00316, 0.01, 0.0316, 0.1)`, and with `digits=1`
    `(0.001, 0.003, 0.01, 0.03, 0.1)`.

    Args:
        low: the least learning rate, included if it is on the grid.
        high: the largest learning rate, included if it is on the grid.
        per_decade: learning rates per factor of 10.
        digits: significant digits to which they are rounded, before they are compared with the ends.

    Returns:
        The learning rates, ascending, each once.

    Raises:
        ValueError: unless 0 < low <= high < infinity and both counts are positive.
    """
    if not 0 < low <= high < math.inf:
        raise ValueError(f"learning rates need 0 < low <= high < infinity, got low={low} and high={high}")
    if per_decade < 1 or digits < 1:
        raise ValueError(f"per_decade and digits must be at least 1, got {per_decade} and {digits}")
    first, last = math.floor(per_decade * math.log10(low)) - 1, math.ceil(per_decade * math.log10(high)) + 1
    rounded = {float(f"{10 ** (k / per_decade):.{digits}g}") for k in range(first, last + 1)}
    return tuple(sorted(rate for rate in rounded if low <= rate <= high))
