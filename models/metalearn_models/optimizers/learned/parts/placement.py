"""Tensors that are spread over devices: whether they are, and memory that is spread in the same way.

The type of an array names its mesh. On a mesh with automatic axes it does not say which axes of the tensor are split:
there, any of them may be. Such a tensor is neither raveled nor processed in blocks, since both would gather it. In
`jax.shard_map` every tensor is local.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jaxtyping import Array, Float

__all__ = ["is_spread", "loose_shape", "repeated_zeros"]


def is_spread(x: Array) -> bool:
    """Whether the tensor may be spread over several devices. A scalar lies whole on each of them."""
    mesh = jax.typeof(x).sharding.mesh
    if mesh.empty or not x.ndim:
        return False
    axes = zip(mesh.axis_types, mesh.axis_sizes, strict=True)
    return any(size > 1 and kind != AxisType.Manual for kind, size in axes)


def loose_shape(x: Array) -> tuple[int, ...]:
    """The shape in which a rule for single parameters reads a tensor: raveled unless it is spread."""
    return x.shape if is_spread(x) else (x.size,)


def repeated_zeros(x: Float[Array, "*S"], copies: int) -> Float[Array, "copies *S"]:
    """Zeros in float32 of the shape of `x` and spread like it, with a leading axis."""
    zeros = jnp.zeros_like(x, jnp.float32)
    return jnp.broadcast_to(zeros[None], (copies, *zeros.shape))
