"""Update functions of an optimizer: clipping, learning-rate schedules and learning-rate adaptation.

Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2021, "Reverse engineering learned optimizers reveals known
and novel mechanisms" (arXiv 2011.02159). The update function of a state h is Delta(g) = w.F(h, g); the learning rate
there is its slope, -dDelta/dg. The measure of saturation is our own.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.optimizers.analysis.fixed_points import settle
from metalearn_models.optimizers.learned.parts.cell import Cell, cell_rate, cell_update

__all__ = ["Adaptation", "Schedule", "UpdateFunction", "adaptation", "schedule", "update_function"]


class UpdateFunction(NamedTuple):
    """Delta(g) at one state.

    Attributes:
        gradients: where it was evaluated, ascending.
        updates: Delta at each.
        rate: -dDelta/dg at g = 0, the learning rate of small gradients.
        clip: the gradient at which the tangent at 0 reaches the mean size of Delta at both ends. An optimizer that
            clips gradients at c has clip c; a linear one has the largest gradient evaluated.
        saturation: 1 - clip / largest gradient: 0 where Delta is linear, 1 where it depends on the sign alone.
    """

    gradients: Float[Array, "G"]
    updates: Float[Array, "G"]
    rate: Float[Array, ""]
    clip: Float[Array, ""]
    saturation: Float[Array, ""]


class Schedule(NamedTuple):
    """The learning-rate schedule that an optimizer follows while the gradient is 0.

    Attributes:
        states: the state before each step.
        rates: -dDelta/dg at g = 0 of each state.
        drift: Delta(0) of each state: the update without a gradient.
    """

    states: Float[Array, "T H"]
    rates: Float[Array, "T"]
    drift: Float[Array, "T"]


class Adaptation(NamedTuple):
    """The fixed points of constant gradients.

    Attributes:
        gradients: g, constant.
        points: h*(g).
        speed: |F(h*, g) - h*|; if it is not small, the cell does not come to rest.
        updates: Delta(h*, g), the lasting update.
        rates: -dDelta/dg at h*(g) and g: the response to a sudden change of the gradient. If it falls as |g| grows, the
            optimizer adapts its learning rate, as RMSProp does.
    """

    gradients: Float[Array, "G"]
    points: Float[Array, "G H"]
    speed: Float[Array, "G"]
    updates: Float[Array, "G"]
    rates: Float[Array, "G"]


def update_function(cell: Cell, h: Float[Array, "H"], gradients: Float[Array, "G"]) -> UpdateFunction:
    """The update function of a state.

    Args:
        cell: the optimizer.
        h: the state: the initial one, a fixed point, or one shifted along a mode to see what momentum adds.
        gradients: ascending, from -a to a.

    Raises:
        ValueError: there are fewer than two gradients.
    """
    if gradients.size < 2:
        raise ValueError(f"an update function needs at least two gradients, got {gradients.size}")
    updates = jax.vmap(lambda g: cell_update(cell, h, g))(gradients)
    rate = cell_rate(cell, h, jnp.zeros((), gradients.dtype))
    clip = 0.5 * (updates[0] - updates[-1]) / rate
    largest = 0.5 * (gradients[-1] - gradients[0])
    return UpdateFunction(gradients, updates, rate, clip, 1 - clip / largest)


def schedule(cell: Cell, steps: int) -> Schedule:
    """Run the cell from its initial state with gradients of 0.

    Args:
        cell: the optimizer.
        steps: T.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs at least one step, got {steps}")
    zero = jnp.zeros((), cell.initial.dtype)

    def step(h: Array, _: None) -> tuple[Array, tuple[Array, Array, Array]]:
        new = cell.advance(h, zero)
        return new, (h, cell_rate(cell, h, zero), cell.readout @ new)

    return Schedule(*jax.lax.scan(step, cell.initial, length=steps)[1])


def adaptation(cell: Cell, gradients: Float[Array, "G"], steps: int = 1000) -> Adaptation:
    """Where the cell comes to rest under constant gradients.

    The cell runs from its initial state: of several fixed points, it finds the one that the optimizer reaches. The
    search of `fixed_points` then makes it exact.

    Args:
        cell: the optimizer.
        gradients: each is held constant in its own run.
        steps: number of steps per run, before the search.

    Raises:
        ValueError: `steps` is negative.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")

    def one(g: Array) -> tuple[Array, Array, Array, Array]:
        reached = jax.lax.fori_loop(0, steps, lambda _, h: cell.advance(h, g), cell.initial)
        h, speed = settle(cell, reached, g)
        return h, speed, cell_update(cell, h, g), cell_rate(cell, h, g)

    return Adaptation(gradients, *jax.lax.map(one, gradients))
