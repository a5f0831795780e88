"""The outer-product LSTM: a cell whose memory is a matrix, gated by outer products of keys.

Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458), after the fast weights of Schmidhuber 1992.
An LSTM of H units remembers 2 H floats; this one remembers H x H with a similar number of parameters. The paper finds
that the size of the state, and not the number of parameters, decides how well a black box learns.

Matching initial weights, our own, make each head an associative memory: it adds up the outer products of random
features of the last input with its one-hot label, forgets next to nothing, and reads with the same features of the
query. So it compares the query with the sum of the inputs of each class (`python -m experiments recurrent` measures
that rule as "before").
Shapes: B leading axes, E inputs of the cell, N heads, H units per head.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
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

__all__ = ["OuterLSTMConfig", "outer_lstm"]

_State = tuple[Float[Array, "*B {self.width}"], Float[Array, "*B N H H"]]


@dataclass(frozen=True)
class OuterLSTMConfig:
    """Size and input of the outer-product LSTM learner. One head is the paper's default; the size 64 is ours."""

    hidden: Size = 64
    """Side of a head's square memory, and units of the two layers before the cell."""
    heads: Size = 1
    """Number of memories; the state holds heads x hidden x (hidden + 1) floats."""
    token: Token = "paper"
    """What is read at an example: "paper" [x_j, y_{j-1}]; "pair" adds x_{j-1}, so that it meets its label."""
    initial: Initial = "paper"
    """Initial weights: "paper" variance scaling; "matching", our own, compares an input with the sums of all classes.
    It compares at most (hidden - C) / 4 numbers of an input."""


def outer_lstm(signature: Signature, config: OuterLSTMConfig = OuterLSTMConfig()) -> Learner:
    """An outer-product LSTM that learns in context.

    `state_size` is N H (H + 1): the matrices, and the output, which the next step reads and which is counted as in the
    LSTM. Kirsch et al. give the order, O(H^2), which is that of the matrices.

    Args:
        signature: shapes of the sequences; real labels are read unchanged.
        config: see `OuterLSTMConfig`.

    Returns:
        The learner. Its theta is a nested dict of float32 arrays, whose shapes do not depend on T.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named, or `initial="matching"`
            does not fit: without a pair token, for real labels, or with fewer than C + 4 hidden units.
    """
    check_settings(signature, config)
    matching = config.initial == "matching"
    width = matched_width(signature, config.token, config.hidden, 1) if matching else 0

    def build(token_width: int, rngs: nnx.Rngs) -> Recurrent:
        cell = _OuterLSTMCell(config.hidden, config.hidden, config.heads, rngs)
        net = Recurrent(token_width, config.hidden, cell, signature.outputs, rngs)
        if matching:
            _match(net, cell, net.pass_through(signature, width), rngs)
        return net

    return recurrent_learner(signature, config.token, build, config.heads * config.hidden * (config.hidden + 1))


class _OuterLSTMCell(nnx.Module):
    """A cell with state (h, c), the memory c[N, H, H] and the output h[N H].

    One linear layer of [input, h] gives each head three pairs of keys a_m, b_m, a query q and an output gate o:

        i, g, f = scale tanh(a_m) outer tanh(b_m)          m = 1, 2, 3; scale = softplus(a learned scalar)
        c = sigmoid(f + 1) c + sigmoid(i) g
        h = sigmoid(o) tanh(c^T q)
    """

    def __init__(self, inputs: int, hidden: int, heads: int, rngs: nnx.Rngs):
        """Draw one matrix over [input, h], in two parts."""
        self.hidden, self.heads, self.width = hidden, heads, heads * hidden
        fan_in = inputs + self.width
        self.gates_input = Dense(inputs, 8 * self.width, rngs=rngs, scale=inputs / fan_in)
        self.gates_state = Dense(self.width, 8 * self.width, rngs=rngs, scale=self.width / fan_in, bias=False)
        self.key_scale = nnx.Param(jnp.zeros((), jnp.float32))

    def start(self, batch: tuple[int, ...]) -> _State:
        """Zeros."""
        return jnp.zeros((*batch, self.width), jnp.float32), jnp.zeros(
            (*batch, self.heads, self.hidden, self.hidden), jnp.float32
        )

    def read(self, inputs: Float[Array, "*B E"]) -> Float[Array, "*B 8*{self.width}"]:
        """The inputs' share in keys, queries and gates."""
        return self.gates_input(inputs)

    def step(
        self, state: _State, share: Float[Array, "*B 8*{self.width}"]
    ) -> tuple[_State, Float[Array, "*B {self.width}"]]:
        """One step; the output is h."""
        h, c = state
        gates = rearrange(share + self.gates_state(h), "... (n m h) -> (... n) m h", n=self.heads, m=8)
        scale = jax.nn.softplus(self.key_scale[...])
        new_h, new_c = _outer_update(gates, rearrange(c, "... n i j -> (... n) i j"), scale)
        h, c = new_h.reshape(h.shape), new_c.reshape(c.shape)
        return (h, c), h


