"""The two-dimensional schedule: its meta-loss by a NumPy loop, and its known minimum."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_tasks.systems import schedule_2d


def numpy_schedule_2d(theta_0, theta_1, length=100):
    """Meta-losses with f taken before and after the update, any shape."""
    x, y = np.ones_like(theta_0), np.ones_like(theta_0)

    def f():
        return np.sqrt(x**2 + 5) - 5**0.5 + np.sin(y) ** 2 * np.exp(-5 * x**2) + 0.25 * np.abs(y - 100)

    before = after = 0.0
    for t in range(length):
        rate = (1 - t / length) * np.exp(theta_0) + t / length * np.exp(theta_1)
        before = before + f()
        bump = np.exp(-5 * x**2)
        dx = x / np.sqrt(x**2 + 5) - 10 * x * np.sin(y) ** 2 * bump
        dy = np.sin(2 * y) * bump + 0.25 * np.sign(y - 100)
        x, y = x - rate * dx, y - rate * dy
        after = after + f()
    return before, after


def test_meta_loss_has_its_known_minimum_and_start():
    axis, losses = schedule_2d.meta_loss_grid(-8.0, 8.0, 65)
    row, column = np.unravel_index(np.argmin(losses), losses.shape)
    assert (float(axis[row]), float(axis[column])) == (2.75, -1.75)
    np.testing.assert_allclose(losses[row, column], 555.53, atol=0.01)
    np.testing.assert_allclose(schedule_2d.meta_loss(jnp.array(schedule_2d.START)), 2487.77, atol=0.01)


def test_meta_loss_is_that_of_a_numpy_loop():
    axis, losses = schedule_2d.meta_loss_grid(-6.0, -1.0, 11)  # beyond, chaos makes a difference of a rounding error
    before, after = numpy_schedule_2d(*np.meshgrid(axis, axis, indexing="ij"))
    np.testing.assert_allclose(losses, after, rtol=1e-8)
    assert not np.allclose(losses, before, rtol=1e-8)


def test_learning_rate_goes_from_one_end_to_the_other():
    theta = jnp.array([math.log(2.0), math.log(0.5)])
    rates = [schedule_2d.learning_rate(theta, jnp.int32(t), 100) for t in (0, 50, 100)]
    np.testing.assert_allclose(rates, [2, 1.25, 0.5], rtol=1e-12)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        schedule_2d.schedule_2d(schedule_2d.Schedule2DConfig(0))
    with pytest.raises(ValueError, match="low < high"):
        schedule_2d.meta_loss_grid(1.0, 1.0, 5)
