"""What optimizers with one LSTM per tensor share: NNAdam, Metz et al. 2020 (arXiv 2009.11243) and Celo.

The cell is the LSTM of Zaremba, Sutskever and Vinyals 2014 (arXiv 1409.2329), with the bias of the forget gate raised
by 1. All tensors share its weights; each is one row of its batch. A tree without tensors has one row, which rests.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.networks.recurrent import lstm_update

__all__ = ["LSTMState", "linear", "log_size", "lstm_step", "repeat_state", "variance", "zero_state"]


class LSTMState(NamedTuple):
    """What the cell remembers: one row per tensor, or in theta `[H]`, the state in which all tensors start.

    Attributes:
        hidden: output of the cell.
        cell: memory of the cell.
    """

    hidden: Float[Array, "*N H"]
    cell: Float[Array, "*N H"]


def zero_state(units: int) -> LSTMState:
    """The state in which a fresh theta starts the cell: zeros."""
    return LSTMState(jnp.zeros(units, jnp.float32), jnp.zeros(units, jnp.float32))


def repeat_state(state: LSTMState, rows: int) -> LSTMState:
    """The same state for every tensor: from `[H]` to `[rows, H]`."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, x.size)), state)


def linear(layer: dict[str, Array], x: Float[Array, "N D"]) -> Float[Array, "N C"]:
    """`x @ weight + bias`."""
    y = x @ layer["weight"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)


def lstm_step(layer: dict[str, Array], x: Float[Array, "N D"], state: LSTMState) -> LSTMState:
    """One step of the cell on every tensor.

    Args:
        layer: weight `[D + H, 4 H]` and bias `[4 H]`, in the order input gate, candidate, forget gate, output gate.
        x: the inputs.
        state: the state before the step.
    """
    gates = linear(layer, jnp.concatenate([x, state.hidden], 1))
    return LSTMState(*lstm_update(gates, state.cell))


def log_size(x: Float[Array, ""]) -> Float[Array, ""]:
    """The logarithm of the size of a number, clipped to [-5, 5]."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5, 5)


def variance(x: Float[Array, "*S"], mean: Float[Array, ""]) -> Float[Array, ""]:
    """Mean squared distance of all entries from `mean`, their mean."""
    return jnp.square(x - jnp.broadcast_to(mean, x.shape)).mean()
