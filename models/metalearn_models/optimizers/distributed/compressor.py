"""What every compressor is, and the collectives that it uses on one device or on many.

A compressor turns a tensor of each device into a short message, and the messages of all devices into the mean of what
they say. It runs inside `jax.shard_map`, or inside `jax.vmap` with an `axis_name`, which imitates many devices on one.
Outside both, its axis is not bound and there is one device: the same code runs, and the mean is what that device sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

__all__ = ["Axis", "Compressor", "Reduced", "axis_is_bound", "from_messages", "mean"]

Axis = str | tuple[str, ...]
"""One axis of the mesh, or several over which devices are counted together."""


class Reduced(NamedTuple):
    """What a compressed mean over devices gives each of them.

    Attributes:
        sent: what the message of this device says, like the tensors.
        mean: the mean of `sent` over the devices, the same on each of them.
        memory: what the compressor remembers.
    """

    sent: list[Array]
    mean: list[Array]
    memory: Any


class Compressor(NamedTuple):
    """A way to send tensors in few bytes.

    Attributes:
        init: `(tensors) -> memory`, the same on all devices: one array, or `()` where there is none.
        reduce: `(tensors, memory, axis) -> Reduced`; the tensors have at least one entry each, and floating-point types
            of at least 32 bits.
    """

    init: Callable[[Sequence[Any]], Any]
    reduce: Callable[[Sequence[Array], Any, Axis], Reduced]


def from_messages(encode: Callable[[Any], Any], decode: Callable[[Any, Any], Any]) -> Compressor:
    """A compressor without memory, whose messages are gathered by every device and averaged there.

    Args:
        encode: `(x) -> message`, a tree of arrays whose shapes do not depend on the values of `x`.
        decode: `(message, like) -> tensor` of the shape and the dtype of `like`.
    """

    def reduce_one(x: Array, axis: Axis) -> tuple[Array, Array]:
        message = encode(x)
        sent = decode(message, x)
        if not axis_is_bound(axis):
            return sent, sent
        everyone = jax.tree.map(lambda part: jax.lax.all_gather(part, axis), message)
        # One by one, so that the tensors of all devices are never held at once.
        total, _ = jax.lax.scan(lambda sum_, one: (sum_ + decode(one, x), None), jnp.zeros_like(x), everyone)
        return sent, total / jax.lax.axis_size(axis)

    def reduce(tensors: Sequence[Array], memory: Any, axis: Axis) -> Reduced:
        pairs = [reduce_one(x, axis) for x in tensors]
        return Reduced([sent for sent, _ in pairs], [average for _, average in pairs], memory)

    return Compressor(lambda tensors: (), reduce)


def axis_is_bound(axis: Axis) -> bool:
    """Whether this code runs on the devices of a mesh axis, in `jax.shard_map` or in a `jax.vmap` of that name."""
    try:
        jax.lax.axis_size(axis)
    except NameError:
        return False
    return True


def mean(x: Array, axis: Axis) -> Array:
    """The mean over all devices, on each device; `x` itself where the axis is not bound."""
    return jax.lax.pmean(x, axis) if axis_is_bound(axis) else x
