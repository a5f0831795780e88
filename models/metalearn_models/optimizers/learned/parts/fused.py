"""Small networks over all entries of a large tensor, without an array of features, in blocks that fit a cache.

A layer is written as sums of products of whole arrays with single weights, which a compiler fuses into one loop over
the tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.optimizers.contract import Layers
from metalearn_models.optimizers.learned.parts.blocks import Block, fold_blocks
from metalearn_models.optimizers.learned.parts.placement import is_spread

__all__ = ["BLOCK", "WIDE", "network", "over_blocks", "products", "scalars"]

BLOCK = 2**14
"""Parameters per block; about twenty arrays of that size fit a core's cache. Measured on a CPU: 2^16 is 20 % slower."""

WIDE = 512
"""A layer with more weights is a matrix product: as scalar products it would take minutes to compile."""


def over_blocks(x: Float[Array, "*S"], axis: int, body: Callable[[Block, Any], Any], carry: Any) -> Any:
    """Fold `body` over the blocks of a tensor along an axis, if possible all of the same width.

    A tensor that is spread over devices is one block.
    """
    length, size = x.shape[axis], x.size
    width = length
    if size > 2 * BLOCK and not is_spread(x):
        most = max(1, BLOCK * length // size)
        width = max(range(most, most // 2, -1), key=lambda w: (length % w == 0, w))
    return fold_blocks(length, width, body, carry)


def network(layers: Layers, units: list[Array]) -> list[Array]:
    """The network's outputs from the first layer's sums; hidden units are one array each."""
    for layer in layers[1:]:
        sums = products([jax.nn.relu(u) for u in units], layer["weight"])
        units = [x + b for x, b in zip(sums, scalars(layer["bias"][None])[0], strict=True)]
    return units


@jax.custom_jvp
def products(xs: list[Array], weight: Float[Array, "M N"]) -> list[Array]:
    """`sum_i xs[i] weight[i, j]` for each j: one fused loop over the tensor, nothing stored in between."""
    if weight.size > WIDE:
        return list(jnp.tensordot(weight, jnp.stack(xs), (0, 0)))
    weights = scalars(weight)
    return [
        sum(x * w[j] for x, w in zip(xs[1:], weights[1:], strict=True)) + xs[0] * weights[0][j]
        for j in range(weight.shape[1])
    ]


@products.defjvp
def _products_jvp(primals: tuple[Any, Array], tangents: tuple[Any, Array]) -> tuple[list[Array], list[Array]]:
    # As a matrix product: transposed, the scalar form would be one pass over the tensor per weight.
    (xs, weight), (xs_dot, weight_dot) = primals, tangents
    along = jnp.tensordot(weight_dot, jnp.stack(xs), (0, 0)) + jnp.tensordot(weight, jnp.stack(xs_dot), (0, 0))
    return products(xs, weight), list(along)


def scalars(matrix: Float[Array, "M N"]) -> list[list[Array]]:
    """The entries of a matrix, from one split: the gradient of that many slices would be that many padded matrices."""
    rows, columns = matrix.shape
    entries = [x.reshape(()) for x in jax.lax.split(matrix.ravel(), [1] * matrix.size)]
    return [entries[i * columns : (i + 1) * columns] for i in range(rows)]
