"""The update rule of Celo: 30 features per parameter, made from accumulators, and a network that reads them.

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
from metalearn_models.optimizers.learned.parts.blocks import Block, fold_blocks
from metalearn_models.optimizers.learned.parts.factored_update import factored_axes
from metalearn_models.optimizers.learned.parts.placement import is_spread, repeated_zeros

__all__ = ["FEATURES", "TensorMemory", "apply_rule", "start_memory"]

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAYS = (0.999,)
FACTORED_DECAYS = (0.9, 0.99, 0.999)
"""Decays per step; not learned."""

CLIP, CLIPPED_FEATURE = 1000.0, 0.1
"""Gradients are clipped at the first in the accumulators, and at the second in one of the features."""

BY_ROW, BY_COLUMN = (15, 16, 17, 21, 22, 23), (18, 19, 20, 24, 25, 26)
"""Numbers of the features that are constant along an axis, and so rows of the first weight matrix."""

FEATURES = 30
"""Number of features of a parameter."""

ELEMENTWISE = tuple(i for i in range(FEATURES) if i not in BY_ROW + BY_COLUMN)

BLOCK = 2**13
"""Parameters per block of a tensor that does not fit a core's cache; measured on a CPU: twice as many are slower."""


class TensorMemory(NamedTuple):
    """The accumulators of one tensor of shape S.

    Attributes:
        momenta: one per decay.
        second_moment: one per decay, of which there is one.
        rows: mean square gradient over the largest axis; for a vector or scalar, the square gradient itself.
        columns: mean square gradient over the second largest axis; for a vector or scalar, None.
    """

    momenta: Float[Array, "3 *S"]
    second_moment: Float[Array, "1 *S"]
    rows: Float[Array, "3 *R"]
    columns: Float[Array, "3 *C"] | None


def start_memory(p: Float[Array, "*S"]) -> TensorMemory:
    """The memory of a fresh tensor: zeros, spread over devices like the tensor."""
    axes, zeros = factored_axes(p.shape), repeated_zeros(p, 3)
    if axes is None:
        return TensorMemory(zeros, repeated_zeros(p, 1), repeated_zeros(p, 3), None)
    return TensorMemory(zeros, repeated_zeros(p, 1), zeros.sum(axes[1] + 1), zeros.sum(axes[0] + 1))


def apply_rule(
    layers: Layers, g: Float[Array, "*S"], p: Float[Array, "*S"], memory: TensorMemory
) -> tuple[Float[Array, "2 *S"], TensorMemory]:
    """One step of the rule on one tensor, which must have entries.

    Args:
        layers: the network, its weights `[30, H]`, ..., `[H, 2]`.
        g: the gradient.
        p: the parameters.
        memory: the accumulators before the step.

    Returns:
        Direction and magnitude of each parameter's update, and the accumulators after the step.
    """
    g = jnp.clip(g, -CLIP, CLIP)
    square = g * g + 1e-30
    momenta = _accumulate(MOMENTUM_DECAYS, memory.momenta, g)
    second = _accumulate(SECOND_MOMENT_DECAYS, memory.second_moment, g * g)
    axes = factored_axes(p.shape)
    if axes is None:
        rows, columns = _accumulate(FACTORED_DECAYS, memory.rows, square), memory.columns
        along_rows = along_columns = rows
        scales, scale = (rows,), _scale_alone
    else:
        d1, d0 = axes
        assert memory.columns is not None
        rows = _accumulate(FACTORED_DECAYS, memory.rows, square.mean(d0))
        columns = _accumulate(FACTORED_DECAYS, memory.columns, square.mean(d1))
        # What is constant along an axis keeps that axis with length 1.
        along_rows, along_columns = jnp.expand_dims(rows, d0 + 1), jnp.expand_dims(columns, d1 + 1)
        by_row = _safe_rsqrt(along_rows / (along_rows.mean(d1 + 1, keepdims=True) + 1e-9))
        scales, scale = (by_row, _safe_rsqrt(along_columns)), _scale_by_factors
    tensors = (g[None], p[None], momenta, second, *scales)
    axis = min(axes or (0,))
    sizes = _block_sizes(p, axis)
    axis += 1  # after that of the features

    def features(block: Block) -> Float[Array, "18 *B"]:
        g, p, momenta, second, *scales = (block.of(x, axis) for x in tensors)
        inverse = jax.lax.rsqrt(second + 1e-6)
        clipped = jnp.clip(g, -CLIPPED_FEATURE, CLIPPED_FEATURE)
        g_scaled, m_scaled = scale(g, momenta, *scales)
        return jnp.concatenate(
            [g, clipped, p, momenta, second, momenta * inverse, inverse, g_scaled, g * inverse, m_scaled]
        )

    def add_squares(block: Block, sums: Float[Array, "18"]) -> Float[Array, "18"]:
        return sums + jnp.square(features(block)).sum(tuple(range(1, p.ndim + 1)))

    means = fold_blocks(*sizes, add_squares, jnp.zeros(len(ELEMENTWISE), jnp.float32)) / p.size
    weight = _normalise(layers[0]["weight"], ELEMENTWISE, means)
    by_rows = _along(layers[0]["weight"], BY_ROW, along_rows)
    by_columns = _along(layers[0]["weight"], BY_COLUMN, along_columns)

    def run_network(block: Block, outputs: Float[Array, "2 *S"]) -> Float[Array, "2 *S"]:
        units = jnp.tensordot(weight, features(block), (0, 0)) + block.of(by_rows, axis) + block.of(by_columns, axis)
        units = _add_bias(units, layers[0]["bias"])
        for layer in layers[1:]:
            units = _add_bias(jnp.tensordot(layer["weight"], jax.nn.relu(units), (0, 0)), layer["bias"])
        return block.put(outputs, units, axis)

    outputs = fold_blocks(*sizes, run_network, repeated_zeros(p, 2))
    return outputs, TensorMemory(momenta, second, rows, columns)


