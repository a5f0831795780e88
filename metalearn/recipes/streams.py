"""The root keys of one seed, one per use."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import PRNGKeyArray

__all__ = ["stream"]


def stream(seed: int, name: str) -> PRNGKeyArray:
    """The root key of one use of the seed, such as "theta" or "evaluation".

    It lies two folds away from `key(seed)`. So no use shares a key with another use, nor with task number i of a family
    with the same seed, which lies one fold away.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x6D6C), zlib.crc32(name.encode()))
