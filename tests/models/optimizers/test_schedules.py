"""Schedules of large batches against the rules, step by step."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.schedules import (
    linear_scaling,
    linear_scaling_schedule,
    sqrt_scaling,
    sqrt_scaling_schedule,
    warm_up,
)


def rates(schedule, steps):
    return np.array([float(schedule(t)) for t in range(steps)])


def test_rates_scale_with_the_batch_or_its_root():
    assert linear_scaling(0.1, 256, 8192) == pytest.approx(3.2)
    assert sqrt_scaling(0.1, 256, 8192) == pytest.approx(0.1 * math.sqrt(32))
    np.testing.assert_allclose(linear_scaling(jnp.float32(0.1), 50, 25), 0.05, rtol=1e-6)


@pytest.mark.parametrize(("make", "peak"), [(linear_scaling_schedule, 0.8), (sqrt_scaling_schedule, 0.2)])
def test_the_rate_rises_from_that_of_the_small_batch(make, peak):
    """Four steps of rise, then constant, or a cosine that ends at 0."""
    rise = [0.05 + (peak - 0.05) * t / 4 for t in range(4)]
    np.testing.assert_allclose(rates(make(0.05, 4, 64, 4), 7), [*rise, peak, peak, peak], rtol=1e-5)
    fall = [peak * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    np.testing.assert_allclose(rates(make(0.05, 4, 64, 4, 8), 9), [*rise, *fall], rtol=1e-5, atol=1e-7)


def test_a_smaller_batch_warms_up_from_nothing_and_no_step_has_rate_zero():
    found = rates(linear_scaling_schedule(0.1, 64, 32, 5), 6)
    np.testing.assert_allclose(found, [0.01, 0.02, 0.03, 0.04, 0.05, 0.05], rtol=1e-5)
    np.testing.assert_allclose(rates(warm_up(0.5, 1), 3), 0.5)
    np.testing.assert_allclose(rates(warm_up(0.5, 0), 2), 0.5)


def test_what_leaves_no_steps_is_refused():
    with pytest.raises(ValueError, match="total_steps must be more than the 10 warmup_steps, got 10"):
        warm_up(0.1, 10, 10)
    with pytest.raises(ValueError, match="warmup_steps must be at least 0, got -1"):
        warm_up(0.1, -1)
    with pytest.raises(ValueError, match="base_batch and batch must be at least 1, got 0 and 8"):
        sqrt_scaling(0.1, 0, 8)
