"""A recurrent network as a learner: everything but its cell, which the LSTM and the outer-product LSTM fill in.

The layout is that of Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458): one token per example,
[x_j, y_{j-1}], two ReLU layers, the cell, a linear head.
Shapes: B leading axes, T examples, D inputs, C outputs, F numbers in a token, P of them known one example before, E
numbers that a cell reads, G of their shares in its pre-activations, W numbers that it puts out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, encode_label
from metalearn_models.learners._dense import Dense, make_functional

Token = Literal["paper", "pair"]


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
