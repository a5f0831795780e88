"""Causal softmax attention over whole sequences: written for the CPU, or the fused kernel of the accelerator.

Both compute the same function. The fused one never stores the [T, T] weights (FlashAttention, Dao et al. 2022, arXiv
2205.14135), which saves memory on a GPU. The written one is faster on a CPU.

A window (Beltagy et al. 2020, arXiv 2004.05150) lets a token see only the last few tokens, itself included. Layers
stack: the top of L layers sees tokens that are at most L (window - 1) steps old.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

Attend = Callable[[Array, Array, Array], Array]
"""`(q, k, v) -> read`, each [B, T, H, K]; q is already scaled."""


def make_attention(kind: Literal["written", "fused"], length: int, window: int | None) -> Attend:
    """The attention of a layer.

    Args:
        kind: `"written"` for `causal_attention`, `"fused"` for `fused_attention`.
        length: T, the length of the sequences.
        window: how many tokens a query sees, its own the last of them. None: all up to its own.
    """
    if kind == "fused":
        return partial(fused_attention, window=window)
    return partial(causal_attention, hidden=attention_mask(length, window))


def attention_mask(length: int, window: int | None) -> Float[Array, "T T"]:
    """What to add to the score of query t and key s: 0 for t - window < s <= t, else -1e30."""
    ones = jnp.ones((length, length), bool)
    visible = jnp.tril(ones) if window is None else jnp.tril(ones) & ~jnp.tril(ones, -window)
    return jnp.where(visible, 0.0, -1e30)


def causal_attention(
    q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], v: Float[Array, "B T H K"], hidden: Float[Array, "T T"]
) -> Float[Array, "B T H K"]:
    """Softmax attention, written for its gradient.

    The weights are divided by their sum only after they have multiplied the values, so [T, K] numbers are divided
    instead of [T, T], and the gradient reduces over K and not over T. On XLA's CPU backend, the attention of a training
    step takes two thirds of the time of `jax.nn.softmax`.

    Args:
        q: queries, already scaled.
        k: keys.
        v: values.
        hidden: `attention_mask`. It is added because an addition adds nothing to the gradient; a selection would.

    Returns:
        What each query reads.
    """
    q, k, v = (rearrange(a, "b t h k -> b h t k") for a in (q, k, v))
    scores = jnp.einsum("bhqk,bhsk->bhqs", q, k).astype(jnp.float32)
    scores = scores + jnp.broadcast_to(hidden, scores.shape)
    # Any shift of the scores gives the same result, so the maximum is a constant to the gradient.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    read = jnp.einsum("bhqs,bhsk->bhqk", weights.astype(v.dtype), v).astype(jnp.float32)
    return rearrange(read / weights.sum(-1, keepdims=True), "b h t k -> b t h k").astype(v.dtype)


def fused_attention(
    q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], v: Float[Array, "B T H K"], window: int | None = None
) -> Float[Array, "B T H K"]:
    """`jax.nn.dot_product_attention`: cuDNN's kernel for bfloat16 on a GPU, XLA's in all other cases.

    cuDNN's kernel has a reverse-mode gradient but no forward mode, and needs a key size that is a multiple of 8.

    Args:
        q: queries, already scaled.
        k: keys.
        v: values.
        window: how many tokens a query sees, its own the last of them. None: all up to its own.

    Returns:
        What each query reads.
    """
    cudnn = jax.default_backend() == "gpu" and q.dtype == jnp.bfloat16
    # The numbers of tokens to the left and right of a query's own. A window that hides nothing is passed as no window,
    # so that both run the same kernel.
    local = None if window is None or window >= q.shape[1] else (window - 1, 0)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own function breaks JAX's strict mode
        return jax.nn.dot_product_attention(
            q, k, v, scale=1.0, is_causal=True, local_window_size=local, implementation="cudnn" if cudnn else None
        )
