"""The LSTM as a black-box learner: a recurrent network whose weights are the learning algorithm.

Hochreiter & Schmidhuber 1997 (the cell); Hochreiter, Younger & Conwell 2001 (learning to learn with it); the
layout is that of Kirsch, Harrison, Sohl-Dickstein & Metz 2022 (arXiv 2212.04458): one token an example,
[x_j, y_{j-1}], two ReLU layers, the cell, a linear head. What the network learns about a task lives in the
state of the cell alone.

`Recurrent` and `recurrent_learner` are all but the cell, shared with the outer-product LSTM.
Shapes: B leading axes, T examples, D inputs, C outputs, H hidden units, G read by a cell, W put out by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.learner import Labels, Learner, Signature, encode_label
from metalearn_models.learners._dense import Dense, functional
from metalearn_models.networks.recurrent import lstm_update

Token = Literal["paper", "pair"]


@dataclass(frozen=True)
class LSTMConfig:
    """Size and input of the LSTM learner. The paper varies the size and names no default; 64 is ours."""

    hidden: int = 64
    """Units of the cell, and of the two layers before it; the state holds twice as many floats."""
    token: Token = "paper"
    """What is read at an example: "paper" [x_j, y_{j-1}]; "pair" adds x_{j-1}, so that it meets its label."""


def lstm(signature: Signature, config: LSTMConfig) -> Learner:
    """An LSTM that learns in context.

    `state_size` is 2 H, the hidden and the cell vector, as Kirsch et al. count. The previous label, and the
    previous input of a "pair" token, count as input.

    Args:
        signature: shapes of the sequences; real labels are read as they are.
        config: see `LSTMConfig`.

    Returns:
        The learner. Its theta is a nested dict of float32 arrays, whose shapes do not depend on T.

    Raises:
        ValueError: when `hidden` is less than 1 or the token is unknown.
    """
    if config.hidden < 1:
        raise ValueError(f"an LSTM needs hidden >= 1, got {config.hidden}")

    def build(token_width: int, rngs: nnx.Rngs) -> Recurrent:
        cell = LSTMCell(config.hidden, config.hidden, rngs)
        return Recurrent(token_width, config.hidden, cell, signature.outputs, rngs)

    return recurrent_learner(signature, config.token, build, 2 * config.hidden)


class Cell(Protocol):
    """A recurrent cell, cut in two so that what needs no state is computed for all examples at once."""

    width: int

    def start(self, batch: tuple[int, ...]) -> Any:
        """The states of a batch of cells before their first input."""
        ...

    def read(self, inputs: Float[Array, "*B E"]) -> Float[Array, "*B G"]:
        """The inputs' share in the pre-activations, biases included."""
        ...

    def step(self, state: Any, share: Float[Array, "*B G"]) -> tuple[Any, Float[Array, "*B W"]]:
        """One step: the new state and the output, `width` floats."""
        ...


class LSTMCell(nnx.Module):
    """The cell with forget gates, state (h, c): see `lstm_update`."""

    def __init__(self, inputs: int, hidden: int, rngs: nnx.Rngs):
        """Draw one matrix over [input, h], cut in two."""
        self.width = hidden
        fan_in = inputs + hidden
        self.gates_input = Dense(inputs, 4 * hidden, rngs=rngs, scale=inputs / fan_in)
        self.gates_state = Dense(hidden, 4 * hidden, rngs=rngs, scale=hidden / fan_in, bias=False)

    def start(self, batch: tuple[int, ...]) -> tuple[Float[Array, "*B H"], Float[Array, "*B H"]]:
        """Zeros."""
        return jnp.zeros((*batch, self.width)), jnp.zeros((*batch, self.width))

    def read(self, inputs: Float[Array, "*B E"]) -> Float[Array, "*B 4H"]:
        """The inputs' share in the four gates."""
        return self.gates_input(inputs)

    def step(
        self, state: tuple[Float[Array, "*B H"], Float[Array, "*B H"]], share: Float[Array, "*B 4H"]
    ) -> tuple[tuple[Float[Array, "*B H"], Float[Array, "*B H"]], Float[Array, "*B H"]]:
        """One step; the output is h."""
        h, c = state
        h, c = lstm_update(share + self.gates_state(h), c)
        return (h, c), h


class Recurrent(nnx.Module):
    """Two ReLU layers, a recurrent cell, a linear head."""

    def __init__(self, token_width: int, width: int, cell: Cell, outputs: int, rngs: nnx.Rngs):
        """Put the layers around `cell`, which reads `width` floats."""
        self.embed_1 = Dense(token_width, width, rngs=rngs)
        self.embed_2 = Dense(width, width, rngs=rngs)
        self.cell = cell
        self.head = Dense(cell.width, outputs, rngs=rngs)

    def read(self, tokens: Float[Array, "*B F"]) -> Float[Array, "*B G"]:
        """What the cell sees of the tokens: everything that needs no state."""
        return self.cell.read(jax.nn.relu(self.embed_2(jax.nn.relu(self.embed_1(tokens)))))


class Memory(NamedTuple):
    """State of a recurrent learner.

    Attributes:
        previous: what is already known of the next token, y_{j-1} or [y_{j-1}, x_{j-1}]; zeros at first.
        cell: the state of the cell.
    """

    previous: Float[Array, " P"]
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
        A learner whose `run` is one scan over the cell; layers before and after it see all examples at once.

    Raises:
        ValueError: when the token is unknown.
    """
    if token not in get_args(Token):
        raise unknown_name("token", token, get_args(Token))
    previous_width = signature.outputs + (signature.inputs if token == "pair" else 0)
    init, bind = functional(lambda rngs: build(signature.inputs + previous_width, rngs))

    def remember(x: Float[Array, "*B D"], y: Labels) -> Float[Array, "*B P"]:
        label = encode_label(y, signature.outputs)
        return jnp.concatenate([label, x], -1) if token == "pair" else label

    def advance(net: Recurrent, state: Memory, x: Float[Array, " D"]) -> tuple[Any, Float[Array, " W"]]:
        return net.cell.step(state.cell, net.read(jnp.concatenate([x, state.previous])))

    def start(theta: Any, key: PRNGKeyArray) -> Memory:
        del key  # deterministic
        return Memory(jnp.zeros(previous_width), bind(theta).cell.start(()))

    def predict(theta: Any, state: Memory, x: Float[Array, " D"]) -> Float[Array, " C"]:
        net = bind(theta)
        return net.head(advance(net, state, x)[1])

    def observe(theta: Any, state: Memory, x: Float[Array, " D"], y: Labels) -> Memory:
        return Memory(remember(x, y), advance(bind(theta), state, x)[0])

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        net = bind(theta)
        previous = remember(xs, ys)
        previous = jnp.concatenate([jnp.zeros_like(previous[..., :1, :]), previous[..., :-1, :]], -2)
        tokens = jnp.moveaxis(jnp.concatenate([xs, previous], -1), -2, 0)
        _, hs = jax.lax.scan(net.cell.step, net.cell.start(xs.shape[:-2]), net.read(tokens))
        return jnp.moveaxis(net.head(hs), 0, -2)

    return Learner(init, start, predict, observe, run, state_size, signature)
