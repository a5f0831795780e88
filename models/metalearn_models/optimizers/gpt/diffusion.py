"""Diffusion that predicts the clean parameters: noising and ancestral sampling, with few steps too.

Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models" (arXiv 2006.11239), with the constants of Peebles
et al. 2022 (arXiv 2209.12892): 1,000 steps, a linear schedule from 1e-4 to 0.02, prediction of x0, no clipping.

The variance of a step. "large" is beta, "small" the posterior's given x0; both are right only for infinitely many
steps. "learned" adds to the small one what the prediction's own error contributes, as measured in training: the
optimal variance of Bao, Li, Zhu and Zhang 2022, "Analytic-DPM" (arXiv 2201.06503). It makes samplers of a few steps
keep the spread of the data.

Shapes: T steps of the process, D numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

__all__ = ["Schedule", "Variance", "add_noise", "linear_schedule", "respace", "sample_diffusion"]

Variance = Literal["small", "large", "learned"]
"""See the head of this module."""


class Schedule(NamedTuple):
    """The noise of a process.

    Attributes:
        kept: alpha-bar, the share of the data's variance that is left after each step, decreasing.
        times: the step of the whole process that each step of this one stands for.
    """

    kept: Float[np.ndarray, "T"]
    times: Int[np.ndarray, "T"]


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Noise that grows linearly from step to step.

    Raises:
        ValueError: fewer than two steps, or noise outside (0, 1).
    """
    if steps < 2 or not 0 < first <= last < 1:
        raise ValueError(f"the schedule needs 2 steps and 0 < first <= last < 1, got {steps}, {first}, {last}")
    return Schedule(np.cumprod(1 - np.linspace(first, last, steps)), np.arange(steps))


def respace(schedule: Schedule, steps: int) -> Schedule:
    """The same process in fewer steps, about equally far apart, the last one included.

    Raises:
        ValueError: fewer than one step, or more than there are.
    """
    whole = len(schedule.kept)
    if not 1 <= steps <= whole:
        raise ValueError(f"a sampler takes from 1 to {whole} steps, got {steps}")
    chosen = np.round(np.linspace(0, whole - 1, steps)).astype(int) if steps > 1 else np.array([whole - 1])
    return Schedule(schedule.kept[chosen], schedule.times[chosen])


def add_noise(clean: Float[Array, "*D"], noise: Float[Array, "*D"], kept: Float[Array, ""]) -> Float[Array, "*D"]:
    """The data after the step whose alpha-bar is `kept`."""
    return jnp.sqrt(kept) * clean + jnp.sqrt(1 - kept) * noise


def sample_diffusion(
    predict: Callable[[Float[Array, "D"], Int[Array, ""]], Float[Array, "D"]],
    size: int,
    schedule: Schedule,
    key: PRNGKeyArray,
    variance: Variance = "small",
    errors: Float[Array, "T"] | None = None,
) -> Float[Array, "D"]:
    """Draw by ancestral sampling.

    Args:
        predict: `(noisy, time) -> clean`, where time is one of `schedule.times`.
        size: D.
        schedule: of as many steps as are made, see `respace`.
        key: random key.
        variance: see the head of this module.
        errors: the mean squared error of `predict` at each step of this schedule; needed for "learned".

    Returns:
        A sample. The last step adds no noise.

    Raises:
        ValueError: variance "learned" without errors, or an unknown variance.
    """
    kept = np.asarray(schedule.kept, np.float64)
    before = np.concatenate([[1.0], kept[:-1]])
    beta = 1 - kept / before
    of_clean, of_noisy = np.sqrt(before) * beta / (1 - kept), np.sqrt(1 - beta) * (1 - before) / (1 - kept)
    small = beta * (1 - before) / (1 - kept)
    if variance == "learned":
        if errors is None:
            raise ValueError("variance 'learned' needs the errors of the prediction at each step, got None")
        spread = jnp.asarray(small, jnp.float32) + jnp.asarray(of_clean**2, jnp.float32) * errors
    elif variance in ("small", "large"):
        spread = jnp.asarray(small if variance == "small" else beta, jnp.float32)
    else:
        raise ValueError(f"variance must be small, large or learned, got {variance!r}")
    spread = spread.at[0].set(0.0)
    start, key = jax.random.normal(jax.random.fold_in(key, len(kept)), (size,)), key
    constants = (of_clean.astype(np.float32), of_noisy.astype(np.float32), schedule.times.astype(np.int32))

    def step(noisy: Array, at: tuple[Array, ...]) -> tuple[Array, None]:
        number, a, b, time, width = at
        mean = a * predict(noisy, time) + b * noisy
        return mean + jnp.sqrt(width) * jax.random.normal(jax.random.fold_in(key, number), (size,)), None

    along = (jnp.arange(len(kept)), *map(jnp.asarray, constants), spread)
    return jax.lax.scan(step, start, along, reverse=True)[0]
