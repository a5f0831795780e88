"""Learning rates for large batches: linear and square-root scaling, with warm-up.

Linear scaling and gradual warm-up: Goyal et al. 2017, "Accurate, large minibatch SGD" (arXiv 1706.02677). A batch k
times as large takes one step in place of k, so its rate is k times as large; it begins at the rate of the small batch,
from which it rises over the first epochs, five in the paper from memory. Square-root scaling keeps the variance of a
step: Krizhevsky 2014 (arXiv 1404.5997); it is the rule for optimizers whose steps do not grow with the gradient, such
as Adam and LAMB (You et al. 2020, arXiv 1904.00962).

    rate = linear_scaling_schedule(0.1, base_batch=256, batch=8192, warmup_steps=780, total_steps=14_000)
    optimizer = optax.sgd(rate, momentum=0.9, nesterov=True)
"""

from __future__ import annotations

import math
from typing import Any

import optax
from jaxtyping import Array, Float

__all__ = [
    "linear_scaling",
    "linear_scaling_schedule",
    "sqrt_scaling",
    "sqrt_scaling_schedule",
    "warm_up",
]

Rate = float | Float[Array, ""]
"""A learning rate: a number, or a traced scalar."""


def linear_scaling(rate: Rate, base_batch: int, batch: int) -> Rate:
    """The rate times `batch / base_batch`.

    Args:
        rate: learning rate that is good for batches of `base_batch` examples.
        base_batch: examples per step that the rate was tuned with.
        batch: examples per step to come, over all devices.

    Raises:
        ValueError: a batch is less than 1.
    """
    return rate * _ratio(base_batch, batch)


def sqrt_scaling(rate: Rate, base_batch: int, batch: int) -> Rate:
    """The rate times the square root of `batch / base_batch`.

    Args:
        rate: learning rate that is good for batches of `base_batch` examples.
        base_batch: examples per step that the rate was tuned with.
        batch: examples per step to come, over all devices.

    Raises:
        ValueError: a batch is less than 1.
    """
    return rate * math.sqrt(_ratio(base_batch, batch))


def linear_scaling_schedule(
    rate: Rate, base_batch: int, batch: int, warmup_steps: int, total_steps: int | None = None
) -> optax.Schedule:
    """The linearly scaled rate after a warm-up from the rate itself.

    Unless `batch` is larger than `base_batch`, the warm-up begins as that of `warm_up` without a `start`.

    Args:
        rate: as in `linear_scaling`.
        base_batch: as in `linear_scaling`.
        batch: as in `linear_scaling`.
        warmup_steps: see `warm_up`.
        total_steps: see `warm_up`.

    Raises:
        ValueError: as in `linear_scaling` and `warm_up`.
    """
    return warm_up(linear_scaling(rate, base_batch, batch), warmup_steps, total_steps, _start(rate, base_batch, batch))


def sqrt_scaling_schedule(
    rate: Rate, base_batch: int, batch: int, warmup_steps: int, total_steps: int | None = None
) -> optax.Schedule:
    """The rate scaled by the square root, after a warm-up from the rate itself.

    Unless `batch` is larger than `base_batch`, the warm-up begins as that of `warm_up` without a `start`.

    Args:
        rate: as in `sqrt_scaling`.
        base_batch: as in `sqrt_scaling`.
        batch: as in `sqrt_scaling`.
        warmup_steps: see `warm_up`.
        total_steps: see `warm_up`.

    Raises:
        ValueError: as in `sqrt_scaling` and `warm_up`.
    """
    return warm_up(sqrt_scaling(rate, base_batch, batch), warmup_steps, total_steps, _start(rate, base_batch, batch))


def warm_up(rate: Rate, warmup_steps: int, total_steps: int | None = None, start: Rate | None = None) -> optax.Schedule:
    """A rate that rises in a line, and is then constant or falls as a cosine to 0.

    Args:
        rate: the highest rate.
        warmup_steps: steps before the rate is highest; 0: there is no rise.
        total_steps: the step at which the rate is 0; None: it stays constant after the warm-up.
        start: the rate of the first step. None: step k of the warm-up, counted from 1, has the rate `rate k /
            warmup_steps`, so that no step is without effect.

    Raises:
        ValueError: `warmup_steps` is negative, or no step is left after it.
    """
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps must be at least 0, got {warmup_steps}")
    if total_steps is not None and total_steps <= warmup_steps:
        raise ValueError(f"total_steps must be more than the {warmup_steps} warmup_steps, got {total_steps}")
    after: Any = optax.constant_schedule(rate)
    if total_steps is not None:
        after = optax.cosine_decay_schedule(rate, total_steps - warmup_steps)
    if not warmup_steps:
        return after
    first = rate / warmup_steps if start is None else start
    steps = warmup_steps - 1 if start is None else warmup_steps
    return optax.join_schedules([optax.linear_schedule(first, rate, steps), after], [warmup_steps])


def _ratio(base_batch: int, batch: int) -> float:
    if min(base_batch, batch) < 1:
        raise ValueError(f"base_batch and batch must be at least 1, got {base_batch} and {batch}")
    return batch / base_batch


def _start(rate: Rate, base_batch: int, batch: int) -> Rate | None:
    # A batch smaller than that of the rate has nothing to warm up from.
    return rate if batch > base_batch else None
