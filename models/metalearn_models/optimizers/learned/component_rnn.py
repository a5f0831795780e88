"""The component-wise recurrent optimizer, made so that its mechanisms can be analysed.

Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2021, "Reverse engineering learned optimizers reveals known
and novel mechanisms" (arXiv 2011.02159). A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) reads the gradient
of one parameter; the update is a linear function of its state.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps
from metalearn_models.optimizers.learned.parts.cell import Cell, cell_transform
from metalearn_models.optimizers.learned.parts.coordinatewise import truncated_normal

__all__ = ["ComponentTheta", "component_cell", "component_rnn"]


class ComponentTheta(NamedTuple):
    """Meta-parameters of a unit with H state variables.

    Attributes:
        initial: the state before the first step.
        inputs: weights of the gradient for the gates r and z and the candidate n, side by side.
        state: weights of the state for r, z and n, side by side.
        bias: biases of r, z and n, side by side.
        readout: the weights w that turn the state into the update.
    """

    initial: Float[Array, "H"]
    inputs: Float[Array, "3*H"]
    state: Float[Array, "H 3*H"]
    bias: Float[Array, "3*H"]
    readout: Float[Array, "H"]


def component_rnn(hidden: int = 32) -> LearnedOptimizer:
    """The component-wise recurrent optimizer.

    The gates are `r = sigmoid(a_r + b_r)` and `z = sigmoid(a_z + b_z)`, the candidate is `n = tanh(a_n + r b_n)`, where
    a is linear in the gradient and b in the state. The new state is `h' = (1 - z) n + z h`, the update is `w.h'`.

    The paper's values are unknown to us. Our choices are the width; a learned initial state, which starts at 0; weights
    of the state truncated normal of scale 1 / sqrt(H), weights of the gradient of scale 1; biases 0, but 1 for z, so
    that a fresh unit remembers; and a readout 100 times smaller than 1 / sqrt(H), so that a fresh optimizer moves
    slowly.

    A gradient that is NaN makes the memory of its own parameter NaN for good, and of no other parameter;
    `optax.apply_if_finite` skips such steps.

    Args:
        hidden: state variables of the recurrent unit, H; floats of memory per parameter.

    Returns:
        The optimizer; theta is a `ComponentTheta`. `num_steps` is ignored. `component_cell(theta)` is the same
        optimizer in the form that the analysis takes.

    Raises:
        ValueError: there are no hidden units.
    """
    if hidden < 1:
        raise ValueError(f"a recurrent optimizer needs at least one hidden unit, got hidden={hidden}")

    def init(key: PRNGKeyArray) -> ComponentTheta:
        key_inputs, key_state, key_readout = jax.random.split(key, 3)
        return ComponentTheta(
            jnp.zeros(hidden, jnp.float32),
            truncated_normal(key_inputs, (3 * hidden,), 1),
            truncated_normal(key_state, (hidden, 3 * hidden), hidden),
            jnp.repeat(jnp.array([0.0, 1.0, 0.0], jnp.float32), hidden),
            0.01 * truncated_normal(key_readout, (hidden,), hidden),
        )

    def transform(theta: ComponentTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps
        return cell_transform(component_cell(theta))

    return LearnedOptimizer(init, transform)


def component_cell(theta: ComponentTheta) -> Cell:
    """The gated recurrent unit of these meta-parameters."""

    def advance(h: Float[Array, "H"], g: Float[Array, ""]) -> Float[Array, "H"]:
        a_r, a_z, a_n = jnp.split(theta.inputs * g + theta.bias, 3)
        b_r, b_z, b_n = jnp.split(theta.state.T @ h, 3)
        z = jax.nn.sigmoid(a_z + b_z)
        return (1 - z) * jnp.tanh(a_n + jax.nn.sigmoid(a_r + b_r) * b_n) + z * h

    return Cell(theta.initial, advance, theta.readout)
