"""Fit two parameters of the Lorenz system to one of its trajectories: so chaotic that gradients are of no use.

This is the Lorenz experiment of Li et al. 2023 (NRES, arXiv 2304.12180). The system of Lorenz 1963 is

    dx/dt = a (y - x),   dy/dt = x (r - z) - y,   dz/dt = x y - b z,   theta = (log a, log r),   b = 8/3

with Euler steps of 0.005 and the true a = 10 and r = 28. The loss of a step is the squared error of z alone, after the
step. Method, loss and starts (Gaussian around (1.2, 1.3, 1.6)) are those of the authors' published code; Runge-Kutta
steps or all three coordinates give other numbers. At their initial theta the mean loss is 308 to 315 over draws of 256
starts, and 353 from the single start (`start_std` 0) that they train on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.inner import InnerLoop

__all__ = ["START", "LorenzConfig", "LorenzState", "lorenz", "true_theta"]

START = (3.116, 3.7)
"""The initial theta of the paper."""


@dataclass(frozen=True)
class LorenzConfig:
    """The constants of the Lorenz system and of its trajectories."""

    length: int = 2000
    """T, Euler steps per trajectory."""
    time_step: float = 0.005
    """Time of one Euler step."""
    start: tuple[float, float, float] = (1.2, 1.3, 1.6)
    """Mean of the point (x, y, z) at which both trajectories start."""
    start_std: float = 1.0
    """Standard deviation of each coordinate of that point. 0: every trajectory is the same."""
    a: float = 10.0
    """The true a, the Prandtl number."""
    r: float = 28.0
    """The true r, the Rayleigh number divided by its critical value."""
    b: float = 8 / 3
    """The third constant, which is known."""


class LorenzState(NamedTuple):
    """Two simulations side by side, so that no trajectory is stored.

    Attributes:
        point: (x, y, z) of the simulation with theta.
        target: (x, y, z) of the simulation with the true parameters.
    """

    point: Float[Array, "3"]
    target: Float[Array, "3"]


def true_theta(config: LorenzConfig = LorenzConfig()) -> Float[Array, "2"]:
    """Return the theta whose loss is zero, in JAX's default float type."""
    return jnp.array([math.log(config.a), math.log(config.r)])


def lorenz(config: LorenzConfig = LorenzConfig()) -> InnerLoop:
    """Make the inner loop: theta is an array [2], `data` is not used, the start is drawn from the trajectory's key.

    Raises:
        ValueError: the length, the time step or a constant is not positive, or the standard deviation is negative.
    """
    if min(config.length, config.time_step, config.a, config.r, config.b) <= 0 or config.start_std < 0:
        raise ValueError(f"length, time_step, a, r and b must be positive and start_std at least 0, got {config}")

    def init(theta: Float[Array, "2"], data: object, key: PRNGKeyArray) -> LorenzState:
        del data
        noise = jax.random.normal(key, (3,), theta.dtype)
        point = jnp.array(config.start, theta.dtype) + config.start_std * noise
        return LorenzState(point, point)

    def euler(a: Array, r: Array, point: Float[Array, "3"]) -> tuple[Array, Array, Array]:
        x, y, z = point[0], point[1], point[2]
        dt = config.time_step
        return x + dt * (a * (y - x)), y + dt * (x * (r - z) - y), z + dt * (x * y - config.b * z)

    def step(
        theta: Float[Array, "2"], state: LorenzState, t: Array, key: PRNGKeyArray, data: object
    ) -> tuple[LorenzState, Float[Array, ""], dict[str, Array]]:
        del t, key, data
        # One exponential for both and the same operations after it, so that equal thetas give equal bits: chaos
        # amplifies any difference. Coordinates are scalars, since XLA does not fuse through arrays that join them.
        a, r = jnp.exp(jnp.stack([theta, true_theta(config).astype(theta.dtype)], axis=-1))
        point, target = euler(a[0], r[0], state.point), euler(a[1], r[1], state.target)
        state = LorenzState(jnp.stack(point), jnp.stack(target))
        return state, jnp.square(point[2] - target[2]), {}

    return InnerLoop(init, step, None, config.length)
