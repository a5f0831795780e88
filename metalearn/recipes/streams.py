"""The root keys of one seed, one per use."""

from __future__ import annotations

import zlib

import jax
from jaxtyping import PRNGKeyArray


def stream(seed: int, name: str) -> PRNGKeyArray:
    """The root key of one use of the seed.

    Two folds away from `key(seed)`, so that no use shares a key with another, nor with task number i of a family of
    the same seed, which is one fold away.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x6D6C), zlib.crc32(name.encode()))