@jax.checkpoint  # to keep the outer products for the backward pass takes longer, and four times the memory
def _outer_update(
    gates: Float[Array, "N 8 H"], c: Float[Array, "N H H"], scale: Float[Array, ""]
) -> tuple[Float[Array, "N H"], Float[Array, "N H H"]]:
    """The new (h, c) of N heads from the rows a_1, a_2, a_3, b_1, b_2, b_3, q, o of `gates`."""
    keys = jnp.tanh(gates[:, :6])
    # einsum, because its derivative is one too: XLA needs three times as long for that of a broadcast product on a CPU.
    i, g, f = (jnp.einsum("ni,nj->nij", scale * keys[:, m], keys[:, m + 3]) for m in range(3))
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * g
    read = jnp.einsum("nij,ni->nj", c, gates[:, 6])
    return jax.nn.sigmoid(gates[:, 7]) * jnp.tanh(read), c


# Our choice, by the accuracy at step 0 on projected digits.
_KEY, _LABEL, _QUERY, _KEEP, _SCALE, _HEAD = 0.5, 2.0, 0.003, 2.0, 5.0, 3.0


def _match(net: Recurrent, cell: _OuterLSTMCell, passed: Passed, rngs: nnx.Rngs) -> None:
    """Make keys of the last input, values of its label and queries of the new input; column j is class j modulo C."""
    classes, width = passed.label.shape[1], passed.query.shape[1]
    features = jax.random.normal(rngs.params(), (cell.heads, width, cell.hidden)) / width**0.5
    columns = np.arange(cell.hidden) % classes
    old = rearrange(REST * cell.gates_input.kernel[...], "e (n m h) -> m n e h", n=cell.heads, m=8)
    taken = np.any(np.concatenate(passed, axis=1), axis=1, keepdims=True)
    kernel = jnp.where(taken, 0.0, old)
    # The rows of `_outer_update`: a_2 is 1, b_2 is 4, q is 6.
    kernel = kernel.at[1].set(_KEY * jnp.einsum("ei,nih->neh", passed.last, features))
    kernel = kernel.at[4].set(_LABEL * passed.label[:, columns])
    kernel = kernel.at[6].set(_QUERY * jnp.einsum("ei,nih->neh", passed.query, features))
    cell.gates_input.kernel[...] = rearrange(kernel, "m n e h -> e (n m h)")
    bias = np.zeros(8)
    bias[[2, 5]] = _KEEP  # a_3 and b_3, of the forget gate
    biases = repeat(bias, "m -> (n m h)", n=cell.heads, h=cell.hidden)
    cell.gates_input.bias = nnx.Param(jnp.asarray(biases, jnp.float32))
    cell.gates_state.kernel[...] = jnp.zeros_like(cell.gates_state.kernel[...])
    cell.key_scale[...] = jnp.float32(np.log(np.expm1(_SCALE)))  # softplus of it is the scale
    ends = repeat(_HEAD * np.eye(classes)[columns], "h k -> (n h) k", n=cell.heads)
    net.head.kernel[...] = jnp.asarray(ends / cell.heads, jnp.float32)
