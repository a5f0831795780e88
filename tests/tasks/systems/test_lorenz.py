"""The Lorenz system: losses of a NumPy loop, convergence to the differential equation, the published loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from metalearn.inner import scan_steps, start, unroll
from metalearn_tasks.systems import lorenz

pytestmark = pytest.mark.newer_loops

KEY = jax.random.key(0)


def numpy_lorenz(point, a, r, steps, b=8 / 3, dt=0.005):
    """z after each of so many Euler steps, any number of points [3, N]."""
    heights = []
    for _ in range(steps):
        x, y, z = point
        point = point + dt * np.array([a * (y - x), x * (r - z) - y, x * y - b * z])
        heights.append(point[2])
    return np.array(heights)


def test_lorenz_losses_are_those_of_a_numpy_loop(trajectory):
    loop = lorenz.lorenz()
    theta = jnp.array(lorenz.START)
    point = np.asarray(start(loop, theta, (), KEY).point)
    simulated, target = (numpy_lorenz(point, a, r, 300) for a, r in [np.exp(lorenz.START), (10, 28)])
    np.testing.assert_allclose(trajectory(loop, theta, length=300), (simulated - target) ** 2, rtol=1e-8)


def test_lorenz_steps_converge_to_the_differential_equation():
    def field(_, point):
        x, y, z = point
        return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]

    errors = []
    for steps in (1000, 10000):
        loop = lorenz.lorenz(lorenz.LorenzConfig(steps, 1 / steps, start_std=0.0))
        theta = lorenz.true_theta()
        state, *_ = scan_steps(loop, theta, start(loop, theta, (), KEY), jnp.int32(0), steps, KEY, ())
        exact = solve_ivp(field, (0, 1), (1.2, 1.3, 1.6), rtol=1e-11, atol=1e-11).y[:, -1]
        errors.append(np.abs(np.asarray(state.target) - exact).max())
    assert errors[1] < 0.1
    np.testing.assert_allclose(errors[0] / errors[1], 10, rtol=0.2)  # Euler's method is of first order


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_true_lorenz_parameters_have_no_loss_at_all(dtype):
    keys = jax.random.split(KEY, 8)
    losses, _ = jax.jit(lambda theta: unroll(lorenz.lorenz(), theta, (), keys, 2000))(lorenz.true_theta().astype(dtype))
    assert losses.dtype == dtype
    np.testing.assert_array_equal(losses, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lorenz_loss_at_the_papers_start(dtype):
    theta = jnp.array(lorenz.START, dtype)
    losses, _ = jax.jit(lambda keys: unroll(lorenz.lorenz(), theta, (), keys, 2000))(jax.random.split(KEY, 256))
    np.testing.assert_allclose(losses.mean(), 313, rtol=0.03)


def test_lorenz_starts_have_the_mean_and_the_deviation_of_the_config():
    loop = lorenz.lorenz(lorenz.LorenzConfig(start_std=0.5))
    states = jax.vmap(lambda key: start(loop, jnp.array(lorenz.START), (), key))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(states.point.mean(0), [1.2, 1.3, 1.6], atol=0.04)
    np.testing.assert_allclose(states.point.std(0), 0.5, rtol=0.06)
    np.testing.assert_array_equal(states.point, states.target)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="a, r and b must be positive"):
        lorenz.lorenz(lorenz.LorenzConfig(time_step=0.0))
