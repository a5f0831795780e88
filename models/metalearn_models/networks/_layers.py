"""What the networks share: drawing the parameters of a layer, and checks of their sizes."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray


def draw_layer(key: PRNGKeyArray, shape: tuple[int, ...], scale: float | None) -> dict[str, Array]:
    """A weight of that shape and a bias of its last axis; `scale` as in `mlp`."""
    if scale is None:
        return {
            "weight": jax.nn.initializers.lecun_normal()(key, shape, jnp.float32),
            "bias": jnp.zeros(shape[-1], jnp.float32),
        }
    weight_key, bias_key = jax.random.split(key)
    weight = jax.random.normal(weight_key, shape, jnp.float32)
    bias = jax.random.normal(bias_key, shape[-1:], jnp.float32)
    return {"weight": scale * weight, "bias": scale * bias}


def check_widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    """The widths themselves, if every one is at least 1; else ValueError."""
    if min(widths) < 1:
        raise ValueError(f"every layer needs at least one unit, got the widths {widths}")
    return widths


def check_scale(scale: float | None) -> None:
    """Raise ValueError for a standard deviation that is negative, infinite or NaN."""
    if scale is not None and not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale is a standard deviation: it must be finite and at least 0, got {scale}")
