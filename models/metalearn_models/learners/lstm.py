"""The LSTM as a black-box learner: a recurrent network whose weights are the learning algorithm.

Hochreiter & Schmidhuber 1997 (the cell); Hochreiter, Younger & Conwell 2001 (learning to learn with it); in the layout
of Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458). All that the network learns about a task is in the
state of the cell.
Shapes: B leading axes, E inputs of the cell, H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from metalearn.learner import Learner, Signature
from metalearn.ranges import Size
from metalearn_models.learners._common import check_settings
from metalearn_models.learners._dense import Dense
from metalearn_models.learners._recurrent import Recurrent, Token, recurrent_learner
from metalearn_models.networks.recurrent import lstm_update

__all__ = ["LSTMConfig", "lstm"]

_State = tuple[Float[Array, "*B H"], Float[Array, "*B H"]]


@dataclass(frozen=True)
class LSTMConfig:
    """Size and input of the LSTM learner. The paper varies the size and names no default; 64 is ours."""

    hidden: Size = 64
    """Units of the cell, and of the two layers before it; the state holds twice as many floats."""
    token: Token = "paper"
    """What is read at an example: "paper" [x_j, y_{j-1}]; "pair" adds x_{j-1}, so that it meets its label."""


def lstm(signature: Signature, config: LSTMConfig = LSTMConfig()) -> Learner:
    """An LSTM that learns in context.

    `state_size` is 2 H, the hidden and the cell vector, as Kirsch et al. count. The previous label counts as input, and
    so does the previous input in a "pair" token.

    Args:
        signature: shapes of the sequences; real labels are read unchanged.
        config: see `LSTMConfig`.

    Returns:
        The learner. Its theta is a nested dict of float32 arrays, whose shapes do not depend on T.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)

    def build(token_width: int, rngs: nnx.Rngs) -> Recurrent:
        cell = _LSTMCell(config.hidden, config.hidden, rngs)
        return Recurrent(token_width, config.hidden, cell, signature.outputs, rngs)

    return recurrent_learner(signature, config.token, build, 2 * config.hidden)


class _LSTMCell(nnx.Module):
    """The cell with forget gates, state (h, c): see `lstm_update`."""

    def __init__(self, inputs: int, hidden: int, rngs: nnx.Rngs):
        """Draw one matrix over [input, h], in two parts."""
        self.width = hidden
        fan_in = inputs + hidden
        self.gates_input = Dense(inputs, 4 * hidden, rngs=rngs, scale=inputs / fan_in)
        self.gates_state = Dense(hidden, 4 * hidden, rngs=rngs, scale=hidden / fan_in, bias=False)

    def start(self, batch: tuple[int, ...]) -> _State:
        """Zeros."""
        return jnp.zeros((*batch, self.width), jnp.float32), jnp.zeros((*batch, self.width), jnp.float32)

    def read(self, inputs: Float[Array, "*B E"]) -> Float[Array, "*B 4*{self.width}"]:
        """The inputs' share in the four gates."""
        return self.gates_input(inputs)

    def step(self, state: _State, share: Float[Array, "*B 4*{self.width}"]) -> tuple[_State, Float[Array, "*B H"]]:
        """One step; the output is h."""
        h, c = state
        h, c = lstm_update(share + self.gates_state(h), c)
        return (h, c), h
