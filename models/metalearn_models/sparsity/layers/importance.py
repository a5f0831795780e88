"""Importance pruning: neurons whose incoming weights are small lose all of them.

Curci, Mocanu and Pechenizkiy 2021 (arXiv 2102.01732): the importance of a neuron is the sum of the sizes of its
incoming weights, and neurons at or below a percentile of it are pruned. Their two released programs disagree on when:
the 20th percentile every 10 epochs after epoch 200, or the 10th percentile every 20 epochs. That is up to the caller.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metalearn_models.networks.network import Activation
from metalearn_models.sparsity.layers.ell import Connections, ell_product
from metalearn_models.sparsity.layers.topology import connect

__all__ = ["Smaller", "importance", "prune_neurons", "remove_neurons"]


class Smaller(NamedTuple):
    """Two consecutive layers after neurons between them were removed.

    Attributes:
        values: of the first layer, with fewer outputs.
        bias: of the first layer.
        connections: of the first layer.
        next_bias: of the second layer, with what the removed neurons gave it.
        next_connections: of the second layer, with fewer inputs; its values stay in their places.
        kept: which outputs of the first layer are left.
    """

    values: Float[Array, "K P"]
    bias: Float[Array, "P"]
    connections: Connections
    next_bias: Float[Array, "Q"]
    next_connections: Connections
    kept: Bool[Array, "O"]


def importance(values: Float[Array, "K O"], connections: Connections) -> Float[Array, "O"]:
    """The sum of the sizes of each neuron's incoming weights."""
    present = connections.indices < connections.positions.shape[1]
    return jnp.where(present, jnp.abs(values), jnp.zeros_like(values)).sum(0)


def prune_neurons(
    values: Float[Array, "K O"], connections: Connections, percentile: float
) -> tuple[Float[Array, "K O"], Connections]:
    """Remove all incoming connections of unimportant neurons, within the same shapes; can be compiled.

    The percentile is of neurons that have connections left (our choice), so that the same percentile prunes again. The
    connections become absent: they get no gradient, and SET does not let them grow. `remove_neurons` then makes the
    arrays smaller.

    Args:
        values: the weights.
        connections: their topology.
        percentile: in [0, 100]; neurons at or below it are pruned.

    Raises:
        ValueError: the percentile is outside [0, 100].
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be between 0 and 100, got {percentile}")
    indices, positions = connections
    inputs, sizes = positions.shape[1], importance(values, connections)
    alive = (indices < inputs).any(0)
    limit = jnp.nanpercentile(jnp.where(alive, sizes, jnp.nan), percentile)
    pruned = jnp.broadcast_to(sizes <= limit, values.shape)
    gone = jnp.append(pruned.reshape(-1), True)[positions]
    return (
        jnp.where(pruned, jnp.zeros_like(values), values),
        Connections(
            jnp.where(pruned, jnp.asarray(inputs, indices.dtype), indices),
            jnp.where(gone, jnp.asarray(indices.size, positions.dtype), positions),
        ),
    )


def remove_neurons(
    values: Float[Array, "K O"],
    bias: Float[Array, "O"],
    connections: Connections,
    next_values: Float[Array, "L Q"],
    next_bias: Float[Array, "Q"],
    next_connections: Connections,
    activation: Activation,
) -> Smaller:
    """Take neurons without incoming connections out of the arrays; what the network computes stays the same.

    Such a neuron is constant, so what it gives the next layer moves into the next bias. The connections that leave it
    become absent. Shapes change: programs compile anew, and cost less from then on.

    Args:
        values: of the first layer; everything must be concrete.
        bias: of the first layer.
        connections: of the first layer.
        next_values: of the second layer.
        next_bias: of the second layer.
        next_connections: of the second layer.
        activation: between the two.

    Raises:
        ValueError: no neuron has connections left.
    """
    inputs = connections.positions.shape[1]
    kept = (connections.indices < inputs).any(0)
    if not bool(kept.any()):
        raise ValueError("no neuron has incoming connections left, so the network no longer reads its input")
    constant = jnp.where(kept, jnp.zeros_like(bias), activation(bias))
    moved = ell_product(next_values, next_connections, constant[:, None])[:, 0]
    numbers = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, jnp.sum(kept, dtype=jnp.int32))
    numbers = jnp.append(numbers, jnp.sum(kept, dtype=jnp.int32))
    return Smaller(
        values[:, kept],
        bias[kept],
        connect(connections.indices[:, kept], inputs, connections.positions.shape[0]),
        next_bias + moved,
        connect(numbers[next_connections.indices], int(kept.sum()), next_connections.positions.shape[0]),
        kept,
    )
