"""Small feed-forward cells whose whole space can be trained: each node reads one earlier node and applies an operation.

The form is that of the recurrent cell of Li and Talwalkar 2019 (arXiv 1902.07638), without time: node j is
op_j(W[j, i_j] h[i_j] + b[j]), where h[0] is a linear stem, and the mean of all nodes is read out. A matrix belongs to
an edge (j, i), as there, so that weights can be shared between architectures. Sizes and initial values are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.architectures.cell_network import CellNetwork
from metalearn_models.architectures.operations import apply_operation, check_operations
from metalearn_models.architectures.space import make_space

__all__ = ["FeedforwardParams", "chain_choices", "feedforward_cell"]


class FeedforwardParams(NamedTuple):
    """Weights of all edges of all architectures: D inputs, H units, N nodes, K classes.

    Attributes:
        stem: leads from the inputs to the first units.
        edges: `[j, i]` leads from the stem (i = 0) or from node i - 1 to node j; those with i > j are never read.
        biases: of the nodes.
        head: leads from the mean of the nodes to the logits.
        bias: of the logits.
    """

    stem: Float[Array, "D H"]
    edges: Float[Array, "N N H H"]
    biases: Float[Array, "N H"]
    head: Float[Array, "H K"]
    bias: Float[Array, " K"]


def chain_choices(nodes: int, operations: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The choices of a cell in which each node reads one earlier node or the stem.

    There are `nodes! * len(operations) ** nodes` such cells.

    Raises:
        UnknownNameError: an operation has no such name; with the nearest names.
    """
    choices: dict[str, tuple[str, ...]] = {}
    for j in range(nodes):
        choices[f"node {j + 1} input"] = ("stem", *(f"node {i}" for i in range(1, j + 1)))
        choices[f"node {j + 1} operation"] = check_operations(operations)
    return choices


def feedforward_cell(
    inputs: int,
    classes: int,
    *,
    nodes: int = 3,
    operations: Sequence[str] = ("tanh", "relu", "identity"),
    width: int = 16,
) -> CellNetwork:
    """A classifier for every feed-forward cell.

    Args:
        inputs: D.
        classes: K.
        nodes: N.
        operations: names of what a node may apply.
        width: H.

    Raises:
        UnknownNameError: an operation has no such name; with the nearest names.
        ValueError: there is no node or no operation.
    """
    operations = tuple(operations)
    space = make_space("feedforward", chain_choices(nodes, operations))

    def init(key: PRNGKeyArray) -> FeedforwardParams:
        stem, edges, head = jax.random.split(key, 3)
        return FeedforwardParams(
            jax.random.normal(stem, (inputs, width)) / math.sqrt(inputs),
            jax.random.normal(edges, (nodes, nodes, width, width)) / math.sqrt(width),
            jnp.zeros((nodes, width)),
            jax.random.normal(head, (width, classes)) / math.sqrt(width),
            jnp.zeros(classes),
        )

    def apply(code: Int[Array, "C"], params: FeedforwardParams, x: Float[Array, "B D"]) -> Float[Array, "B K"]:
        hidden = [x @ params.stem]
        for j in range(nodes):
            source, operation = code[2 * j], code[2 * j + 1]
            before = jax.lax.dynamic_index_in_dim(jnp.stack(hidden), source, keepdims=False)
            weights = jax.lax.dynamic_index_in_dim(params.edges[j, : j + 1], source, keepdims=False)
            hidden.append(apply_operation(operations, operation, before @ weights + params.biases[j][None]))
        return jnp.mean(jnp.stack(hidden[1:]), 0) @ params.head + params.bias[None]

    return CellNetwork(space, init, apply)
