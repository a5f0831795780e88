"""What the optimizers share whose theta is a few constants: hand-designed rules with learned hyper-parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import float32

__all__ = ["constant_init", "log_of_positive", "scale_like"]


def constant_init(theta: Any) -> Callable[[PRNGKeyArray], Any]:
    """The `init` of an optimizer whose fresh theta is always the same."""

    def init(key: PRNGKeyArray) -> Any:
        del key  # nothing is random here
        return theta

    return init


def log_of_positive(name: str, x: float) -> Float[Array, ""]:
    """The logarithm of a hyper-parameter.

    Raises:
        ValueError: it is not positive.
    """
    if not x > 0:
        raise ValueError(f"{name} must be positive, because its logarithm is learned, got {x}")
    return jnp.float32(math.log(x))


def scale_like(directions: Any, like: optax.Updates, factor: Float[Array, ""]) -> optax.Updates:
    """`factor` times each direction, in the dtype of the corresponding leaf of `like`."""
    return jax.tree.map(lambda d, g: (factor * float32(d)).astype(g.dtype), directions, like)
