"""The optimizers of the comparison, what each reads at a step, and its own grid of learning rate and damping.

Every grid has 24 points. Optimizers with a damping have four of these times six ratios of learning rate and damping,
since the step is about the ratio times the gradient where the curvature is small; all others have 24 learning rates.
The ranges are ours, around the best points of smaller trials.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn_models.optimizers.curvature.foof import foof
from metalearn_models.optimizers.curvature.mfac import mfac
from metalearn_models.optimizers.curvature.statistics import value_grad_and_statistics

__all__ = ["METHODS", "Method", "Point"]

Point = tuple[float, float]
"""A learning rate and a damping; the damping is 0 where there is none."""


class Method(NamedTuple):
    """An optimizer in the comparison.

    Attributes:
        make: `(learning rate, damping) -> optax transformation`; both are traced scalars.
        grid: the points that it is tuned on.
        compute: `(loss, predict, params, x, y, key) -> (loss, gradient, extra arguments of update)` at one step.
        warm_up: batches that are measured before the first update.
    """

    make: Callable[[Any, Any], optax.GradientTransformation]
    grid: tuple[Point, ...]
    compute: Callable[..., tuple[Array, Any, dict[str, Any]]]
    warm_up: int = 0


def rates(low: float, high: float, count: int = 24) -> tuple[Point, ...]:
    """Learning rates at equal ratios between two ends, both included."""
    return tuple((float(f"{low * (high / low) ** (i / (count - 1)):.3g}"), 0.0) for i in range(count))


def dampings(values: tuple[float, ...], ratios: tuple[float, ...]) -> tuple[Point, ...]:
    """Each damping with each ratio of learning rate and damping."""
    return tuple((float(f"{ratio * damping:.3g}"), damping) for damping, ratio in product(values, ratios))


def gradient(
    loss: Any, predict: Any, params: Any, x: Array, y: Array, key: PRNGKeyArray
) -> tuple[Array, Any, dict[str, Any]]:
    """Loss and gradient alone."""
    del predict, key
    value, grads = jax.value_and_grad(loss)(params, x, y)
    return value, grads, {}


def statistics(
    loss: Any, predict: Any, params: Any, x: Array, y: Array, key: PRNGKeyArray
) -> tuple[Array, Any, dict[str, Any]]:
    """Loss, gradient and layer statistics of the same batch."""
    del predict, key
    value, grads, found = value_grad_and_statistics(loss)(params, x, y)
    return value, grads, {"statistics": found}


WARM_UP = 50
"""Batches that FOOF measures before its first update, as in the paper."""
TENTHS = (1e-3, 1e-2, 1e-1, 1.0)
SMALL = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ratios of learning rate and damping."""
FOOF = dampings((1e-4, 1e-3, 1e-2, 1e-1), (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0))

METHODS: dict[str, Method] = {
    "SGD": Method(lambda rate, _: optax.sgd(rate), rates(1e-3, 3.0), gradient),
    "SGD, momentum .9": Method(lambda rate, _: optax.sgd(rate, 0.9), rates(3e-4, 1.0), gradient),
    "Adam": Method(lambda rate, _: optax.adam(rate), rates(1e-4, 0.1), gradient),
    "Muon": Method(lambda rate, _: optax.contrib.muon(rate), rates(1e-4, 0.3), gradient),
    "FOOF, T=1": Method(foof, FOOF, statistics),
    "FOOF, T=100": Method(lambda r, d: foof(r, d, period=100, burn_in=WARM_UP), FOOF, statistics, WARM_UP),
    "M-FAC, m=32": Method(lambda r, d: mfac(r, 32, d), dampings(TENTHS, SMALL), gradient),
}
"""All methods by name."""
