"""A recurrent network as a learner: everything but its cell, which the LSTM and the outer-product LSTM fill in.

The layout is that of Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458): one token per example,
[x_j, y_{j-1}], two ReLU layers, the cell, a linear head.
There are two initialisations. "paper" is variance scaling. "matching" is our own: the cell starts as a learner that
adds up, for each class, the inputs seen with it, and compares these sums with the query (`lstm.py`, `outer_lstm.py`).
Meta-training goes on from there. `python -m experiments recurrent` compares the two.
Shapes: B leading axes, T examples, D inputs, C outputs, F numbers in a token, P of them known one example before, E
numbers that a cell reads, G of their shares in its pre-activations, W numbers that it puts out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, encode_label
from metalearn_models.learners._dense import Dense, make_functional

Token = Literal["paper", "pair"]
Initial = Literal["paper", "matching"]
REST = 0.3
"""Matching initial weights: what the weights without a part in the matching keep of their random start; our choice."""


@runtime_checkable
class Cell(Protocol):
    """A recurrent cell in two parts, so that what needs no state is computed for all examples at once."""

    width: int

    def start(self, batch: tuple[int, ...]) -> Any:
        """The states of a batch of cells before their first input."""
        ...

    def read(self, inputs: Float[Array, "*B E"]) -> Float[Array, "*B G"]:
        """The inputs' share in the pre-activations, biases included."""
        ...

    def step(self, state: Any, share: Float[Array, "*B G"]) -> tuple[Any, Float[Array, "*B W"]]:
        """One step: the new state and the output of `width` floats."""
        ...


class Recurrent(nnx.Module):
    """Two ReLU layers, a recurrent cell, a linear head."""

    def __init__(self, token_width: int, width: int, cell: Cell, outputs: int, rngs: nnx.Rngs):
        """Put the layers around `cell`, which reads `width` floats."""
        self.embed_1 = Dense(token_width, width, rngs=rngs)
        self.embed_2 = Dense(width, width, rngs=rngs)
        self.cell = cell
        self.head = Dense(cell.width, outputs, rngs=rngs)

    def read(self, tokens: Float[Array, "*B F"]) -> Float[Array, "*B G"]:
        """What the cell reads of the tokens: everything that needs no state."""
        return self.cell.read(jax.nn.relu(self.embed_2(jax.nn.relu(self.embed_1(tokens)))))

    def pass_through(self, signature: Signature, width: int) -> Passed:
        """Let the two ReLU layers hand on the label, and the first `width` numbers of both inputs of a pair token.

        Args:
            signature: shapes of the sequences.
            width: numbers of each input that are handed on, at most (E - C) / 4. ReLU lets each through in two halves,
                of which the second has its sign turned.

        Returns:
            Maps from what the cell reads [E] to the three: `inputs @ map` is the label, the query, the last input.
        """
        d, c, n = signature.inputs, signature.outputs, width
        rows, units = self.embed_1.kernel.shape
        used, eye = c + 4 * n, np.eye(n, dtype=np.float32)
        halves = np.concatenate([eye, -eye], axis=1)
        first = np.zeros((rows, used), np.float32)
        first[d : d + c, :c] = np.eye(c)
        first[:n, c : c + 2 * n] = halves
        first[d + c : d + c + n, c + 2 * n :] = halves
        second = np.eye(units, used, dtype=np.float32)
        for layer, block in ((self.embed_1, first), (self.embed_2, second)):
            layer.kernel[...] = jnp.concatenate([block, REST * layer.kernel[...][:, used:]], axis=1)
        label, query, last = (np.zeros((units, k), np.float32) for k in (c, n, n))
        label[:c] = np.eye(c)
        query[c : c + 2 * n] = halves.T
        last[c + 2 * n : used] = halves.T
        return Passed(label, query, last)


class Passed(NamedTuple):
    """Where a cell finds what `Recurrent.pass_through` hands on.

    Attributes:
        label: y_{j-1}, one-hot.
        query: the first numbers of x_j.
        last: those of x_{j-1}.
    """

    label: np.ndarray
    query: np.ndarray
    last: np.ndarray


def matched_width(signature: Signature, token: Token, hidden: int, units: int) -> int:
    """How many numbers of an input matching initial weights compare: all of them if the width allows it.

    Args:
        signature: shapes of the sequences.
        token: what is read at an example.
        hidden: units of the cell, and of the layers before it.
        units: units of the cell that one number takes.

    Raises:
        ValueError: the token lacks the input that belongs to the label, labels are real, or the width is too small.
    """
    least = max(signature.outputs + 4, units)
    if token != "pair" or signature.regression or hidden < least:
        labels = "real labels" if signature.regression else f"{signature.outputs} classes"
        raise ValueError(
            f'initial="matching" adds up the inputs of each class: it needs token="pair", classes as labels and, for '
            f"{signature.outputs} of them, hidden of at least {least}; got {token!r}, {labels} and {hidden}"
        )
    return min(signature.inputs, (hidden - signature.outputs) // 4, hidden // units)


class Memory(NamedTuple):
    """State of a recurrent learner.

    Attributes:
        previous: what is already known of the next token, y_{j-1} or [y_{j-1}, x_{j-1}]; zeros at first.
        cell: the state of the cell.
    """

    previous: Float[Array, "P"]
    cell: Any


def recurrent_learner(
    signature: Signature, token: Token, build: Callable[[int, nnx.Rngs], Recurrent], state_size: int
) -> Learner:
    """The learner around a recurrent network.

    Args:
        signature: shapes of the sequences.
        token: what is read at an example, see `LSTMConfig`.
        build: `(width of a token, rngs) -> network`.
        state_size: floats in the state of the network's cell.

    Returns:
        A learner whose `run` is one scan over the cell. The layers before and after the cell see all examples at once.
    """
    previous_width = signature.outputs + (signature.inputs if token == "pair" else 0)
    init, bind = make_functional(lambda rngs: build(signature.inputs + previous_width, rngs))

    def remember(x: Float[Array, "*B D"], y: Labels) -> Float[Array, "*B P"]:
        label = encode_label(y, signature.outputs)
        return jnp.concatenate([label, x], -1) if token == "pair" else label

    def advance(net: Recurrent, state: Memory, x: Float[Array, "D"]) -> tuple[Any, Float[Array, "W"]]:
        return net.cell.step(state.cell, net.read(jnp.concatenate([x, state.previous])))

    def start(theta: Any, key: PRNGKeyArray) -> Memory:
        del key  # deterministic
        return Memory(jnp.zeros(previous_width, jnp.float32), bind(theta).cell.start(()))

    def predict(theta: Any, state: Memory, x: Float[Array, "D"]) -> Float[Array, "C"]:
        net = bind(theta)
        return net.head(advance(net, state, x)[1])

    def observe(theta: Any, state: Memory, x: Float[Array, "D"], y: Labels) -> Memory:
        return Memory(remember(x, y), advance(bind(theta), state, x)[0])

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        net = bind(theta)
        previous = remember(xs, ys)
        previous = jnp.concatenate([jnp.zeros_like(previous[..., :1, :]), previous[..., :-1, :]], -2)
        tokens = rearrange(jnp.concatenate([xs, previous], -1), "... t f -> t ... f")
        _, hs = jax.lax.scan(net.cell.step, net.cell.start(xs.shape[:-2]), net.read(tokens))
        return rearrange(net.head(hs), "t ... c -> ... t c")

    return Learner(init, start, predict, observe, run, state_size, signature)
