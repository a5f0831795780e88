"""The LSTM's update of its memory, for every LSTM of the package: in learners and in learned optimizers.

Hochreiter and Schmidhuber 1997, "Long short-term memory", with the forget gate of Gers, Schmidhuber and Cummins 2000,
"Learning to forget". How the gates are computed of input and state is left to the caller: the products are laid out
differently for a sequence, for the tensors of a network, and for all parameters of a network.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

__all__ = ["lstm_update"]


def lstm_update(
    gates: Float[Array, "*gates"], c: Float[Array, "*cells"], axis: int = -1
) -> tuple[Float[Array, "*cells"], Float[Array, "*cells"]]:
    """One step of LSTM cells: `c' = sigmoid(f + 1) c + sigmoid(i) tanh(g)` and `h' = sigmoid(o) tanh(c')`.

    The 1 is a bias of the forget gate in addition to a learned one: a fresh cell remembers.

    Args:
        gates: pre-activations i, g, f, o: input gate, candidate, forget gate, output gate, each H long, one after
            another along `axis`.
        c: memories, shaped like `gates` but H long along `axis`.
        axis: where the units are.

    Returns:
        The new (h, c), each of the shape of `c`.
    """
    i, g, f, o = jnp.split(gates, 4, axis)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c
