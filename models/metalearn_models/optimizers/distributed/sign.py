"""Send one bit per entry: the scaled sign (Karimireddy, Rebjock, Stich, Jaggi 2019, arXiv 1901.09847)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metalearn_models.optimizers.distributed.compressor import Compressor, from_coding

__all__ = ["sign"]


def sign() -> Compressor:
    """Send the sign of each entry, and the mean absolute value of each tensor.

    A message of a tensor of n entries is ceil(n / 8) bytes and one float. One bit has no room for 0: an entry that is 0
    counts as positive, so that a parameter whose gradient is 0 moves back and forth about its place while the other
    entries of its tensor have gradients. A tensor that is 0 stays 0.
    """

    def encode(x: Any) -> Any:
        return jnp.packbits(x.ravel() >= 0), jnp.abs(x).mean()

    def decode(message: Any, like: Any) -> Any:
        bits, size = message
        positive = jnp.unpackbits(bits, count=like.size).reshape(like.shape) != 0
        return jnp.where(positive, size, -size)

    return from_coding(encode, decode)
