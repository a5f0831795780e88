"""VSML: a grid of tiny LSTMs that share one set of weights; it learns whatever the sizes and the order of the inputs.

Kirsch & Schmidhuber 2020 (arXiv 2012.14905), in the form of the baseline of Kirsch, Harrison, Sohl-Dickstein & Metz
2022 (arXiv 2212.04458): one layer, in which each message is fed back to where it was formed. Where a network has a
weight from input i to output o, VSML has an LSTM. All LSTMs run the same program. They differ in their states and in
the messages that they exchange, forward to the outputs and back to the inputs. Every message is a mean over cells, so a
permutation of the inputs changes nothing and a permutation of the labels permutes the logits. Meta-training cannot
remember what input 3 or label 3 was, and one theta runs on any number of inputs and outputs.
Shapes: B leading axes, T examples, D inputs, C outputs, H units per cell, M floats per message.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, encode_label
from metalearn.ranges import Size
from metalearn_models.learners._common import check_settings
from metalearn_models.learners._dense import Dense, make_functional
from metalearn_models.networks.recurrent import lstm_update

__all__ = ["VSMLConfig", "vsml"]


@dataclass(frozen=True)
class VSMLConfig:
    """Size of VSML's cells, by default the paper's; the task decides the size of the grid."""

    hidden: Size = 16
    """Units of each LSTM; the state holds 2 x hidden x inputs x outputs floats."""
    messages: Size = 8
    """Floats in a message."""
    ticks: Size = 2
    """Steps of the LSTMs per example."""


class _Grid(NamedTuple):
    """State of the learner; all zeros at the start.

    Attributes:
        label: the label observed last, as each output reads it.
        h: outputs of the cells.
        c: their memories.
        forward: the last messages to the outputs, means over inputs.
        backward: the last messages to the inputs, means over outputs.
    """

    label: Float[Array, "*B C"]
    h: Float[Array, "*B D C H"]
    c: Float[Array, "*B D C H"]
    forward: Float[Array, "*B C M"]
    backward: Float[Array, "*B D M"]


def vsml(signature: Signature, config: VSMLConfig = VSMLConfig()) -> Learner:
    """One layer of VSML that learns in context.

    `state_size` is D C 2 H, the cells' (h, c), as Kirsch et al. count: messages are linear functions of h, and
    the previous label counts as input.

    Args:
        signature: shapes of the sequences; a real label is read unchanged.
        config: see `VSMLConfig`.

    Returns:
        The learner. Its theta is a nested dict of float32 arrays, whose shapes depend only on the config.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)
    inputs, outputs = signature.inputs, signature.outputs
    init, bind = make_functional(lambda rngs: _Cells(config, rngs))

    def zeros(batch: tuple[int, ...]) -> _Grid:
        shape = (*batch, inputs, outputs, config.hidden)
        # Two arrays, not one twice: a state can be donated.
        hidden, memory = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        forward = jnp.zeros((*batch, outputs, config.messages), jnp.float32)
        backward = jnp.zeros((*batch, inputs, config.messages), jnp.float32)
        return _Grid(jnp.zeros((*batch, outputs), jnp.float32), hidden, memory, forward, backward)

    def start(theta: Any, key: PRNGKeyArray) -> _Grid:
        del theta, key
        return zeros(())

    def predict(theta: Any, state: _Grid, x: Float[Array, "D"]) -> Float[Array, "C"]:
        return bind(theta)(state, x).forward[..., 0]

    def observe(theta: Any, state: _Grid, x: Float[Array, "D"], y: Labels) -> _Grid:
        return bind(theta)(state, x)._replace(label=encode_label(y, outputs))

    def run(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        cells = bind(theta)

        def body(state: _Grid, example: tuple[Array, Array]) -> tuple[_Grid, Array]:
            x, label = example
            state = cells(state, x)
            return state._replace(label=label), state.forward[..., 0]

        labels = encode_label(ys, outputs)
        examples = rearrange(xs, "... t d -> t ... d"), rearrange(labels, "... t c -> t ... c")
        return rearrange(jax.lax.scan(body, zeros(xs.shape[:-2]), examples)[1], "t ... c -> ... t c")

    return Learner(init, start, predict, observe, run, inputs * outputs * 2 * config.hidden, signature)


class _Cells(nnx.Module):
    """The weights that all cells share.

    The cell (i, o) reads x_i, component o of the previous label, and the last messages to input i and output o. It
    takes `ticks` steps on this and sends its h in the next messages. Logit o is the first float of the message to
    output o. What a cell reads is the sum of its row's and its column's share, which is the same at every tick, and a
    mean of messages is the message of a mean. So both are computed once per row or column, and not once per cell.
    """

    def __init__(self, config: VSMLConfig, rngs: nnx.Rngs):
        """Draw one matrix over [row, column, h], in three parts."""
        hidden, messages = config.hidden, config.messages
        self.ticks = config.ticks
        ends, fan_in = messages + 1, 2 * (messages + 1) + hidden
        self.gates_row = Dense(ends, 4 * hidden, rngs=rngs, scale=ends / fan_in)
        self.gates_column = Dense(ends, 4 * hidden, rngs=rngs, scale=ends / fan_in, bias=False)
        self.gates_state = Dense(hidden, 4 * hidden, rngs=rngs, scale=hidden / fan_in, bias=False)
        self.send_forward = Dense(hidden, messages, rngs=rngs)
        self.send_backward = Dense(hidden, messages, rngs=rngs)

    def __call__(self, state: _Grid, x: Float[Array, "*B D"]) -> _Grid:
        """Read an input and the label in `state`, and send the messages that follow."""
        rows = self.gates_row(jnp.concatenate([state.backward, x[..., None]], -1))
        columns = self.gates_column(jnp.concatenate([state.forward, state.label[..., None]], -1))
        h, c = _run_cells(self.gates_state.kernel[...], rows, columns, state.h, state.c, self.ticks)
        forward = self.send_forward(reduce(h, "... d c h -> ... c h", "mean"))
        backward = self.send_backward(reduce(h, "... d c h -> ... d h", "mean"))
        return _Grid(state.label, h, c, forward, backward)


@functools.partial(jax.checkpoint, static_argnums=5)  # to keep the gates of all steps costs seven times the memory
def _run_cells(
    w: Float[Array, "H 4*H"],
    rows: Float[Array, "*B D 4*H"],
    columns: Float[Array, "*B C 4*H"],
    h: Float[Array, "*B D C H"],
    c: Float[Array, "*B D C H"],
    ticks: int,
) -> tuple[Float[Array, "*B D C H"], Float[Array, "*B D C H"]]:
    """The new (h, c) of a grid of LSTMs after some ticks.

    Args:
        w: the weights of the state in the gates.
        rows: each input's share in the gates of its cells.
        columns: each output's share in the gates of its cells.
        h: outputs of the cells.
        c: memories of the cells.
        ticks: steps on the same input.
    """
    share = rearrange(rows, "... d g -> ... d 1 g") + rearrange(columns, "... c g -> ... 1 c g")
    share, flat_h, flat_c = (rearrange(a, "... d c g -> (... d c) g") for a in (share, h, c))
    for _ in range(ticks):
        flat_h, flat_c = lstm_update(share + flat_h @ w, flat_c)
    return flat_h.reshape(h.shape), flat_c.reshape(c.shape)
