"""An optimizer of one parameter as a dynamical system: the form in which learned optimizers are analysed.

Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2021, "Reverse engineering learned optimizers reveals known
and novel mechanisms" (arXiv 2011.02159). Component-wise recurrent optimizers are such systems, and so are
hand-designed optimizers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.learned.parts.coordinatewise import coordinatewise, rest

__all__ = ["Cell", "cell_rate", "cell_transform", "cell_update"]


class Cell(NamedTuple):
    """An optimizer of one parameter x: `h' = F(h, g)`, then `x' = x + w.h'`.

    Gradient descent with momentum is the cell `h' = beta h + g`, `w = -learning rate`.

    Attributes:
        initial: the state h before the first step.
        advance: F, `(h, g) -> h'`, a pure function of one state and a scalar gradient.
        readout: the weights w that turn the state into the update.
    """

    initial: Float[Array, "H"]
    advance: Callable[[Float[Array, "H"], Float[Array, ""]], Float[Array, "H"]]
    readout: Float[Array, "H"]


def cell_update(cell: Cell, h: Float[Array, "H"], g: Float[Array, ""]) -> Float[Array, ""]:
    """The update `Delta(h, g) = w.F(h, g)`, which is added to the parameter."""
    return cell.readout @ cell.advance(h, g)


def cell_rate(cell: Cell, h: Float[Array, "H"], g: Float[Array, ""]) -> Float[Array, ""]:
    """The learning rate at a state and a gradient: `-dDelta/dg`, minus the slope of the update function."""
    return -jax.grad(lambda g: cell_update(cell, h, g))(g)


def cell_transform(cell: Cell) -> optax.GradientTransformationExtraArgs:
    """The cell as an optax transformation, the same for every parameter.

    A parameter stays where it is, with the initial state, until its gradient is not exactly 0 for the first time.
    """

    def start(size: int) -> Float[Array, "H N"]:
        return jnp.broadcast_to(cell.initial[:, None], (cell.initial.size, size))

    def advance(memory: Any, step: Array, g: Float[Array, "*S"]) -> tuple[Any, Float[Array, "*S"]]:
        del step
        rule = cell.advance
        for _ in range(g.ndim):
            rule = jax.vmap(rule, (1, 0), 1)
        new = rule(memory, g)
        still = (g == 0) & (memory == cell.initial.reshape(-1, *[1] * g.ndim)).all(0)
        return rest(still, memory, new, jnp.tensordot(cell.readout, new, 1))

    return coordinatewise((cell.initial, cell.readout), start, advance)
