"""Count the floating-point operations of a step, and measure the peak of this device.

Only matrix products and convolutions count, as usual for the utilisation of a device (Chowdhery et al. 2022, "PaLM",
arXiv 2204.02311, appendix B). `metalearn.costs.products` reads them from the jaxpr, because XLA's own `cost_analysis()`
counts the body of a loop once, however often it runs, and an outer loop consists of loops.

    flops = step_flops(loop.step, state, data)  # all outer steps of one call
    share = flops / seconds / peak_flops(jnp.float32)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metalearn.costs.products import count_products

__all__ = ["matrix_product", "peak_flops", "step_flops"]

PEAK_SIZE = 2048
"""Rows and columns of the product that measures the peak of a CPU."""
ACCELERATOR_PEAK_SIZE = 8192
"""The same for an accelerator, which a smaller product would not keep busy."""


def step_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of the products in one call of a function.

    Args:
        function: anything JAX can trace, compiled or not: `OuterLoop.step`, the `grad` of an estimator, a forward pass.
        args: its arguments, arrays or `jax.ShapeDtypeStruct`; nothing is computed.

    Returns:
        The number of operations, two per multiplication and addition in a matrix product or convolution. The body of a
        scan counts as often as it runs. Of the branches of a `cond` the most expensive one counts. What is recomputed
        (remat) counts again. A function that is split over devices counts on each of them. Factorisations and
        elementwise operations count nothing. The function counts as written, including what XLA removes because it is
        redundant or unused, such as the second pass of a learner whose `predict` and `observe` share one.

    Raises:
        ValueError: there are products in a `while_loop`, whose number of iterations is unknown, or in a Pallas kernel.
    """
    return 2 * sum(product.multiply_adds for product in count_products(function, (), *args))


def matrix_product(dtype: Any = jnp.float32, size: int = PEAK_SIZE) -> Callable[[], Any]:
    """A function that multiplies a random matrix by itself on the default device, and waits for the result.

    Args:
        dtype: a floating-point type.
        size: S, rows and columns; one call takes 2 S^3 operations.
    """
    a = jax.random.normal(jax.random.key(3), (size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    return lambda: jax.block_until_ready(product(a))


def peak_flops(dtype: Any = jnp.float32, seconds: float = 1.0, size: int | None = None) -> float:
    """Measure the operations per second of a large matrix product on the default device.

    The fastest product counts, so that other load on the machine matters little.

    Args:
        dtype: a floating-point type; products have JAX's default precision, which is lower on some accelerators.
        seconds: how long to measure; at least one product is timed, after one to warm up.
        size: rows and columns; None: 2,048 on a CPU and 8,192 elsewhere.

    Returns:
        Operations per second.
    """
    if size is None:
        size = PEAK_SIZE if jax.default_backend() == "cpu" else ACCELERATOR_PEAK_SIZE
    product = matrix_product(dtype, size)
    product()
    fastest, began = math.inf, time.perf_counter()
    while True:
        before = time.perf_counter()
        product()
        after = time.perf_counter()
        fastest = min(fastest, after - before)
        if after - began >= seconds:
            return 2 * size**3 / fastest
