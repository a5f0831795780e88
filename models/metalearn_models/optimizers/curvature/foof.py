"""FOOF, gradient descent on neurons (Benzing, ICML 2022, arXiv 2201.12250).

A layer with inputs a and outputs `W^T a` moves its outputs best along their gradients if the kernel moves by
`(lambda I + A)^-1 G`, with A the mean of `a a^T` over the examples and G the gradient. This is eq. (6) of the paper,
which minimises (5) with lambda in place of the printed lambda / 2. Sums over examples in the paper are means here: its
learning rate and damping at batch size B are ours times B.

`optax.chain(scale_by_foof(...), optax.contrib.muon(...))` is Newton-Muon (Du and Su 2026, arXiv 2604.01472), which
preconditions the gradient by the inputs before the momentum and the orthogonalisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature._layerwise import LayerRule, check_positive, layerwise, make_timing
from metalearn_models.optimizers.curvature._matching import Matching
from metalearn_models.optimizers.curvature.damped import damped_inverse
from metalearn_models.optimizers.curvature.layers import (
    KernelLayout,
    LayerStatistics,
    flatten_positions,
    sum_outer_products,
)

__all__ = ["foof", "input_second_moment", "scale_by_foof"]


def foof(
    learning_rate: optax.ScalarOrSchedule,
    damping: Any = 1.0,
    momentum: Any = None,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """FOOF as a whole optimizer: momentum on the gradients, the preconditioner, the learning rate.

    Args:
        learning_rate: a number or a schedule of optax. The paper's 30 at batch size 100, with damping 100, is 0.3 here,
            with damping 1.
        damping: lambda. A good pair keeps the ratio of learning rate and damping: the update is about
            `learning_rate / damping` times the gradient where the inputs are small.
        momentum: decay of the heavy ball, on the gradient before the preconditioner, as in the paper's code. None:
            no momentum, and one layer's update costs less where the batch is smaller than the layer.
        decay: see `scale_by_foof`, as the arguments that follow.
        period: number of updates per inverse.
        collect: number of batches per inverse.
        burn_in: number of batches that are measured before the first update.
        fallback: see there; its updates are multiplied by the learning rate, too.
        layers: see there.

    Returns:
        The transformation; `update` needs `statistics`.

    Raises:
        ValueError: an argument is out of its range.
    """
    precondition = scale_by_foof(
        damping, decay=decay, period=period, collect=collect, burn_in=burn_in, fallback=fallback, layers=layers
    )
    before = () if momentum is None else (optax.trace(momentum),)
    return optax.chain(*before, precondition, optax.scale_by_learning_rate(learning_rate))


def scale_by_foof(
    damping: Any = 1.0,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the gradient of each kernel by the damped inverse second moment of its inputs.

    A batch whose inputs or output gradients are not finite leaves the second moments as they were.

    Args:
        damping: lambda, in the units of squared inputs; the paper's 100 at batch size 100 is 1 here.
        decay: of the average of the second moments over batches, with bias correction.
        period: number of updates per inverse, T of the paper.
        collect: number of batches whose second moments are averaged for an inverse, S of the paper. None: all.
        burn_in: number of batches that are measured before the first inverse, with equal weights. Their updates are 0.
            The paper takes 50.
        fallback: updates parameters without statistics, such as biases. None: their gradient is passed on as it is.
        layers: path and layout of the kernels, from `find_layers(loss_fn, params, ...)`. None: parameters of two or
            more axes, whose last axis gives the outputs. With `layers` the fallback keeps no state for kernels.

    Returns:
        The transformation. Its `update` takes `statistics` from `value_grad_and_statistics`, and ignores extra
        arguments that it does not know.

    Raises:
        ValueError: an argument is out of its range. By `update`: the statistics are missing, or of another model.
    """
    check_positive("damping", damping)
    rule = LayerRule(
        lambda layout, dtype: jnp.zeros((layout.inputs, layout.inputs), dtype),
        input_second_moment,
        lambda moment: damped_inverse(moment, damping),
        lambda inverse, gradient: inverse @ gradient,
        lambda inverse, a, e: sum_outer_products(a @ inverse, e),
    )
    return layerwise(rule, make_timing(decay, period, collect, burn_in), Matching("scale_by_foof", fallback, layers))


def input_second_moment(layer: LayerStatistics, dtype: Any = jnp.float32) -> Float[Array, "m m"]:
    """The mean over examples, summed over positions, of the outer product of a layer's inputs."""
    a = flatten_positions(layer.inputs).astype(dtype)
    return sum_outer_products(a, a) / layer.inputs.shape[0]  # rounded factors may be indefinite
