"""Compressed all-reduce in two stages, which sends as little per device on a thousand devices as on two.

Tang, Yu, Lian, Zhang, Liu 2019, "DoubleSqueeze" (arXiv 1905.05957), with every device in the server's place for its own
part, as in a reduce-scatter and an all-gather. Each device cuts its tensor into one part per device and sends each
part's message to the device that owns the part. The owner averages what it gets, adds what its last message left out,
and sends the message of that to all. A message of m bytes costs 2 (D - 1) / D m bytes per device; gathered by all, it
costs (D - 1) m.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array

from metalearn_models.optimizers.distributed.compressor import (
    Axis,
    Compressor,
    Reduced,
    axis_is_bound,
    mean_of_messages,
)
from metalearn_models.optimizers.distributed.exact import add_exactly

__all__ = ["in_two_stages"]


def in_two_stages(compressor: Compressor) -> Compressor:
    """The same messages, each sent to one owner and back instead of to all.

    What a device sends, and its residual, are those of the first stage. The mean is that of what was sent, compressed
    once more with the owner's own residual, so that over all steps the means and this residual add up to the means of
    what was sent. On one device there is no second stage.

    Args:
        compressor: `top_k`, `sign` or `eight_bit`, or another of `from_coding`. Every part of a tensor is compressed by
            itself.

    Returns:
        The compressor. Its memory has two floats per entry that the device owns, and differs between devices: its
        `init` belongs where the axis is bound.

    Raises:
        ValueError: the compressor's messages do not stand alone; those of `low_rank` are added up on the way and
            need no owners. By `reduce`: the memory was made where the axis is not bound.
    """
    if compressor.coding is None:
        raise ValueError(
            "in_two_stages needs a compressor whose messages stand alone, such as top_k, sign or eight_bit; those of "
            "low_rank are added up on the way, and send no more on many devices"
        )
    encode, decode = compressor.coding

    def init(tensors: Sequence[Any], axis: Axis) -> Any:
        if not axis_is_bound(axis) or not tensors:
            return ()
        devices = jax.lax.axis_size(axis)
        dtype = max((x.dtype for x in tensors), key=lambda d: jnp.finfo(d).bits)
        return jnp.zeros((2, sum(-(-x.size // devices) for x in tensors)), dtype)

    def reduce_one(x: Array, left: Array, axis: Axis) -> tuple[Array, Array, Array]:
        devices, size = jax.lax.axis_size(axis), left.shape[1]
        padded = jnp.zeros(devices * size, x.dtype).at[: x.size].set(x.ravel())
        parts = rearrange(padded, "(device entry) -> device entry", device=devices)

        def whole(parts: Array) -> Array:
            return rearrange(parts, "device entry -> (device entry)")[: x.size].reshape(x.shape)

        messages = jax.vmap(encode)(parts)
        sent = jax.vmap(decode)(messages, parts)
        mine = jax.tree.map(lambda part: jax.lax.all_to_all(part, axis, 0, 0), messages)
        total, rest = add_exactly(left[0], left[1], mean_of_messages(mine, decode, parts[0]))
        answer = encode(total)
        left = jnp.stack(add_exactly(total, rest, -decode(answer, total)))
        answers = jax.tree.map(lambda part: jax.lax.all_gather(part, axis), answer)
        return whole(sent), whole(jax.vmap(decode)(answers, parts)), left

    def reduce(tensors: Sequence[Array], memory: Any, axis: Axis) -> Reduced:
        if not axis_is_bound(axis):
            return compressor.reduce(tensors, memory, axis)
        if not jax.tree.leaves(memory):
            raise ValueError(
                f"the state of in_two_stages has a share per device of the axis {axis!r}, and this one was made "
                "outside of it: call init inside jax.shard_map too, as data_parallel does"
            )
        found, at = [], 0
        for x in tensors:
            size = -(-x.size // jax.lax.axis_size(axis))
            found.append(reduce_one(x, memory[:, at : at + size].astype(x.dtype), axis))
            at += size
        sent, average, left = map(list, zip(*found, strict=True))
        return Reduced(sent, average, jnp.concatenate([part.astype(memory.dtype) for part in left], 1))

    return Compressor(init, reduce)
