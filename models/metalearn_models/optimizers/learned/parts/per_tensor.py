"""Parts of the optimizers that run one LSTM over the tensors: NNAdam, and Metz et al. 2020 (arXiv 2009.11243).

The cell is the LSTM of Zaremba, Sutskever and Vinyals 2014 (arXiv 1409.2329), the forget gate's bias raised by 1.
Every tensor is one row of its batch, with the same weights; a tensor without entries has none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.networks.recurrent import lstm_update


class LSTMState(NamedTuple):
    """What the cell remembers, one row a tensor (`[H]` in theta, where all tensors start).

    Attributes:
        hidden: its output.
        cell: its memory.
    """

    hidden: Float[Array, "*N H"]
    cell: Float[Array, "*N H"]


def zero_state(units: int) -> LSTMState:
    """Where a fresh theta starts the cell."""
    return LSTMState(jnp.zeros(units), jnp.zeros(units))


def one_each(state: LSTMState, rows: int) -> LSTMState:
    """The same state for every tensor."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, x.size)), state)


def linear(layer: dict[str, Array], x: Float[Array, "N D"]) -> Float[Array, "N C"]:
    """`x @ weight + bias`."""
    y = x @ layer["weight"]
    return y + jnp.broadcast_to(layer["bias"], y.shape)


def lstm_step(layer: dict[str, Array], x: Float[Array, "N D"], state: LSTMState) -> LSTMState:
    """One step of the cell on every tensor.

    Args:
        layer: weight `[D + H, 4 H]` and bias `[4 H]`: input gate, candidate, forget gate, output gate.
        x: the inputs.
        state: the state before.
    """
    gates = linear(layer, jnp.concatenate([x, state.hidden], 1))
    return LSTMState(*lstm_update(gates, state.cell))


def log_size(x: Float[Array, ""]) -> Float[Array, ""]:
    """The order of magnitude of a number, between -5 and 5."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5, 5)


def variance(x: Float[Array, "*S"], mean: Float[Array, ""]) -> Float[Array, ""]:
    """Mean squared distance of all entries from their mean."""
    return jnp.square(x - jnp.broadcast_to(mean, x.shape)).mean()
