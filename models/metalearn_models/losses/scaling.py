"""The unit of regression targets: a number, or estimated from the batch by median and MAD, which outliers do not move.

A regression loss l with the scale s is `s^2 l(y / s, f / s)`: multiplying targets, predictions and scale by a factor
multiplies the loss by its square, as it does the squared error. The median absolute deviation and its factor 1.4826,
which makes it the standard deviation of normal values, are those of Hampel (1974), "The Influence Curve and Its Role in
Robust Estimation", Journal of the American Statistical Association 69.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, ArrayLike, Float

from metalearn_models.losses.formulas.values import at_least_single

__all__ = ["LARGEST_SCALE", "Scale", "batch_unit", "check_scale", "robust_scale"]

Scale = float | Literal["batch"]
"""The unit of the targets: a positive number, or "batch", their `robust_scale` in each batch."""
LARGEST_SCALE = 1e12
"""Largest number that is allowed as a scale; the smallest is one over it."""
_FROM_MEDIAN, _FROM_MEAN = 1.4826, 1.2533  # factors from the two absolute deviations to a normal standard deviation


def check_scale(scale: Scale) -> Scale:
    """Return the scale as a float, or "batch".

    An array with one number, such as `robust_scale` gives for targets `[N, 1]`, is this number.

    Raises:
        ValueError: it is neither "batch" nor a number from 1e-12 to 1e12.
    """
    if isinstance(scale, str):
        if scale == "batch":
            return "batch"
    else:
        try:
            number = float(np.asarray(scale, np.float64).item())
        except (TypeError, ValueError):  # of several numbers, or of none
            number = math.nan
        if math.isfinite(number) and 1 / LARGEST_SCALE <= number <= LARGEST_SCALE:
            return number
    raise ValueError(
        f'scale must lie in [{1 / LARGEST_SCALE:g}, {LARGEST_SCALE:g}], in units of the targets, or be "batch", '
        f"got {scale!r:.80}"
    )


def robust_scale(targets: Float[ArrayLike, "N *C"]) -> Float[Array, "*C"]:
    """Estimate the standard deviation of targets from their median and MAD, so that outliers hardly change it.

    Use it on all training targets, `load("robust-regression", scale=float(robust_scale(y)))`, which has less noise than
    the estimate per batch. Targets `[N, C]` have one per column, and a loss takes one number: scale the columns first.

    Args:
        targets: one row per example; NaN, as a mark of missing targets, is left out.

    Returns:
        1.4826 times the median absolute deviation from the median, per column. Where it is 0, since more than half of
        the targets are equal, 1.2533 times the mean absolute deviation from the median. Where all targets are equal, 1.
    """
    values = jnp.asarray(targets)
    values = values.astype(at_least_single(values.dtype))
    away = jnp.abs(values - jnp.nanmedian(values, 0, keepdims=True))
    median, mean = _FROM_MEDIAN * jnp.nanmedian(away, 0), _FROM_MEAN * jnp.nanmean(away, 0)
    scale = jnp.where(median > 0, median, mean)
    return jnp.where(scale > 0, scale, 1)  # NaN, where no target is a number, becomes 1 too


def batch_unit(scale: Scale, targets: Float[Array, "... C"]) -> Float[Array, "... C"]:
    """The unit of each target, in the shape of the targets: the given number, or the `robust_scale` per output.

    Raises:
        ValueError: `scale` is "batch", and there is no axis of examples.
    """
    if scale != "batch":
        return jnp.full_like(targets, scale)
    if targets.ndim < 2:
        raise ValueError(
            f'scale="batch" needs targets with an axis of examples, [B, C], got the shape {targets.shape}: give the '
            "scale as a number, such as float(metalearn_models.losses.robust_scale(y)) of all training targets"
        )
    unit = robust_scale(rearrange(jax.lax.stop_gradient(targets), "... c -> (...) c"))
    return jnp.broadcast_to(unit, targets.shape)
