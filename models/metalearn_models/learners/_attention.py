"""Causal softmax attention over whole sequences: written for the CPU, or the fused kernel of the accelerator.

Both compute the same function. The fused one never stores the [T, T] weights (FlashAttention, Dao et al. 2022, arXiv
2205.14135), which is what a GPU's memory is short of; the written one is the faster on a CPU.

A window (Beltagy et al. 2020, arXiv 2004.05150) lets a token see the last few tokens only, itself included. Layers
stack: what reaches the top of L layers is at most L (window - 1) tokens old.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Attend = Callable[[Array, Array, Array], Array]
"""`(q, k, v) -> read`, each [B, T, H, K]; q comes already scaled."""


def attention(kind: Literal["written", "fused"], length: int, window: int | None) -> Attend:
    """What a layer attends with.

    Args:
        kind: `causal_attention` or `fused_attention`.
        length: T, of the sequences.
        window: how many tokens a query sees, its own the last of them; none: all up to its own.
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

    The softmax is divided by its sum after the weights have met the values, [T, K] numbers instead of [T, T], so that
    its gradient reduces over K and not over T. On XLA's CPU backend the attention of a training step takes two thirds
    of the time of `jax.nn.softmax`.

    Args:
        q: queries, already scaled.
        k: keys.
        v: values.
        hidden: `attention_mask`. Adding it has no gradient to compute, selecting by it has.

    Returns:
        What each query reads.
    """
    q, k, v = (jnp.swapaxes(a, 1, 2) for a in (q, k, v))
    scores = jnp.einsum("bhqk,bhsk->bhqs", q, k).astype(jnp.float32)
    scores = scores + jnp.broadcast_to(hidden, scores.shape)
    # Any shift of the scores gives the same result, so the maximum is a constant to the gradient.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    read = jnp.einsum("bhqs,bhsk->bhqk", weights.astype(v.dtype), v).astype(jnp.float32)
    return jnp.swapaxes(read / weights.sum(-1, keepdims=True), 1, 2).astype(v.dtype)


def fused_attention(
    q: Float[Array, "B T H K"], k: Float[Array, "B T H K"], v: Float[Array, "B T H K"], window: int | None = None
) -> Float[Array, "B T H K"]:
    """`jax.nn.dot_product_attention`: cuDNN's kernel for bfloat16 on a GPU, which knows no other case, else XLA's.

    cuDNN's kernel has a reverse-mode gradient only, no forward mode, and takes keys whose size is a multiple of 8.

    Args:
        q: queries, already scaled.
        k: keys.
        v: values.
        window: how many tokens a query sees, its own the last of them; none: all up to its own.

    Returns:
        What each query reads.
    """
    cudnn = jax.default_backend() == "gpu" and q.dtype == jnp.bfloat16
    # The tokens to the left and to the right of a query's own. A window that leaves nothing out is no window, so that
    # both run the same kernel.
    local = None if window is None or window >= q.shape[1] else (window - 1, 0)
    with jax.numpy_dtype_promotion("standard"):  # JAX's own function does not hold to its strict mode
        return jax.nn.dot_product_attention(
            q, k, v, scale=1.0, is_causal=True, local_window_size=local, implementation="cudnn" if cudnn else None
        )
