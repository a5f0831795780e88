"""Sparse multilayer perceptrons as Curci, Mocanu and Pechenizkiy 2021 (arXiv 2102.01732) train them: SET-MLP.

Features come first from the first layer to the last, so that only inputs and outputs are transposed. The output layer
is dense and never changes: with ten classes and their eps of 20 the Erdos-Renyi density of theirs exceeds one. A hidden
layer whose Erdos-Renyi fan-in reaches its number of inputs is dense too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.sparsity.layers.all_relu import all_relu
from metalearn_models.sparsity.layers.ell import Connections, ell_product
from metalearn_models.sparsity.layers.topology import draw_connections, draw_values, evolve

__all__ = ["Layers", "SparseNetwork", "Topologies", "erdos_renyi_fan_in", "evolve_layers", "sparse_mlp"]

Layers = tuple[dict[str, Array], ...]
"""One `{"values": [K, O], "bias": [O]}` per sparse layer, `{"kernel": [I, O], "bias": [O]}` per dense one."""

Topologies = tuple[Connections | None, ...]
"""The connections of each layer; None for a dense one."""


class SparseNetwork(NamedTuple):
    """A sparse network as two pure functions.

    Attributes:
        init: `(key) -> (params, topologies)`.
        apply: `(params, topologies, x[B, D]) -> y[B, C]`.
    """

    init: Callable[[PRNGKeyArray], tuple[Layers, Topologies]]
    apply: Callable[[Layers, Topologies, Float[Array, "B D"]], Float[Array, "B C"]]


def erdos_renyi_fan_in(inputs: int, outputs: int, eps: float = 20.0) -> int:
    """The mean fan-in of an Erdos-Renyi layer of density eps (I + O) / (I O), at least 1 and at most I.

    Raises:
        ValueError: eps is not positive.
    """
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}: a layer needs connections")
    return max(1, min(inputs, round(eps * (inputs + outputs) / outputs)))


def sparse_mlp(
    inputs: int, hidden: tuple[int, ...], outputs: int, eps: float = 20.0, alpha: float = 0.6
) -> SparseNetwork:
    """A sparse multilayer perceptron with All-ReLU.

    Args:
        inputs: D.
        hidden: widths of the hidden layers, from the input on.
        outputs: C.
        eps: the connections of hidden layers; see `erdos_renyi_fan_in`.
        alpha: slope of All-ReLU; 0 is ReLU.

    Raises:
        ValueError: a width is below 1, or eps is not positive.
    """
    widths = (inputs, *hidden, outputs)
    if min(widths) < 1:
        raise ValueError(f"every layer needs at least one unit, got the widths {widths}")
    fan_ins = [*(erdos_renyi_fan_in(i, o, eps) for i, o in pairwise(widths[:-1])), widths[-2]]

    def init(key: PRNGKeyArray) -> tuple[Layers, Topologies]:
        params, topologies = [], []
        for layer, (i, o), fan_in in zip(range(len(fan_ins)), pairwise(widths), fan_ins, strict=True):
            place, value = jax.random.split(jax.random.fold_in(key, layer))
            bias = jnp.zeros(o, jnp.float32)
            if fan_in == i:
                bound = math.sqrt(6 / i)
                kernel = jax.random.uniform(value, (i, o), jnp.float32, -bound, bound)
                params.append({"kernel": kernel, "bias": bias})
                topologies.append(None)
            else:
                params.append({"values": draw_values(value, fan_in, o), "bias": bias})
                topologies.append(draw_connections(place, i, o, fan_in))
        return tuple(params), tuple(topologies)

    def apply(params: Layers, topologies: Topologies, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
        h = rearrange(x, "b d -> d b")
        for number, (layer, connections) in enumerate(zip(params, topologies, strict=True), 1):
            if connections is None:
                h = jnp.einsum("io,ib->ob", layer["kernel"], h)
            else:
                h = ell_product(layer["values"], connections, h)
            h = h + jnp.broadcast_to(layer["bias"][:, None], h.shape)
            if number < len(params):
                h = all_relu(h, number, alpha)
        return rearrange(h, "c b -> b c")

    return SparseNetwork(init, apply)


def evolve_layers(
    key: PRNGKeyArray, params: Layers, topologies: Topologies, fraction: float = 0.3
) -> tuple[Layers, Topologies, Any]:
    """Change the topology of every sparse layer by SET.

    Returns:
        Parameters, topologies, and where values are new: a tree as the parameters, for `topology.forget`.
    """
    moved = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), params)
    layers, connections = list(params), list(topologies)
    for number, (layer, old) in enumerate(zip(params, topologies, strict=True)):
        if old is None:
            continue
        new = evolve(jax.random.fold_in(key, number), layer["values"], old, fraction)
        layers[number], connections[number] = {**layer, "values": new.values}, new.connections
        moved[number]["values"] = new.moved
    return tuple(layers), tuple(connections), moved
