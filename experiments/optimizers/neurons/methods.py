"""The optimizers of the comparison, what each reads at a step, and its own grid of learning rate and damping.

Every grid has 24 points. Optimizers with a damping have four of these times six ratios of learning rate and damping, or
six times four, since the step is about the ratio times the gradient where the curvature is small; all others have 24
learning rates. The ranges are ours, around the best points of smaller trials. Those of KFAC with standard damping and
of the exact natural gradient were made wider in damping, on both sides, after a run in which their best points lay on
the edge.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn_models.optimizers.curvature import (
    foof,
    kfac,
    kfac_standard,
    mac,
    natural_gradient,
    value_grad_and_exact_statistics,
    value_grad_and_sampled_statistics,
    value_grad_and_statistics,
)
from metalearn_models.optimizers.curvature.mfac import mfac
from metalearn_models.optimizers.curvature.mini_block import mini_block_fisher
from metalearn_models.optimizers.curvature.soap import soap

__all__ = ["METHODS", "Method", "Point"]

Point = tuple[float, float]
"""A learning rate and a damping; the damping is 0 where there is none."""
Batch = tuple[Array, Array]
"""Inputs and labels."""
Computed = tuple[Array, Any, dict[str, Any]]
"""The loss, its gradient, and extra arguments of `update`."""


class Method(NamedTuple):
    """An optimizer in the comparison.

    Attributes:
        make: `(learning rate, damping) -> optax transformation`; both are traced scalars.
        grid: the points that it is tuned on.
        compute: `(loss, params, batch, other, key) -> (loss, gradient, extra arguments of update)` at one step; `other`
            is another batch, and the same one where each batch has all examples.
        warm_up: batches that are measured before the first update.
    """

    make: Callable[[Any, Any], optax.GradientTransformation]
    grid: tuple[Point, ...]
    compute: Callable[..., Computed]
    warm_up: int = 0


def rates(low: float, high: float, count: int = 24) -> tuple[Point, ...]:
    """Learning rates at equal ratios between two ends, both included."""
    return tuple((float(f"{low * (high / low) ** (i / (count - 1)):.3g}"), 0.0) for i in range(count))


def dampings(values: tuple[float, ...], ratios: tuple[float, ...]) -> tuple[Point, ...]:
    """Each damping with each ratio of learning rate and damping."""
    return tuple((float(f"{ratio * damping:.3g}"), damping) for damping, ratio in product(values, ratios))


def gradient(loss: Any, params: Any, batch: Batch, other: Batch, key: PRNGKeyArray) -> Computed:
    """Loss and gradient alone."""
    del other, key
    value, grads = jax.value_and_grad(loss)(params, *batch)
    return value, grads, {}


def statistics(loss: Any, params: Any, batch: Batch, other: Batch, key: PRNGKeyArray) -> Computed:
    """Loss, gradient and layer statistics of the same batch."""
    del other, key
    value, grads, found = value_grad_and_statistics(loss)(params, *batch)
    return value, grads, {"statistics": found}


def sampled(loss: Any, params: Any, batch: Batch, other: Batch, key: PRNGKeyArray) -> Computed:
    """The same, with the Fisher matrix of one label per example that the model draws."""
    del other
    value, grads, found = value_grad_and_sampled_statistics(loss)(key, params, *batch)
    return value, grads, {"statistics": found}


def sampled_elsewhere(loss: Any, params: Any, batch: Batch, other: Batch, key: PRNGKeyArray) -> Computed:
    """The gradient of one batch and the sampled Fisher matrix of another."""
    value, grads = jax.value_and_grad(loss)(params, *batch)
    _, _, found = value_grad_and_sampled_statistics(loss)(key, params, *other)
    return value, grads, {"statistics": found}


def exact_elsewhere(loss: Any, params: Any, batch: Batch, other: Batch, key: PRNGKeyArray) -> Computed:
    """The gradient of one batch and the Fisher matrix of another, over all labels."""
    del key
    value, grads = jax.value_and_grad(loss)(params, *batch)
    _, _, found = value_grad_and_exact_statistics(loss)(params, *other)
    return value, grads, {"statistics": found}


WARM_UP = 50
"""Batches that FOOF measures before its first update, as in the paper."""
TENTHS = (1e-3, 1e-2, 1e-1, 1.0)
WIDE = dampings((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0), (0.3, 1.0, 3.0, 10.0))
SMALL = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Ratios of learning rate and damping."""
KFAC = dampings((1e-6, 1e-5, 1e-4, 1e-3), (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0))
MAC = tuple((rate, damping) for damping in (0.01, 0.1, 1.0, 10.0) for rate in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0))
"""MAC shrinks a gradient and never stretches it, so its rates are those of SGD."""
BLOCKS = dampings((1e-5, 1e-4, 1e-3, 1e-2), SMALL)
FOOF = dampings((1e-4, 1e-3, 1e-2, 1e-1), (10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0))

METHODS: dict[str, Method] = {
    "SGD": Method(lambda rate, _: optax.sgd(rate), rates(1e-3, 3.0), gradient),
    "SGD, momentum .9": Method(lambda rate, _: optax.sgd(rate, 0.9), rates(3e-4, 1.0), gradient),
    "Adam": Method(lambda rate, _: optax.adam(rate), rates(1e-4, 0.1), gradient),
    "Muon": Method(lambda rate, _: optax.contrib.muon(rate), rates(1e-4, 0.3), gradient),
    "SOAP": Method(lambda rate, _: soap(rate, weight_decay=0.0), rates(1e-4, 0.1), gradient),
    "FOOF, T=1": Method(foof, FOOF, statistics),
    "FOOF, T=100": Method(lambda r, d: foof(r, d, period=100, burn_in=WARM_UP), FOOF, statistics, WARM_UP),
    "MAC": Method(lambda r, d: mac(r, d, None), MAC, statistics),
    "KFAC, heuristic": Method(kfac, KFAC, sampled),
    "KFAC, one batch": Method(lambda r, d: kfac(r, d, decay=0.0), KFAC, sampled),
    "KFAC, standard": Method(kfac_standard, WIDE, sampled),
    "NGD, sampled": Method(natural_gradient, dampings(TENTHS, SMALL), sampled_elsewhere),
    "NGD, exact": Method(natural_gradient, WIDE, exact_elsewhere),
    "MBF, layer mean": Method(lambda r, d: mini_block_fisher(r, d, None, blocks="mean"), BLOCKS, statistics),
    "MBF, T=50": Method(lambda r, d: mini_block_fisher(r, d, None, period=50), BLOCKS, statistics),
    "M-FAC, m=32": Method(lambda r, d: mfac(r, 32, d), dampings(TENTHS, SMALL), gradient),
}
"""All methods by name."""
