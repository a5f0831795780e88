"""Where an optimizer comes to rest, and how it moves near there: momentum as a linear mode.

Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2021, "Reverse engineering learned optimizers reveals known
and novel mechanisms" (arXiv 2011.02159); the search for fixed points is that of Sussillo and Barak 2013, "Opening the
black box: low-dimensional dynamics in high-dimensional recurrent neural networks", by Levenberg and Marquardt's method.

At a fixed point h* of a constant gradient g*, `h' - h* = J (h - h*) + b (g - g*)` to first order. Let J have the right
eigenvectors r_i and the left ones l_i. A gradient that is larger by epsilon in one step moves the parameter k steps
later by `-epsilon sum_i rate_i lambda_i^k` with `rate_i = -(w.r_i)(l_i.b)`. Gradient descent with momentum is one such
mode: lambda is the momentum, the rate the learning rate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

from metalearn_models.optimizers.learned.parts.cell import Cell

__all__ = ["FixedPoints", "Modes", "fixed_points", "impulse_response", "modes", "settle"]


class FixedPoints(NamedTuple):
    """States that map to themselves, the most exact first.

    Attributes:
        points: the states.
        speed: |F(h, g) - h| of each, the distance that it still moves per step.
    """

    points: Float[np.ndarray, "M H"]
    speed: Float[np.ndarray, "M"]


class Modes(NamedTuple):
    """The linear dynamics near a state, slowest mode first.

    Attributes:
        eigenvalues: lambda of each mode, the factor by which it shrinks per step.
        rates: the learning rate of each mode, in units of the parameter per unit of the gradient; conjugate eigenvalues
            have conjugate rates.
        right: R, whose columns are the modes, as directions of the state.
        left: L, the inverse of R.
    """

    eigenvalues: Complex[np.ndarray, "H"]
    rates: Complex[np.ndarray, "H"]
    right: Complex[np.ndarray, "H H"]
    left: Complex[np.ndarray, "H H"]

    @property
    def timescales(self) -> Float[np.ndarray, "H"]:
        """Steps until a mode has fallen to 1 / e, `-1 / ln|lambda|`; infinite or negative if it does not fall."""
        with np.errstate(divide="ignore"):
            return -1 / np.log(np.abs(self.eigenvalues))


def fixed_points(
    cell: Cell,
    states: Float[Array, "K H"],
    gradient: float = 0.0,
    tolerance: float = 1e-4,
    distance: float = 1e-2,
    iterations: int = 100,
) -> FixedPoints:
    """Minimise `q(h) = |F(h, g) - h|^2 / 2` from each of the given states.

    Args:
        cell: the optimizer.
        states: starting points, such as states visited in training runs.
        gradient: g, held constant.
        tolerance: a point with at most this speed counts as fixed, in units of the state.
        distance: two points that are closer than this count as one; the more exact one is kept.
        iterations: largest number of steps of the minimisation.

    Returns:
        The points found; none if no search comes below the tolerance.

    Raises:
        ValueError: the states do not have the width of the cell.
    """
    if states.ndim != 2 or states.shape[1] != cell.initial.size:
        raise ValueError(f"states must be [K, {cell.initial.size}], as wide as the cell's, got {states.shape}")
    search = jax.jit(lambda states, g: jax.lax.map(lambda h: settle(cell, h, g, iterations), states))
    points, speed = (np.asarray(x) for x in search(states, jnp.asarray(gradient, states.dtype)))
    kept: list[int] = []
    for i in np.argsort(speed):
        if speed[i] <= tolerance and all(np.linalg.norm(points[i] - points[j]) > distance for j in kept):
            kept.append(i)
    return FixedPoints(points[kept], speed[kept])


def settle(
    cell: Cell, h: Float[Array, "H"], g: Float[Array, ""], iterations: int = 100
) -> tuple[Float[Array, "H"], Float[Array, ""]]:
    """The fixed point that Levenberg and Marquardt's method reaches from h, and its speed; traceable."""

    def residual(h: Array) -> Array:
        return cell.advance(h, g) - h

    def unfinished(carry: tuple[Array, Array, Array, Array]) -> Bool[Array, ""]:
        h, speed, damping, i = carry
        # Stop if the speed is below rounding, or if no step reduces it.
        small = speed <= 4 * jnp.finfo(h.dtype).eps * (1 + jnp.linalg.norm(h))
        return (i < iterations) & ~small & (damping < 1e8)

    def attempt(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        h, speed, damping, i = carry
        r, jacobian = residual(h), jax.jacfwd(residual)(h)
        # Least squares of [J; sqrt(damping) I] step = [-r; 0]: squaring J would square its condition number.
        eye = jnp.eye(h.size, dtype=h.dtype)
        stacked = jnp.concatenate([jacobian, jnp.sqrt(damping) * eye])
        q, upper = jnp.linalg.qr(stacked)
        new = h + jax.scipy.linalg.solve_triangular(upper, -(q[: h.size].T @ r))
        new_speed = jnp.linalg.norm(residual(new))
        better = new_speed < speed
        damping = jnp.where(better, 0.1 * damping, 10 * damping)
        return jnp.where(better, new, h), jnp.where(better, new_speed, speed), jnp.maximum(damping, 1e-12), i + 1

    carry = (h, jnp.linalg.norm(residual(h)), jnp.asarray(1e-3, h.dtype), jnp.int32(0))
    h, speed, _, _ = jax.lax.while_loop(unfinished, attempt, carry)
    return h, speed


def modes(cell: Cell, h: Float[Any, "H"], gradient: float = 0.0) -> Modes:
    """Linearise the cell at a state, usually a fixed point, and take the linear dynamics apart.

    The Jacobians are computed in the dtype of the cell, their eigenvectors in float64 on the host.

    Args:
        cell: the optimizer.
        h: the state.
        gradient: the gradient there.

    Returns:
        The modes. If eigenvectors are dependent, as in a chain of two equal decays, the rates of their modes are large
        and cancel; the sum is right.
    """
    state = jnp.asarray(h, cell.initial.dtype)
    derivatives = jax.jit(jax.jacfwd(cell.advance, (0, 1)))(state, jnp.asarray(gradient, state.dtype))
    jacobian, b = (np.asarray(x, np.float64) for x in derivatives)
    eigenvalues, right = np.linalg.eig(jacobian)
    order = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, right = eigenvalues[order].astype(complex), right[:, order].astype(complex)
    left = np.linalg.inv(right)
    rates = -(np.asarray(cell.readout, np.float64) @ right) * (left @ b)
    return Modes(eigenvalues, rates, right, left)


def impulse_response(found: Modes, steps: int) -> Float[np.ndarray, "T"]:
    """How far a parameter moves against the gradient 0, 1, ... steps after a single gradient of 1.

    Args:
        found: the modes at a fixed point.
        steps: T.
    """
    powers = found.eigenvalues[None] ** np.arange(steps)[:, None]
    return (powers @ found.rates).real
