"""Send only the largest entries: top-k sparsification (Stich, Cordonnier, Jaggi 2018, arXiv 1809.07599)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from metalearn_models.optimizers.distributed.compressor import Compressor, from_coding

__all__ = ["top_k"]


def top_k(share: float) -> Compressor:
    """Send the entries of each tensor that are largest in absolute value, with their places.

    A message of a tensor of n entries is k = ceil(share n) floats and as many places, each of 2 bytes in tensors of up
    to 65,536 entries and of 4 bytes in larger ones. No tensor is sent whole, even if that would be shorter.

    Args:
        share: of the entries, above 0 and at most 1; at least one entry per tensor is sent.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"top_k needs a share of the entries above 0 and at most 1, got {share}")

    def encode(x: Any) -> Any:
        flat = x.ravel()
        _, places = jax.lax.top_k(jnp.abs(flat), max(1, math.ceil(share * flat.size)))
        return flat[places], places.astype(jnp.uint16 if flat.size <= 2**16 else jnp.int32)

    def decode(message: Any, like: Any) -> Any:
        values, places = message
        # No place occurs twice, so that nothing is added.
        return jnp.zeros(like.size, like.dtype).at[places].set(values, unique_indices=True).reshape(like.shape)

    return from_coding(encode, decode)
