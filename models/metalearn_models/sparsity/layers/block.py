"""Block-sparse products: constant fan-in whose connections are small dense matrices.

    y[q] = sum_k values[k, q]^T x[indices[k, q]],   x[p] and y[q] blocks of features

A block of weights reads contiguous features and is multiplied as a dense matrix. On a CPU that pays for densities at
which single connections no longer do; on accelerators, whose units multiply small dense matrices and gather slowly, it
is the form to use: blocks of at least 16 x 16, better 128 x 128, in bfloat16 (Gray, Radford and Kingma 2017, GPU
kernels for block-sparse weights; that part is not measured here). The price is a coarser choice of connections. Blocks
are the connections of `topology`, so the same functions draw them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.sparsity.layers.ell import Connections

__all__ = ["block_product", "block_to_dense", "draw_blocks"]


def draw_blocks(key: PRNGKeyArray, fan_in: int, outputs: int, block: tuple[int, int]) -> Float[Array, "K Q I O"]:
    """Draw blocks of weights uniformly with He's bound for the connections there are; float32.

    Args:
        key: randomness.
        fan_in: K, blocks per block of outputs.
        outputs: Q, blocks of outputs.
        block: inputs and outputs of a block.
    """
    bound = math.sqrt(6 / (fan_in * block[0]))
    return jax.random.uniform(key, (fan_in, outputs, *block), jnp.float32, -bound, bound)


def block_product(
    values: Float[Array, "K Q I O"], connections: Connections, x: Float[Array, "D B"]
) -> Float[Array, "E B"]:
    """Multiply a block-sparse matrix with a batch whose features come first.

    Args:
        values: a dense matrix per connection of blocks.
        connections: between blocks of inputs and blocks of outputs, as between single ones in `ell_product`.
        x: the batch; D is the number of blocks of inputs times I.

    Returns:
        The product, E = Q * O features first, in the dtype of `x`.

    Raises:
        ValueError: the features are not as many as the blocks of inputs hold.
    """
    blocks, size = connections.positions.shape[1], values.shape[2]
    if x.shape[0] != blocks * size:
        raise ValueError(f"{blocks} blocks of {size} inputs need {blocks * size} features, got {x.shape[0]}")
    y = _product(values, connections, rearrange(x, "(p i) b -> p i b", i=size))
    return rearrange(y, "q o b -> (q o) b")


def block_to_dense(values: Float[Array, "K Q I O"], connections: Connections) -> Float[Array, "D E"]:
    """The matrix `[inputs, outputs]` as a dense layer holds it."""
    blocks, (fan_in, outputs, *size) = connections.positions.shape[1], values.shape
    columns = jnp.broadcast_to(jnp.arange(outputs, dtype=jnp.int32), (fan_in, outputs))
    dense = jnp.zeros((blocks, outputs, *size), values.dtype).at[connections.indices, columns].set(values, mode="drop")
    return rearrange(dense, "p q i o -> (p i) (q o)")


@jax.custom_vjp
def _product(values: Any, connections: Connections, x: Any) -> Any:
    def add(total: Array, connection: tuple[Array, Array]) -> tuple[Array, None]:
        value, row = connection
        gathered = x.at[row].get(mode="fill", fill_value=0)
        return total + _multiply("qio,qib->qob", value.astype(x.dtype), gathered, total), None

    start = jnp.zeros((values.shape[1], values.shape[3], x.shape[2]), _wide(x))
    return jax.lax.scan(add, start, (values, connections.indices))[0].astype(x.dtype)


def _forward(values: Any, connections: Connections, x: Any) -> Any:
    return _product(values, connections, x), (values, connections, x)


def _backward(saved: Any, g: Any) -> Any:
    values, (indices, positions), x = saved
    flat = rearrange(values, "k q i o -> (k q) i o")

    def products(row: Array) -> Array:
        gathered = x.at[row].get(mode="fill", fill_value=0)
        return jnp.einsum("qib,qob->qio", gathered, g, preferred_element_type=_wide(x))

    def add(total: Array, position: Array) -> tuple[Array, None]:
        value = flat.at[position].get(mode="fill", fill_value=0).astype(g.dtype)
        return total + _multiply("pio,pob->pib", value, g[position % values.shape[1]], total), None

    d_x = jax.lax.scan(add, jnp.zeros(x.shape, _wide(x)), positions)[0].astype(x.dtype)
    return jax.lax.map(products, indices).astype(values.dtype), None, d_x


_product.defvjp(_forward, _backward)


def _multiply(axes: str, a: Array, b: Array, total: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=total.dtype)


def _wide(x: Any) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32
