"""KFAC (Martens and Grosse 2015, arXiv 1503.05671; convolutions Grosse and Martens 2016, arXiv 1602.01407).

The Fisher matrix of a kernel is approximated by the Kronecker product of A, the second moment of the inputs, and E,
that of the output gradients. Two ways to damp it, which Benzing (ICML 2022, arXiv 2201.12250) compares:

- heuristic, eq. (2, 4): `(A + lambda_A I)^-1 G (E + lambda_E I)^-1`, where lambda_A lambda_E = lambda and the ratio of
  the two is that of the mean eigenvalues of A and E;
- standard, eq. (3): `(A (x) E + lambda I)^-1 G`, by the eigenvectors of A and E.

Which Fisher matrix E is of, that of labels drawn from the model, of all labels or of the data's, is decided by who
makes the statistics (`fisher.py`). Where a layer has positions, A is summed over them and E is averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature._layerwise import LayerRule, check_positive, layerwise, make_timing
from metalearn_models.optimizers.curvature._matching import Matching
from metalearn_models.optimizers.curvature.damped import damped_inverse, eigh
from metalearn_models.optimizers.curvature.foof import input_second_moment
from metalearn_models.optimizers.curvature.layers import (
    KernelLayout,
    LayerStatistics,
    flatten_positions,
    sum_outer_products,
)

__all__ = ["Factors", "kfac", "kfac_standard", "output_second_moment", "scale_by_kfac", "scale_by_kfac_standard"]


class Factors(NamedTuple):
    """Something of the inputs `[m, ...]` and the same of the outputs `[n, ...]` of a layer."""

    inputs: Any
    outputs: Any


def kfac(
    learning_rate: optax.ScalarOrSchedule,
    damping: Any = 0.01,
    momentum: Any = None,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """KFAC with heuristic damping as a whole optimizer; without the rescaling and the momentum of the first paper.

    Args:
        learning_rate: a number or a schedule of optax.
        damping: lambda, in the units of the Fisher matrix; the paper's 1 at batch size 100 is 0.01 here.
        momentum: decay of the heavy ball, on the gradient before the preconditioner. None: no momentum.
        decay: see `scale_by_foof`, as the arguments that follow.
        period: number of updates per pair of inverses.
        collect: number of batches per pair of inverses.
        burn_in: number of batches that are measured before the first update.
        fallback: see there; its updates are multiplied by the learning rate, too.
        layers: see there.

    Returns:
        The transformation; `update` needs `statistics`.

    Raises:
        ValueError: an argument is out of its range.
    """
    scale = scale_by_kfac(
        damping, decay=decay, period=period, collect=collect, burn_in=burn_in, fallback=fallback, layers=layers
    )
    before = () if momentum is None else (optax.trace(momentum),)
    return optax.chain(*before, scale, optax.scale_by_learning_rate(learning_rate))


def kfac_standard(
    learning_rate: optax.ScalarOrSchedule,
    damping: Any = 0.01,
    momentum: Any = None,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """KFAC with standard damping as a whole optimizer. Arguments, returns and errors as `kfac`."""
    scale = scale_by_kfac_standard(
        damping, decay=decay, period=period, collect=collect, burn_in=burn_in, fallback=fallback, layers=layers
    )
    before = () if momentum is None else (optax.trace(momentum),)
    return optax.chain(*before, scale, optax.scale_by_learning_rate(learning_rate))


def scale_by_kfac(
    damping: Any = 0.01,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the gradient of each kernel by the inverses of both factors, each with its part of the damping.

    Args:
        damping: lambda, the product of the dampings of the two factors.
        decay: see `scale_by_foof`, as the arguments that follow.
        period: number of updates per pair of inverses.
        collect: number of batches per pair of inverses.
        burn_in: number of batches that are measured before the first inverses.
        fallback: updates parameters without statistics.
        layers: path and layout of the kernels.

    Returns:
        The transformation. Its `update` takes `statistics`, and ignores extra arguments that it does not know.

    Raises:
        ValueError: an argument is out of its range. By `update`: the statistics are missing, or of another model.
    """
    check_positive("damping", damping)

    def solve(moments: Factors) -> Factors:
        root = jnp.sqrt(jnp.asarray(damping, moments.inputs.dtype))
        a, e = (jnp.trace(x) / len(x) for x in moments)
        known = (a > 0) & (e > 0)  # before the first batch, and in a layer without inputs or gradients, they are 0
        ratio = jnp.where(known, jnp.sqrt(jnp.where(known, a, 1) / jnp.where(known, e, 1)), 1)
        return Factors(damped_inverse(moments.inputs, ratio * root), damped_inverse(moments.outputs, root / ratio))

    rule = LayerRule(
        _zeros,
        _measure,
        solve,
        lambda inverse, gradient: inverse.inputs @ gradient @ inverse.outputs,
        lambda inverse, a, e: sum_outer_products(a @ inverse.inputs, e @ inverse.outputs),
    )
    return layerwise(rule, make_timing(decay, period, collect, burn_in), Matching("scale_by_kfac", fallback, layers))


def scale_by_kfac_standard(
    damping: Any = 0.01,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the gradient of each kernel by the inverse of the damped Kronecker product.

    Args:
        damping: lambda, added to the eigenvalues of the Kronecker product.
        decay: see `scale_by_foof`, as the arguments that follow.
        period: number of updates per pair of decompositions.
        collect: number of batches per pair of decompositions.
        burn_in: number of batches that are measured before the first decompositions.
        fallback: updates parameters without statistics.
        layers: path and layout of the kernels.

    Returns:
        The transformation. Its `update` takes `statistics`, and ignores extra arguments that it does not know.

    Raises:
        ValueError: an argument is out of its range. By `update`: the statistics are missing, or of another model.
    """
    check_positive("damping", damping)

    def solve(moments: Factors) -> Factors:
        return Factors(eigh(moments.inputs), eigh(moments.outputs))

    def precondition(solution: Factors, gradient: Float[Array, "m n"]) -> Float[Array, "m n"]:
        (a, u), (e, v) = solution
        eigenvalues = jnp.maximum(a, 0)[:, None] * jnp.maximum(e, 0)[None]
        return u @ (u.T @ gradient @ v / (eigenvalues + jnp.asarray(damping, a.dtype))) @ v.T

    rule = LayerRule(
        _zeros, _measure, solve, precondition, lambda solution, a, e: precondition(solution, sum_outer_products(a, e))
    )
    timing = make_timing(decay, period, collect, burn_in)
    return layerwise(rule, timing, Matching("scale_by_kfac_standard", fallback, layers))


def output_second_moment(layer: LayerStatistics, dtype: Any = jnp.float32) -> Float[Array, "n n"]:
    """The mean over examples and positions of the outer product of the output gradients.

    Those of the Fisher matrix are summed over their K columns, where the statistics have them.
    """
    e = flatten_positions(layer.output_grads).astype(dtype)
    rows = len(e)
    if layer.fisher_grads is not None:
        e = layer.fisher_grads.reshape(-1, e.shape[-1]).astype(dtype)
    return sum_outer_products(e, e) / rows


def _measure(layer: LayerStatistics, dtype: Any) -> Factors:
    return Factors(input_second_moment(layer, dtype), output_second_moment(layer, dtype))


def _zeros(layout: KernelLayout, dtype: Any) -> Factors:
    return Factors(*(jnp.zeros((size, size), dtype) for size in (layout.inputs, layout.outputs)))
