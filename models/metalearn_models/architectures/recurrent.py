"""The recurrent cell of Li and Talwalkar, as a model of characters: 8 nodes, 4 operations, 2,642,411,520 cells.

Li and Talwalkar 2019 (arXiv 1902.07638), with the cell of ENAS and DARTS (Pham et al. 2018, arXiv 1802.03268; Liu et
al. 2018, arXiv 1806.09055). The first state is a highway of input and last output; node j reads one earlier state s
and is s + c (op(W_h s) - s), with the gate c = sigmoid(W_c s); the mean of the nodes is the cell's output. A pair of
matrices belongs to a node, as in DARTS, so weights can be shared between architectures. Operations here are tanh,
ReLU, sigmoid and identity; the operation "zero" is left out, as there. Sizes and initial values are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.architectures.cell_network import CellNetwork
from metalearn_models.architectures.feedforward import chain_choices
from metalearn_models.architectures.operations import apply_operation
from metalearn_models.architectures.space import make_space

__all__ = ["RECURRENT_OPERATIONS", "RecurrentParams", "recurrent_cell"]

RECURRENT_OPERATIONS = ("tanh", "relu", "sigmoid", "identity")
"""The operations of the paper's recurrent cell."""


class RecurrentParams(NamedTuple):
    """Weights of all architectures: V symbols, H units, N nodes.

    Attributes:
        embedding: of the symbols.
        stem: from input and last output to gate and value of the first state.
        nodes: from a state to gate and value of each node.
        head: from the output to the logits.
        bias: of the logits.
    """

    embedding: Float[Array, "V H"]
    stem: Float[Array, "I G"]
    nodes: Float[Array, "N H G"]
    head: Float[Array, "H V"]
    bias: Float[Array, " V"]


def recurrent_cell(
    symbols: int, *, nodes: int = 8, operations: Sequence[str] = RECURRENT_OPERATIONS, width: int = 32
) -> CellNetwork:
    """A model of sequences for every recurrent cell; `apply` predicts symbol t + 1 from symbols 0 to t.

    Args:
        symbols: V, the size of the alphabet.
        nodes: N.
        operations: names of what a node may apply.
        width: H.

    Returns:
        The network; `apply` takes symbols `[B, T]` and gives logits `[B, T, V]`. The first output is zeros.

    Raises:
        UnknownNameError: an operation has no such name; with the nearest names.
        ValueError: there is no node or no operation.
    """
    operations = tuple(operations)
    space = make_space("recurrent", chain_choices(nodes, operations))

    def init(key: PRNGKeyArray) -> RecurrentParams:
        embedding, stem, inner, head = jax.random.split(key, 4)
        return RecurrentParams(
            jax.random.normal(embedding, (symbols, width)),
            jax.random.normal(stem, (2 * width, 2 * width)) / math.sqrt(2 * width),
            jax.random.normal(inner, (nodes, width, 2 * width)) / math.sqrt(width),
            jax.random.normal(head, (width, symbols)) / math.sqrt(width),
            jnp.zeros(symbols),
        )

    def cell(
        code: Int[Array, "C"], params: RecurrentParams, h: Float[Array, "B H"], x: Float[Array, "B H"]
    ) -> Float[Array, "B H"]:
        gate, value = jnp.split(jnp.concatenate([x, h], -1) @ params.stem, 2, -1)
        states = [h + jax.nn.sigmoid(gate) * (jnp.tanh(value) - h)]
        for j in range(nodes):
            before = jax.lax.dynamic_index_in_dim(jnp.stack(states), code[2 * j], keepdims=False)
            gate, value = jnp.split(before @ params.nodes[j], 2, -1)
            value = apply_operation(operations, code[2 * j + 1], value)
            states.append(before + jax.nn.sigmoid(gate) * (value - before))
        return jnp.mean(jnp.stack(states[1:]), 0)

    def apply(code: Int[Array, "C"], params: RecurrentParams, x: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        def step(h: Float[Array, "B H"], symbol: Int[Array, " B"]) -> tuple[Array, Array]:
            h = cell(code, params, h, params.embedding[symbol])
            return h, h

        start = jnp.zeros((len(x), width), params.embedding.dtype)
        _, outputs = jax.lax.scan(step, start, x.T)
        return jnp.swapaxes(outputs, 0, 1) @ params.head + params.bias[None, None]

    return CellNetwork(space, init, apply)