def _block_sizes(p: Array, axis: int) -> tuple[int, int]:
    """Rows along an axis, and rows per block: a block has about `BLOCK` entries.

    A tensor that is small or spread over devices is one block.
    """
    length, in_blocks = (p.shape or (1,))[axis], p.size > 2 * BLOCK and not is_spread(p)
    return length, max(1, BLOCK * length // p.size) if in_blocks else length


def _scale_alone(g: Array, m: Array, square: Array) -> tuple[Array, Array]:
    """Gradient and momenta of a vector, each over the root of its mean square gradient, for each decay."""
    # Where all gradients were 0, the scaled momentum has no derivative: there it is a constant.
    large = square > 1e-20
    ratio = m * jax.lax.rsqrt(jnp.where(large, square, 1))
    constant = jax.lax.stop_gradient(m * jax.lax.rsqrt(square))
    return g * _safe_rsqrt(square + 1e-9), jnp.where(large, ratio, constant)


def _scale_by_factors(g: Array, m: Array, by_row: Array, by_column: Array) -> tuple[Array, Array]:
    factor = by_row * by_column
    return g * factor, m * factor


def _along(weight: Float[Array, "30 H"], which: tuple[int, ...], x: Float[Array, "3 *S"]) -> Float[Array, "H *S"]:
    """The contribution of features of whole rows or columns to the hidden units."""
    x = jnp.concatenate([x, jax.lax.rsqrt(x + 1e-8)])
    means = jnp.square(x).mean(tuple(range(1, x.ndim)))
    return jnp.tensordot(_normalise(weight, which, means), x, (0, 0))


def _normalise(weight: Float[Array, "30 H"], which: tuple[int, ...], means: Float[Array, "F"]) -> Float[Array, "F H"]:
    """Some rows of the first weight matrix, each multiplied by the normaliser of its feature."""
    return weight[np.array(which)] * jnp.broadcast_to(inverse_rms(means)[:, None], (len(which), weight.shape[1]))


def _add_bias(units: Float[Array, "H *S"], bias: Float[Array, "H"]) -> Float[Array, "H *S"]:
    return units + bias.reshape(-1, *[1] * (units.ndim - 1))


def _accumulate(decays: tuple[float, ...], old: Float[Array, "D *S"], new: Float[Array, "*S"]) -> Float[Array, "D *S"]:
    decay = jnp.array(decays, jnp.float32).reshape(-1, *[1] * new.ndim)
    return decay * old + (1 - decay) * new[None]


def _safe_rsqrt(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))
