"""Rectified flow: a straight line from noise to data, followed by Heun's method.

Liu, Gong and Liu 2022, "Flow straight and fast: learning to generate and transfer data with rectified flow" (arXiv
2209.03003). The network predicts the data, from which the velocity follows, so the same network serves both samplers.

Shapes: D numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["between", "sample_flow"]


def between(clean: Float[Array, "*D"], noise: Float[Array, "*D"], time: Float[Array, ""]) -> Float[Array, "*D"]:
    """The point of the line at `time`, from noise at 0 to data at 1."""
    return time * clean + (1 - time) * noise


def sample_flow(
    predict: Callable[[Float[Array, "D"], Float[Array, ""]], Float[Array, "D"]],
    size: int,
    steps: int,
    key: PRNGKeyArray,
    spread: float = 1.0,
) -> Float[Array, "D"]:
    """Follow the flow from noise.

    Args:
        predict: `(point, time) -> clean`.
        size: D.
        steps: of Heun's method, two predictions each; the last is one of Euler, which ends on the prediction itself.
        key: random key.
        spread: standard deviation of the source. That of the data or a little less; a larger one makes small networks
            worse (notes on arXiv 2601.05052).

    Raises:
        ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")

    def velocity(point: Array, time: Array) -> Array:
        return (predict(point, time) - point) / (1 - time)

    def step(number: Array, point: Array) -> Array:
        time, width = number / steps, 1 / steps
        first = velocity(point, time)
        second = velocity(point + width * first, time + width)
        return point + width * (first + second) / 2

    point = jax.lax.fori_loop(0, steps - 1, step, spread * jax.random.normal(key, (size,)))
    return predict(point, jnp.float32((steps - 1) / steps))
