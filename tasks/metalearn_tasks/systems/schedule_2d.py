"""A learning-rate schedule for gradient descent in two dimensions: a chaotic meta-loss that can be plotted.

Vicol, Metz & Sohl-Dickstein 2021 (PES, arXiv 2112.13835) and Vicol 2023 (ES-Single, arXiv 2304.11153). From x = (1, 1),
gradient descent of T steps on

    f(x) = sqrt(x_0^2 + 5) - sqrt(5) + sin(x_1)^2 exp(-5 x_0^2) + |x_1 - 100| / 4

with the step size a_t = (1 - t/T) e^theta_0 + (t/T) e^theta_1, t = 0 .. T-1. The meta-loss is the sum over steps of f
after the update (f before the update would add 24.9 near the optimum). It is 2487.8 at the papers' start (-4, -4).
On a grid of spacing 1/4 over [-8, 8] its minimum is 555.5 (556.1 in float32, because of chaos), at (2.75, -1.75). Finer
grids find 552.5 in the valley that leads from there towards smaller theta_1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.inner import InnerLoop, scan_steps, start

__all__ = ["START", "Schedule2DConfig", "learning_rate", "meta_loss", "meta_loss_grid", "objective", "schedule_2d"]

START = (-4.0, -4.0)
"""The initial theta of the papers."""


@dataclass(frozen=True)
class Schedule2DConfig:
    """The length of gradient descent in two dimensions."""

    length: int = 100
    """T, the number of steps of gradient descent."""


def objective(x: Float[Array, "2"]) -> Float[Array, ""]:
    """Compute f, which the inner loop minimises; its infimum is 0, at (0, 100)."""
    valley = jnp.sqrt(jnp.square(x[0]) + 5) - math.sqrt(5)
    ripples = jnp.square(jnp.sin(x[1])) * jnp.exp(-5 * jnp.square(x[0]))
    return valley + ripples + jnp.abs(x[1] - 100) / 4


def learning_rate(theta: Float[Array, "2"], t: Array, length: int) -> Float[Array, ""]:
    """Compute the step size a_t, which is linear in t, from e^theta_0 to e^theta_1."""
    progress = t.astype(theta.dtype) / length
    return (1 - progress) * jnp.exp(theta[0]) + progress * jnp.exp(theta[1])


def schedule_2d(config: Schedule2DConfig = Schedule2DConfig()) -> InnerLoop:
    """Make the inner loop: theta is an array [2], `data` is not used, nothing is random.

    Raises:
        ValueError: the length is not positive.
    """
    if config.length < 1:
        raise ValueError(f"length must be at least 1, got {config.length}")

    def init(theta: Float[Array, "2"], data: object, key: PRNGKeyArray) -> Float[Array, "2"]:
        del data, key
        return jnp.ones(2, theta.dtype)

    def step(
        theta: Float[Array, "2"], state: Float[Array, "2"], t: Array, key: PRNGKeyArray, data: object
    ) -> tuple[Float[Array, "2"], Float[Array, ""], dict[str, Array]]:
        del key, data
        state = state - learning_rate(theta, t, config.length) * jax.grad(objective)(state)
        return state, objective(state), {}

    return InnerLoop(init, step, None, config.length)


def meta_loss(theta: Float[Array, "2"], config: Schedule2DConfig = Schedule2DConfig()) -> Float[Array, ""]:
    """Compute the sum of the losses of a whole trajectory."""
    loop, key = schedule_2d(config), jax.random.key(0)
    return scan_steps(loop, theta, start(loop, theta, (), key), jnp.int32(0), config.length, key, ())[1].sum()


def meta_loss_grid(
    low: float, high: float, points: int, config: Schedule2DConfig = Schedule2DConfig()
) -> tuple[Float[Array, "N"], Float[Array, "N N"]]:
    """Compute the meta-loss on a square grid.

    Args:
        low: lower end of theta_0 and theta_1.
        high: upper end of theta_0 and theta_1.
        points: N, points per axis, both ends included.
        config: the configuration of the inner loop.

    Returns:
        The points of an axis, and the `losses[i, j]` at theta = (axis[i], axis[j]).

    Raises:
        ValueError: the square is empty or has fewer than two points per axis.
    """
    if not low < high or points < 2:
        raise ValueError(f"need low < high and points >= 2, got low={low}, high={high}, points={points}")
    axis = jnp.linspace(low, high, points)
    over_1 = jax.vmap(lambda a, b: meta_loss(jnp.stack([a, b]), config), (None, 0))
    return axis, jax.jit(jax.vmap(over_1, (0, None)))(axis, axis)
