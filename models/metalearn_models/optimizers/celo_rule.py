"""The update rule of Celo: 30 features of a parameter, made of accumulators, and a network on them.

Moudgil, Knyazev, Lajoie and Belilovsky 2025, "Celo: Training Versatile Learned Optimizers on a Compute Diet" (TMLR,
arXiv 2501.12670), after the authors' published code. Accumulators start at 0 and are not bias-corrected.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metalearn_models.optimizers.contract import Layers, inverse_rms
from metalearn_models.optimizers.factored import factored_axes

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAYS = (0.999,)
FACTORED_DECAYS = (0.9, 0.99, 0.999)
"""Per step; not learned."""

CLIP, CLIPPED_FEATURE = 1000.0, 0.1
"""Gradients enter the accumulators cut at the first, and one of the features at the second."""

BY_ROW, BY_COLUMN = (15, 16, 17, 21, 22, 23), (18, 19, 20, 24, 25, 26)
"""Which of the features, hence which rows of the first weight matrix, are constant along an axis."""

FEATURES = 30


class TensorMemory(NamedTuple):
    """The accumulators of one tensor of shape S.

    Attributes:
        momenta: one a decay.
        second_moment: the same.
        rows: mean square gradient over the largest axis; of a vector or scalar, the square gradient itself.
        columns: the same over the second largest axis; of a vector or scalar, empty.
    """

    momenta: Float[Array, "3 *S"]
    second_moment: Float[Array, "1 *S"]
    rows: Float[Array, "3 *R"]
    columns: Float[Array, "3 *C"]


def start_memory(shape: tuple[int, ...]) -> TensorMemory:
    """All accumulators 0."""
    axes = factored_axes(shape)
    rows, columns = (shape, (0,)) if axes is None else (shape[:a] + shape[a + 1 :] for a in reversed(axes))
    return TensorMemory(*(jnp.zeros(s) for s in ((3, *shape), (1, *shape), (3, *rows), (3, *columns))))


def apply_rule(
    layers: Layers, g: Float[Array, "*S"], p: Float[Array, "*S"], memory: TensorMemory
) -> tuple[Float[Array, "2 *S"], TensorMemory]:
    """One step of the rule on one tensor that has entries.

    Args:
        layers: the network, its weights `[30, H]`, ..., `[H, 2]`.
        g: the gradient.
        p: the parameters.
        memory: the accumulators before.

    Returns:
        Direction and magnitude of each parameter's update; the accumulators with this gradient in them.
    """
    g = jnp.clip(g, -CLIP, CLIP)
    square = g * g + 1e-30
    momenta = _accumulate(MOMENTUM_DECAYS, memory.momenta, g)
    second = _accumulate(SECOND_MOMENT_DECAYS, memory.second_moment, g * g)
    rows, columns = memory.rows, memory.columns
    axes = factored_axes(p.shape)
    if axes is None:
        rows = along_rows = along_columns = _accumulate(FACTORED_DECAYS, rows, square)
        g_scaled, m_scaled = g[None] * _safe_rsqrt(rows + 1e-9), _over_root(momenta, rows)
    else:
        d1, d0 = axes
        rows = _accumulate(FACTORED_DECAYS, rows, square.mean(d0))
        columns = _accumulate(FACTORED_DECAYS, columns, square.mean(d1))
        # What is constant along an axis keeps that axis with length 1.
        along_rows, along_columns = jnp.expand_dims(rows, d0 + 1), jnp.expand_dims(columns, d1 + 1)
        factor = _safe_rsqrt(along_rows / (along_rows.mean(d1 + 1, keepdims=True) + 1e-9)) * _safe_rsqrt(along_columns)
        g_scaled, m_scaled = g[None] * factor, momenta * factor
    inverse = jax.lax.rsqrt(second + 1e-6)
    clipped = jnp.clip(g, -CLIPPED_FEATURE, CLIPPED_FEATURE)
    plain = [g[None], clipped[None], p[None], momenta, second, momenta * inverse, inverse, g_scaled, g[None] * inverse]
    elementwise = tuple(i for i in range(FEATURES) if i not in BY_ROW + BY_COLUMN)
    units = (
        _first_layer(layers[0]["weight"], elementwise, [*plain, m_scaled])
        + _first_layer(layers[0]["weight"], BY_ROW, [along_rows, jax.lax.rsqrt(along_rows + 1e-8)])
        + _first_layer(layers[0]["weight"], BY_COLUMN, [along_columns, jax.lax.rsqrt(along_columns + 1e-8)])
    )
    units = _plus(units, layers[0]["bias"])
    for layer in layers[1:]:
        units = _plus(jnp.tensordot(layer["weight"], jax.nn.relu(units), (0, 0)), layer["bias"])
    return units, TensorMemory(momenta, second, rows, columns)


def _first_layer(weight: Float[Array, "30 H"], which: tuple[int, ...], features: list[Array]) -> Float[Array, "H *S"]:
    """What some features give the hidden units, the normaliser of each part of its weights."""
    x = jnp.concatenate(features)
    scale = inverse_rms(jnp.square(x).reshape(len(which), -1).mean(1))
    scaled = weight[np.array(which)] * jnp.broadcast_to(scale[:, None], (len(which), weight.shape[1]))
    return jnp.tensordot(scaled, x, (0, 0))


def _plus(units: Float[Array, "H *S"], bias: Float[Array, "H"]) -> Float[Array, "H *S"]:
    return units + bias.reshape(-1, *[1] * (units.ndim - 1))


def _accumulate(decays: tuple[float, ...], old: Float[Array, "D *S"], new: Float[Array, "*S"]) -> Float[Array, "D *S"]:
    decay = jnp.array(decays, jnp.float32).reshape(-1, *[1] * new.ndim)
    return decay * old + (1 - decay) * new[None]


def _safe_rsqrt(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _over_root(m: Float[Array, "*S"], square: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """`m / sqrt(square)`; where gradients are 0 that has no derivative, and a constant stands for it."""
    large = square > 1e-20
    ratio = m * jax.lax.rsqrt(jnp.where(large, square, 1))
    return jnp.where(large, ratio, jax.lax.stop_gradient(m * jax.lax.rsqrt(square)))
