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

__all__ = ["Axis", "Coding", "Compressor", "Reduced", "axis_is_bound", "from_coding", "mean", "mean_of_messages"]

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
        init: `(tensors, axis) -> memory`, one array, or `()` where there is none.
        reduce: `(tensors, memory, axis) -> Reduced`; the tensors have at least one entry each, and floating-point types
            of at least 32 bits.
        coding: how a single tensor becomes a message, for compressors whose messages stand alone.
    """

    init: Callable[[Sequence[Any], Axis], Any]
    reduce: Callable[[Sequence[Array], Any, Axis], Reduced]
    coding: Coding | None = None


class Coding(NamedTuple):
    """A tensor as a short message.

    Attributes:
        encode: `(x) -> message`, a tree of arrays whose shapes do not depend on the values of `x`.
        decode: `(message, like) -> tensor` of the shape and the dtype of `like`.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any, Any], Any]


def from_coding(encode: Callable[[Any], Any], decode: Callable[[Any, Any], Any]) -> Compressor:
    """A compressor without memory: every device gathers the messages of all, and averages them.

    Each device sends its message to all others, so that D devices send D - 1 messages each; see `in_two_stages`.

    Args:
        encode: see `Coding`.
        decode: see `Coding`.
    """

    def reduce_one(x: Array, axis: Axis) -> tuple[Array, Array]:
        message = encode(x)
        sent = decode(message, x)
        if not axis_is_bound(axis):
            return sent, sent
        return sent, mean_of_messages(jax.tree.map(lambda part: jax.lax.all_gather(part, axis), message), decode, x)

    def reduce(tensors: Sequence[Array], memory: Any, axis: Axis) -> Reduced:
        pairs = [reduce_one(x, axis) for x in tensors]
        return Reduced([sent for sent, _ in pairs], [average for _, average in pairs], memory)

    return Compressor(lambda tensors, axis: (), reduce, Coding(encode, decode))


def mean_of_messages(messages: Any, decode: Callable[[Any, Any], Any], like: Array) -> Array:
    """The mean of what messages say, which are stacked on the leading axis of each part."""
    count = jax.tree.leaves(messages)[0].shape[0]
    # One by one, so that their tensors are never held at once.
    total, _ = jax.lax.scan(lambda sum_, one: (sum_ + decode(one, like), None), jnp.zeros_like(like), messages)
    return total / count


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
