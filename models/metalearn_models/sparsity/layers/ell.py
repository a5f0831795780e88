"""The product of a truly sparse matrix with a batch, and its exact gradient, at a cost linear in the connections.

Every output has the same number of inputs (constant fan-in, the ELL format of sparse matrices; Lasby, Golubeva, Evci,
Nica and Ioannou 2023, SRigL, arXiv 2305.02299, train such networks). Networks of Erdos-Renyi connections (Mocanu et
al. 2018; Curci, Mocanu and Pechenizkiy 2021, arXiv 2102.01732) have a random fan-in instead: constant fan-in is a
change of the model, not only of its format.

    y[o, b] = sum_k values[k, o] x[indices[k, o], b]

What makes it fast on a CPU is the layout. Features come first, so one gather copies whole rows of the batch, which are
contiguous. The loop over the fan-in is a scan whose unrolled body is one fused gather, multiply and add: nothing of the
size connections times batch is ever stored. The gradient of the inputs is the same product with the transpose, whose
positions are kept beside the indices, padded to the largest fan-out allowed. The gradient of the values is one dot
product per connection, computed for a block of outputs at a time.

Indices are data: another topology of the same shape needs no compilation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

__all__ = ["Connections", "ell_product"]

UNROLL = 8
"""Connections per output that one pass over the batch adds. Measured: 4, 8 and 16 differ by less than the noise."""

BLOCK = 2**17
"""Gathered numbers per block of the values' gradient: half a megabyte, which stays in a core's cache."""


class Connections(NamedTuple):
    """Which inputs each output reads, and the same read from the inputs' side.

    Attributes:
        indices: the inputs of each output. I, the number of inputs, stands for a connection that is absent.
        positions: for each input, where its connections stand in the flattened `indices`; K * O fills up. The first
            axis is the largest fan-out that the format can hold.
    """

    indices: Int[Array, "K O"]
    positions: Int[Array, "C I"]


def ell_product(values: Float[Array, "K O"], connections: Connections, x: Float[Array, "I B"]) -> Float[Array, "O B"]:
    """Multiply a sparse matrix with a batch whose features come first.

    Args:
        values: the weight of each connection. A value that stands at an absent connection counts as zero.
        connections: from `metalearn_models.sparsity.layers.topology`.
        x: the batch, features first: one column per example.

    Returns:
        The product in the dtype of `x`. Sums are made in float32 or, of float64, in float64.

    Gradients of `values` and `x` are those of the dense product, but only at connections: the gradient at an absent
    one is zero. Reverse mode can be nested; forward mode (`jax.jvp`) is refused by JAX.
    """
    return _product(values, connections, x)


@jax.custom_vjp
def _product(values: Any, connections: Connections, x: Any) -> Any:
    indices, inputs = connections.indices, x.shape[0]
    present = indices < inputs
    return _gather_sum(jnp.where(present, values, jnp.zeros_like(values)), jnp.minimum(indices, inputs - 1), x)


def _forward(values: Any, connections: Connections, x: Any) -> Any:
    return _product(values, connections, x), (values, connections, x)


def _backward(saved: Any, g: Any) -> Any:
    values, connections, x = saved
    indices, positions = connections
    inputs, outputs = x.shape[0], values.shape[1]
    present = indices < inputs
    products = _row_products(jnp.minimum(indices, inputs - 1), x, g)
    d_values = jnp.where(present, products, jnp.zeros_like(products)).astype(values.dtype)
    turned = values.reshape(-1).at[positions].get(mode="fill", fill_value=0)
    return d_values, None, _gather_sum(turned, positions % outputs, g)


_product.defvjp(_forward, _backward)


def _wide(x: Any) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def _gather_sum(values: Float[Array, "K O"], rows: Int[Array, "K O"], x: Float[Array, "I B"]) -> Float[Array, "O B"]:
    """The sum over k of `values[k, o] * x[rows[k, o]]`."""
    wide = _wide(x)

    def add(total: Array, connection: tuple[Array, Array]) -> tuple[Array, None]:
        value, row = connection
        gathered = x.at[row].get(mode="promise_in_bounds").astype(wide)
        return total + rearrange(value.astype(wide), "o -> o 1") * gathered, None

    with jax.numpy_rank_promotion("allow"):
        total, _ = jax.lax.scan(add, jnp.zeros((values.shape[1], x.shape[1]), wide), (values, rows), unroll=UNROLL)
    return total.astype(x.dtype)


def _row_products(rows: Int[Array, "K O"], x: Float[Array, "I B"], g: Float[Array, "O B"]) -> Float[Array, "K O"]:
    """The dot product of `x[rows[k, o]]` and `g[o]` for every connection."""
    wide = _wide(x)

    def of_one_output(pair: tuple[Array, Array]) -> Array:
        row, cotangent = pair
        return jnp.matmul(x.at[row].get(mode="promise_in_bounds"), cotangent, preferred_element_type=wide)

    block = max(1, min(rows.shape[1], BLOCK // max(1, rows.shape[0] * x.shape[1])))
    return rearrange(jax.lax.map(of_one_output, (rearrange(rows, "k o -> o k"), g), batch_size=block), "o k -> k o")
