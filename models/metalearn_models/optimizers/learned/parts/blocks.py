"""Loops over the blocks of a large tensor, so that the temporaries of one block stay in a processor's cache.

`fold_blocks` goes through a tensor in place, along one of its axes; `fold_entries` through all its entries, where that
is an advantage. `map_blocks` goes through a flat array that is cut
into equal blocks, with the memory of each block beside it. How wide a block should be depends on how many temporaries
the caller has, so that the callers choose the width; their widths are measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.learned.parts.placement import is_spread

__all__ = ["Block", "fold_blocks", "fold_entries", "map_blocks"]


class Block(NamedTuple):
    """Some consecutive rows of a tensor.

    Attributes:
        start: the first row.
        width: number of rows. None: all rows.
    """

    start: int | Int[Array, ""]
    width: int | None

    def of(self, x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
        """The block of `x`, whose rows lie along `axis`; an axis of length 1 belongs to every block."""
        if self.width is None or x.shape[axis] == 1:
            return x
        return jax.lax.dynamic_slice_in_dim(x, self.start, self.width, axis)

    def put(self, x: Float[Array, "..."], part: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
        """`x` with this block of it replaced by `part`."""
        return part if self.width is None else jax.lax.dynamic_update_slice_in_dim(x, part, self.start, axis)


def fold_blocks(length: int, width: int, body: Callable[[Block, Any], Any], carry: Any) -> Any:
    """Fold `body` over the blocks of a tensor with `length` rows.

    Args:
        length: number of rows.
        width: rows per block, at least 1. The last block has fewer if the width does not divide the length. From
            `length` on, the tensor is one block and `body` is called once.
        body: `(block, carry) -> carry`.
        carry: before the first block.

    Returns:
        The carry after the last block.
    """
    if width >= length:
        return body(Block(0, None), carry)
    carry = jax.lax.fori_loop(0, length // width, lambda i, c: body(Block(i * width, width), c), carry)
    rest = length % width
    return body(Block(length - rest, rest), carry) if rest else carry


def fold_entries(x: Float[Array, "*S"], width: int, body: Callable[[Block, Any], Any], carry: Any) -> Any:
    """Fold `body` over the entries of a tensor: block after block on a CPU, all in one block elsewhere.

    Args:
        x: raveled; or of any shape if it is spread over devices, which makes it one block.
        width: entries per block, at most. Blocks are all of one size if that is possible with more than half the width.
        body: `(block, carry) -> carry`.
        carry: before the first block.

    Returns:
        The carry after the last block.
    """
    if is_spread(x) or x.size <= width:
        return body(Block(0, None), carry)
    equal = max(range(width, width // 2, -1), key=lambda w: (x.size % w == 0, w % 16 == 0, w))
    return jax.lax.platform_dependent(
        carry,
        cpu=lambda carry: fold_blocks(x.size, equal, body, carry),
        default=lambda carry: body(Block(0, None), carry),
    )


def map_blocks(
    function: Callable[[Any, Float[Array, "*F W"]], tuple[Any, Float[Array, "*C W"]]],
    memory: Any,
    inputs: Float[Array, "*F N"],
    blocks: int,
    width: int,
) -> tuple[Any, Float[Array, "*C N"]]:
    """`function(memory, inputs)` of every block: one block after the other on a CPU, all at once elsewhere.

    Args:
        function: works on each of the N entries by itself, for any number of them.
        memory: every leaf [blocks, ..., width].
        inputs: of all entries.
        blocks: number of blocks.
        width: entries per block; `blocks * width` is at least N, and the rest is padding.

    Returns:
        The new memory in blocks, and the outputs of all entries.
    """
    size = inputs.shape[-1]
    padded = jnp.pad(inputs, [(0, 0)] * (inputs.ndim - 1) + [(0, blocks * width - size)])
    xs = (memory, rearrange(padded, "... (b w) -> b ... w", b=blocks))

    def together(xs: Any) -> tuple[Any, Array]:
        return jax.vmap(function)(*xs)

    def one_by_one(xs: Any) -> tuple[Any, Array]:
        return jax.lax.map(lambda x: function(*x), xs)

    memory, new = together(xs) if blocks == 1 else jax.lax.platform_dependent(xs, cpu=one_by_one, default=together)
    return memory, rearrange(new, "b ... w -> ... (b w)")[..., :size]
