"""Send one byte per entry: linear quantisation as in QSGD (Alistarh et al. 2017, arXiv 1610.02132).

QSGD rounds at random, so that a message is right on average. Here entries are rounded to the nearest step: error
feedback makes the sum of the messages right, and needs no random numbers. The step is a power of two (our choice),
which costs at most one of the eight bits and makes the product of step and integer exact.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from metalearn_models.optimizers.distributed.compressor import Compressor, from_coding

__all__ = ["eight_bit"]

LARGEST = 127


def eight_bit() -> Compressor:
    """Send each entry as a multiple, from -127 to 127, of the tensor's step, a power of two.

    A message of a tensor of n entries is n bytes and one float.
    """

    def encode(x: Any) -> Any:
        # The least power of two of which 127 reach the largest entry; not below the least normal number, so that it
        # divides. frexp: |x| = mantissa 2^exponent with the mantissa in [0.5, 1).
        largest = jnp.abs(x).max()
        mantissa, exponent = jnp.frexp(largest)
        exponent = exponent - 7 + (mantissa * 128 > LARGEST).astype(exponent.dtype)
        step = jnp.ldexp(jnp.ones_like(largest), jnp.maximum(exponent, int(jnp.finfo(x.dtype).minexp)))
        step = jnp.where(jnp.isfinite(largest), step, largest)
        return jnp.round(x / step).astype(jnp.int8), step

    def decode(message: Any, like: Any) -> Any:
        steps, step = message
        return steps.astype(like.dtype) * step

    return from_coding(encode, decode)
