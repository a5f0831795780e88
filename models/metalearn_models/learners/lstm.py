"""The LSTM as a black-box learner: a recurrent network whose weights are the learning algorithm.

Hochreiter & Schmidhuber 1997 (the cell); Hochreiter, Younger & Conwell 2001 (learning to learn with it); in the layout
of Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458). All that the network learns about a task is in the
state of the cell.

An LSTM has no products of two inputs except in its gates. Matching initial weights, our own, use exactly these. Each
unit has a class, a number of the input and a sign. Its input gate opens for its class, its cell adds up its number of
the last input, and its output gate is opened by the same number of the query, with its sign. So a pair of units of
opposite sign puts out a product of query and sum, and the head adds the pairs of a class: it compares the query with
the sum of each class (`python -m experiments recurrent` measures that rule as "before").
Shapes: B leading axes, E inputs of the cell, H hidden units.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jaxtyping import Array, Float

from metalearn.learner import Learner, Signature
from metalearn.ranges import Size
from metalearn_models.learners._common import check_settings
from metalearn_models.learners._dense import Dense
from metalearn_models.learners._recurrent import (
    REST,
    Initial,
    Passed,
    Recurrent,
    Token,
    matched_width,
    recurrent_learner,
)
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
    initial: Initial = "paper"
    """Initial weights: "paper" variance scaling; "matching", our own, compares an input with the sums of all classes.
    It compares at most hidden / (2 C), and at most (hidden - C) / 4, numbers of an input."""


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
        ValueError: a field of `config` or of `signature` is out of range, which is named, or `initial="matching"`
            does not fit: without a pair token, for real labels, or with fewer than 2 C or C + 4 hidden units.
    """
    check_settings(signature, config)
    matching = config.initial == "matching"
    width = matched_width(signature, config.token, config.hidden, 2 * signature.outputs) if matching else 0

    def build(token_width: int, rngs: nnx.Rngs) -> Recurrent:
        cell = _LSTMCell(config.hidden, config.hidden, rngs)
        net = Recurrent(token_width, config.hidden, cell, signature.outputs, rngs)
        if matching:
            _match(net, cell, net.pass_through(signature, width))
        return net

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


# Our choice, by the accuracy at step 0 on projected digits.
_LABEL, _SUM, _KEEP, _QUERY = 8.0, 0.5, 4.0, 1.0


def _match(net: Recurrent, cell: _LSTMCell, passed: Passed) -> None:
    """Give units their class, number and sign; units left over keep `REST` of their random weights."""
    classes, width, signs = passed.label.shape[1], passed.query.shape[1], np.array([1, -1])
    used = 2 * classes * width  # units in the order class, number, sign; gates in the order i, g, f, o
    inputs = np.stack(
        [
            _LABEL * repeat(passed.label, "e c -> e (c n s)", n=width, s=2),
            _SUM * repeat(passed.last, "e n -> e (c n s)", c=classes, s=2),
            np.zeros((len(passed.label), used)),
            _QUERY * repeat(np.multiply.outer(passed.query, signs), "e n s -> e (c n s)", c=classes),
        ]
    )
    kernel = rearrange(REST * cell.gates_input.kernel[...], "e (m h) -> m e h", m=4).at[..., :used].set(inputs)
    cell.gates_input.kernel[...] = rearrange(kernel, "m e h -> e (m h)")
    bias = jnp.zeros((4, cell.width)).at[:, :used].set(np.array([[-_LABEL / 2], [0], [_KEEP], [0]]))
    cell.gates_input.bias = nnx.Param(rearrange(bias, "m h -> (m h)"))
    recurrent = rearrange(REST * cell.gates_state.kernel[...], "e (m h) -> m e h", m=4).at[..., :used].set(0)
    cell.gates_state.kernel[...] = rearrange(recurrent, "m e h -> e (m h)")
    ends = repeat(np.multiply.outer(np.eye(classes), signs), "c k s -> (c n s) k", n=width)
    net.head.kernel[...] = (REST * net.head.kernel[...]).at[:used].set(ends)
