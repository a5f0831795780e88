"""Dense matrices from truly sparse ones, and the other way."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from metalearn_models.sparsity.layers.ell import Connections
from metalearn_models.sparsity.layers.topology import connect

__all__ = ["from_dense", "from_mask", "to_dense", "to_mask"]


def to_dense(values: Float[Array, "K O"], connections: Connections) -> Float[Array, "I O"]:
    """The matrix `[inputs, outputs]` as a dense layer holds it: zero where there is no connection."""
    inputs, outputs = connections.positions.shape[1], values.shape[1]
    columns = jnp.broadcast_to(jnp.arange(outputs, dtype=jnp.int32), values.shape)
    return jnp.zeros((inputs, outputs), values.dtype).at[connections.indices, columns].set(values, mode="drop")


def to_mask(connections: Connections) -> Bool[Array, "I O"]:
    """Where `to_dense` has connections."""
    present = jnp.ones(connections.indices.shape, jnp.float32)
    return to_dense(present, connections) > 0


def from_dense(
    kernel: Float[Array, "I O"], fan_in: int, capacity: int | None = None
) -> tuple[Float[Array, "K O"], Connections]:
    """Keep the `fan_in` largest weights of each output by size.

    Args:
        kernel: a concrete matrix `[inputs, outputs]`.
        fan_in: K.
        capacity: outputs per input at most, with which the topology can change later. None: what is there.

    Raises:
        ValueError: the fan-in is not between 1 and the number of inputs, or the capacity is too small.
    """
    if not 1 <= fan_in <= kernel.shape[0]:
        raise ValueError(f"fan_in must be between 1 and the number of inputs, {kernel.shape[0]}; got {fan_in}")
    order = jnp.argsort(-jnp.abs(kernel), axis=0)[:fan_in]
    indices = jnp.sort(order, axis=0).astype(jnp.int32)
    return jnp.take_along_axis(kernel, indices, axis=0), connect(indices, kernel.shape[0], capacity)


def from_mask(
    kernel: Float[Array, "I O"], mask: Bool[Array, "I O"], capacity: int | None = None
) -> tuple[Float[Array, "K O"], Connections]:
    """Keep the weights under a mask, whatever each output's fan-in: shorter columns hold absent connections.

    Every output costs as much as the one with the largest fan-in.

    Args:
        kernel: a concrete matrix `[inputs, outputs]`.
        mask: what to keep.
        capacity: as in `from_dense`.

    Raises:
        ValueError: the mask keeps nothing, or the capacity is too small.
    """
    fan_in = int(mask.sum(0).max())
    if fan_in == 0:
        raise ValueError("the mask keeps no connection; a layer needs at least one")
    inputs = kernel.shape[0]
    order = jnp.argsort(~mask, axis=0, stable=True)[:fan_in]
    present = jnp.take_along_axis(mask, order, axis=0)
    values = jnp.take_along_axis(kernel, order, axis=0)
    indices = jnp.where(present, order, inputs).astype(jnp.int32)
    return jnp.where(present, values, jnp.zeros_like(values)), connect(indices, inputs, capacity)
