"""MAC, FOOF of rank one (ICDM 2025, arXiv 2506.08464): only the mean activation of each layer is known.

Kernels move by `damping (damping I + abar abar^T)^-1 G = G - abar (abar^T G) / (damping + |abar|^2)`, where abar is the
average of a layer's inputs. This equals `damping` times FOOF if all inputs of a layer without positions are equal (over
positions FOOF sums and MAC averages); the factor keeps the learning rate in the units of SGD. There is no matrix to
store and none to invert. It is the control that shows whether FOOF needs more than the mean of the inputs. The authors'
code keeps the full second moment for the first layer (`scale_by_foof` on that layer, by `optax.partition`) and weights
attention by its scores; neither is done here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature._layerwise import LayerRule, check_positive, layerwise, make_timing
from metalearn_models.optimizers.curvature._matching import Matching
from metalearn_models.optimizers.curvature.layers import (
    KernelLayout,
    LayerStatistics,
    flatten_positions,
    sum_outer_products,
)

__all__ = ["mac", "scale_by_mac"]


def mac(
    learning_rate: optax.ScalarOrSchedule = 0.1,
    damping: Any = 1.0,
    momentum: Any = 0.9,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """MAC as a whole optimizer; learning rate, damping, momentum and decay are the authors', who also decay weights.

    Args:
        learning_rate: a number or a schedule of optax.
        damping: in the units of squared inputs.
        momentum: decay of the heavy ball after the preconditioner. None: no momentum.
        decay: see `scale_by_foof`, as the arguments that follow.
        period: number of updates for which one mean is used; the authors take 50.
        collect: number of batches per mean.
        burn_in: number of batches that are measured before the first update.
        fallback: see there; its updates are part of the momentum and are multiplied by the learning rate.
        layers: see there.

    Returns:
        The transformation; `update` needs `statistics`.

    Raises:
        ValueError: an argument is out of its range.
    """
    scale = scale_by_mac(
        damping, decay=decay, period=period, collect=collect, burn_in=burn_in, fallback=fallback, layers=layers
    )
    after = () if momentum is None else (optax.trace(momentum),)
    return optax.chain(scale, *after, optax.scale_by_learning_rate(learning_rate))


def scale_by_mac(
    damping: Any = 1.0,
    *,
    decay: Any = 0.95,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Shrink the gradient of each kernel along the mean of its inputs.

    Args:
        damping: in the units of squared inputs.
        decay: see `scale_by_foof`, as the arguments that follow.
        period: number of updates for which one mean is used.
        collect: number of batches per mean.
        burn_in: number of batches that are measured before the first update.
        fallback: updates parameters without statistics.
        layers: path and layout of the kernels.

    Returns:
        The transformation. Its `update` takes `statistics`, and ignores extra arguments that it does not know.

    Raises:
        ValueError: an argument is out of its range. By `update`: the statistics are missing, or of another model.
    """
    check_positive("damping", damping)

    def precondition(mean: Float[Array, "m"], gradient: Float[Array, "m n"]) -> Float[Array, "m n"]:
        share = (mean @ gradient) / (jnp.asarray(damping, mean.dtype) + mean @ mean)
        return gradient - jnp.outer(mean, share)

    rule = LayerRule(
        lambda layout, dtype: jnp.zeros(layout.inputs, dtype),
        _measure,
        lambda mean: mean + 0,  # a solution of its own: no buffer stands twice in a state
        precondition,
        lambda mean, a, e: precondition(mean, sum_outer_products(a, e)),
    )
    return layerwise(rule, make_timing(decay, period, collect, burn_in), Matching("scale_by_mac", fallback, layers))


def _measure(layer: LayerStatistics, dtype: Any) -> Float[Array, "m"]:
    return flatten_positions(layer.inputs).astype(dtype).mean(0)
