"""The products that `experiments.speed.sparse_layers` times: value and both gradients of one layer, by each system."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse as jax_sparse
from scipy import sparse as scipy_sparse

from metalearn_models.sparsity.layers import (
    block_product,
    draw_blocks,
    draw_connections,
    draw_values,
    ell_product,
    to_dense,
    to_mask,
)

__all__ = ["Product", "make_products"]


class Product(NamedTuple):
    """A layer's value and gradients, ready to be timed.

    Attributes:
        name: for the table.
        compute: does one forward and backward pass and returns `(y, d_weights, d_x)` when they are done.
        connections: how many weights take part in the product.
        stored: bytes of weights and of what says where they are.
        temporary: bytes that the compiled program plans beside arguments and results; None for SciPy.
    """

    name: str
    compute: Callable[[], Any]
    connections: int
    stored: int
    temporary: int | None


def _compiled(
    name: str, multiply: Callable[..., Any], weights: Any, fixed: Any, x: Any, g: Any, connections: int
) -> Product:
    """`multiply(weights, fixed, x)` and its gradients; `fixed` are indices or masks, which are data."""

    def both(weights: Any, fixed: Any, x: Any, g: Any) -> Any:
        y, back = jax.vjp(lambda w, x: multiply(w, fixed, x), weights, x)
        return y, *back(g)

    program = jax.jit(both).lower(weights, fixed, x, g).compile()
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves((weights, fixed)))
    plan: Any = program.memory_analysis()
    return Product(
        name,
        lambda: jax.block_until_ready(program(weights, fixed, x, g)),
        connections,
        stored,
        plan.temp_size_in_bytes,
    )


def _scipy(matrix: Any, x: np.ndarray, g: np.ndarray) -> Product:
    """SciPy's CSR product, its transpose, and dot products at the connections in blocks of a cache's size."""
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
    size = max(1, 2**17 // x.shape[1])

    def compute() -> Any:
        d_values = np.empty(matrix.nnz, np.float32)
        for start in range(0, matrix.nnz, size):
            part = slice(start, start + size)
            d_values[part] = np.einsum("nb,nb->n", x[matrix.indices[part]], g[rows[part]])
        return matrix @ x, d_values, matrix.T @ g

    stored = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    return Product("scipy.sparse CSR (one core)", compute, matrix.nnz, stored, None)


def make_products(width: int, density: float, batch: int, block: int, seed: int = 0) -> list[Product]:
    """The systems on one square layer with the same connections, except for blocks, which have as many of their own."""
    fan_in = max(1, round(width * density))
    keys = jax.random.split(jax.random.key(seed), 5)
    connections = draw_connections(keys[0], width, width, fan_in)
    values = draw_values(keys[1], fan_in, width)
    x, g = (jax.random.normal(k, (width, batch)) for k in keys[2:4])
    rows_x, rows_g = jnp.array(x.T), jnp.array(g.T)
    kernel, mask = to_dense(values, connections), to_mask(connections).astype(jnp.float32)
    blocks = width // block
    block_connections = draw_connections(keys[4], blocks, blocks, max(1, round(blocks * density)))
    block_values = draw_blocks(keys[4], block_connections.indices.shape[0], blocks, (block, block))
    csr: Any = scipy_sparse.csr_matrix(np.asarray(kernel).T)
    places = jnp.asarray(np.stack(np.nonzero(np.asarray(kernel).T), 1), jnp.int32)

    def bcoo(data: Any, places: Any, x: Any) -> Any:
        return jax_sparse.BCOO((data, places), shape=(width, width), indices_sorted=True, unique_indices=True) @ x

    def batch_first(values: Any, connections: Any, x: Any) -> Any:
        return ell_product(values, connections, x.T).T

    count = values.size
    return [
        _compiled("dense", lambda w, _, x: x @ w, kernel, (), rows_x, rows_g, count),
        _compiled("dense times mask", lambda w, m, x: x @ (w * m), kernel, mask, rows_x, rows_g, count),
        _compiled("ELL, features first", ell_product, values, connections, x, g, count),
        _compiled("ELL, batch first", batch_first, values, connections, rows_x, rows_g, count),
        _compiled(
            f"blocks of {block} x {block}", block_product, block_values, block_connections, x, g, block_values.size
        ),
        _compiled("jax.experimental.sparse BCOO", bcoo, jnp.asarray(csr.data), places, x, g, count),
        _scipy(csr, np.asarray(x), np.asarray(g)),
    ]


def time_in_turn(products: list[Product], turns: int, patience: float) -> dict[str, list[float]]:
    """Seconds per pass of each product; all take a turn before any takes the next.

    Args:
        products: each is called once before.
        turns: at most.
        patience: a product that has used as many seconds takes no further turn.
    """
    for product in products:
        product.compute()
    seconds: dict[str, list[float]] = {product.name: [] for product in products}
    for _ in range(turns):
        for product in products:
            if math.fsum(seconds[product.name]) < patience:
                start = time.perf_counter()
                product.compute()
                seconds[product.name].append(time.perf_counter() - start)
    return seconds
