"""VSML: a grid of tiny LSTMs that share one set of weights, a learning algorithm free of sizes and of order.

Kirsch & Schmidhuber 2020 (arXiv 2012.14905), in the form of the baseline of Kirsch, Harrison, Sohl-
Dickstein & Metz 2022 (arXiv 2212.04458): one layer, each message fed back to where it was formed. Where a
network has a weight from input i to output o, here sits an LSTM. All run the same program; they differ in
their states and in the messages they exchange, forward to the outputs and back to the inputs. Every message
is a mean over cells, so a permutation of the inputs changes nothing and a permutation of the labels
permutes the logits: meta-training cannot remember what input 3 or label 3 was, and one theta runs on any
number of inputs and outputs.
Shapes: B leading axes, T examples, D inputs, C outputs, H units a cell, M floats a message.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, encode_label
from metalearn_models.learners._dense import Dense, functional
from metalearn_models.networks.recurrent import lstm_update


@dataclass(frozen=True)
class VSMLConfig:
    """Size of VSML's cells, by default the paper's; the grid takes its size from the task."""

    hidden: int = 16
    """Units of each LSTM; the state holds 2 x hidden x inputs x outputs floats."""
    messages: int = 8
    """Floats in a message."""
    ticks: int = 2
    """Steps of the LSTMs an example."""


class Grid(NamedTuple):
    """State of the learner; all zeros at the start.

    Attributes:
        label: the label observed last, as each output reads it.
        h: outputs of the cells.
        c: their memories.
        forward: what the outputs were told last, a mean over inputs.
        backward: what the inputs were told last, a mean over outputs.
    """

    label: Float[Array, "*B C"]
    h: Float[Array, "*B D C H"]
    c: Float[Array, "*B D C H"]
    forward: Float[Array, "*B C M"]
    backward: Float[Array, "*B D M"]


def vsml(signature: Signature, config: VSMLConfig) -> Learner:
    """One layer of VSML that learns in context.

    `state_size` is D C 2 H, the cells' (h, c), as Kirsch et al. count: messages are linear functions of h, and
    the previous label counts as input.

    Args:
        signature: shapes of the sequences; a real label is read as it is.
        config: see `VSMLConfig`.

    Returns:
        The learner. Its theta is a nested dict of float32 arrays, whose shapes depend on the config alone.

    Raises:
        ValueError: when a field of the config is less than 1.
    """
    if min(config.hidden, config.messages, config.ticks) < 1:
        raise ValueError(f"VSML needs hidden, messages and ticks >= 1, got {config}")
    inputs, outputs = signature.inputs, signature.outputs
    init, bind = functional(lambda rngs: Cells(config, rngs))

    def zeros(batch: tuple[int, ...]) -> Grid:
        cells = jnp.zeros((*batch, inputs, outputs, config.hidden))
        forward = jnp.zeros((*batch, outputs, config.messages))
        backward = jnp.zeros((*batch, inputs, config.messages))
        return Grid(jnp.zeros((*batch, outputs)), cells, cells, forward, backward)

    def start(theta: Any, key: PRNGKeyArray) -> Grid:
        del theta, key
        return zeros(())

    def predict(theta: Any, state: Grid, x: Float[Array, " D"]) -> Float[Array, " C"]:
        return bind(theta)(state, x).forward[..., 0]

    def observe(theta: Any, state: Grid, x: Float[Array, " D"], y: Labels) -> Grid:
        return bind(theta)(state, x)._replace(label=encode_label(y, outputs))

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        cells = bind(theta)

        def body(state: Grid, example: tuple[Array, Array]) -> tuple[Grid, Array]:
            x, label = example
            state = cells(state, x)
            return state._replace(label=label), state.forward[..., 0]

        examples = jnp.moveaxis(xs, -2, 0), jnp.moveaxis(encode_label(ys, outputs), -2, 0)
        return jnp.moveaxis(jax.lax.scan(body, zeros(xs.shape[:-2]), examples)[1], 0, -2)

    return Learner(init, start, predict, observe, run, inputs * outputs * 2 * config.hidden, signature)


class Cells(nnx.Module):
    """The weights that all cells share.

    The cell (i, o) reads x_i, the previous label's component o, and the messages that input i and output o were
    told last. It takes `ticks` steps on this and sends its h in the next messages; logit o is the first
    float of what output o is told. What cells read is a sum of a row's and a column's share, the same at
    every tick, and a mean of messages is the message of a mean: both are computed once a row or column, not
    once a cell.
    """

    def __init__(self, config: VSMLConfig, rngs: nnx.Rngs):
        """Draw one matrix over [row, column, h], cut in three."""
        hidden, messages = config.hidden, config.messages
        self.ticks = config.ticks
        ends, fan_in = messages + 1, 2 * (messages + 1) + hidden
        self.gates_row = Dense(ends, 4 * hidden, rngs=rngs, scale=ends / fan_in)
        self.gates_column = Dense(ends, 4 * hidden, rngs=rngs, scale=ends / fan_in, bias=False)
        self.gates_state = Dense(hidden, 4 * hidden, rngs=rngs, scale=hidden / fan_in, bias=False)
        self.send_forward = Dense(hidden, messages, rngs=rngs)
        self.send_backward = Dense(hidden, messages, rngs=rngs)

    def __call__(self, state: Grid, x: Float[Array, "*B D"]) -> Grid:
        """Take in an input beside the label in `state`, and send the messages that follow."""
        rows = self.gates_row(jnp.concatenate([state.backward, x[..., None]], -1))
        columns = self.gates_column(jnp.concatenate([state.forward, state.label[..., None]], -1))
        h, c = run_cells(self.gates_state.kernel[...], rows, columns, state.h, state.c, self.ticks)
        return Grid(state.label, h, c, self.send_forward(h.mean(-3)), self.send_backward(h.mean(-2)))


@functools.partial(jax.checkpoint, static_argnums=5)  # to keep the gates of all steps costs seven times the memory
def run_cells(
    w: Float[Array, "H 4H"],
    rows: Float[Array, "*B D 4H"],
    columns: Float[Array, "*B C 4H"],
    h: Float[Array, "*B D C H"],
    c: Float[Array, "*B D C H"],
    ticks: int,
) -> tuple[Float[Array, "*B D C H"], Float[Array, "*B D C H"]]:
    """The new (h, c) of a grid of LSTMs after some ticks.

    Args:
        w: the state's weights in the gates.
        rows: the share of what each input says in the gates of its cells.
        columns: the same for each output.
        h: outputs of the cells.
        c: memories of the cells.
        ticks: steps on the same input.
    """
    share = (rows[..., :, None, :] + columns[..., None, :, :]).reshape(-1, w.shape[1])
    flat_h, flat_c = h.reshape(-1, w.shape[0]), c.reshape(-1, w.shape[0])
    for _ in range(ticks):
        flat_h, flat_c = lstm_update(share + flat_h @ w, flat_c)
    return flat_h.reshape(h.shape), flat_c.reshape(c.shape)
