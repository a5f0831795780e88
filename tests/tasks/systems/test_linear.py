"""The linear system: losses of a NumPy loop, influence by the Jacobian, variances of simulated estimators."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.inner import start
from metalearn_tasks.systems import linear

KEY = jax.random.key(0)
S, P, T = 4, 3, 12


def system_and_theta(seed=0):
    key_system, key_theta = jax.random.split(jax.random.key(seed))
    return linear.linear_system(key_system, S, P, T), jax.random.normal(key_theta, (P,))


def step_losses(system, thetas):
    """Losses [T] by the inner loop itself, with a theta of its own [T, P] in each step."""
    loop, steps = linear.linear(T), jnp.arange(T, dtype=jnp.int32)

    def body(state, t):
        return loop.step(thetas[t], state, t, KEY, system)[:2]

    return jax.lax.scan(body, start(loop, thetas[0], system, KEY), steps)[1]


influence = jax.jit(linear.influence, static_argnums=2)
many_step_losses = jax.jit(jax.vmap(step_losses, (None, 0)))
jacobian_of_steps = jax.jit(jax.jacrev(step_losses, 1))


def by_window(losses, window):
    """Sums over windows on the last axis, of which the last window may be shorter."""
    return np.add.reduceat(losses, np.arange(0, T, window), -1)


def test_linear_losses_are_those_of_a_numpy_loop(trajectory):
    system, theta = system_and_theta()
    a, b, c, y, s = map(np.asarray, system)
    expected = []
    for t in range(T):
        s = a @ s + b @ np.asarray(theta)
        expected.append((c[t] @ s - y[t]) ** 2 / 2)
    np.testing.assert_allclose(trajectory(linear.linear(T), theta, system), expected, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(a)).max(), 0.9, rtol=1e-12)


@pytest.mark.parametrize("window", [1, 3, 5, T])
def test_influence_is_the_jacobian_with_a_theta_of_its_own_in_each_step(window):
    system, theta = system_and_theta()
    jacobian = np.asarray(jacobian_of_steps(system, jnp.tile(theta, (T, 1))))  # [T, T, P]
    expected = by_window(by_window(jacobian.transpose(2, 0, 1), window).swapaxes(1, 2), window).transpose(2, 1, 0)
    g = influence(system, theta, window)
    np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(np.asarray(g)[np.triu_indices(len(g), 1)], 0)
    np.testing.assert_allclose(linear.full_gradient(g), jacobian.sum((0, 1)), rtol=1e-10)


def test_linear_window_losses_are_quadratic_in_a_perturbation_of_any_size():
    system, theta = system_and_theta()
    noise = np.repeat(np.random.default_rng(0).normal(size=(4, P)), 3, 0)

    def at(h):
        return by_window(np.asarray(many_step_losses(system, np.asarray(theta) + h * noise[None])[0]), 3)

    low, middle, high = at(-1.0), at(0.0), at(1.0)
    for h in (0.3, 5.0, -40.0):
        parabola = middle + h * (high - low) / 2 + h**2 * (high + low - 2 * middle) / 2
        np.testing.assert_allclose(at(h), parabola, rtol=1e-10)
    assert np.abs(high + low - 2 * middle).min() > 1e-3


def estimates(system, theta, window, segment, noise, analytic=False):
    """One antithetic pair's estimates [B, W, P] for each of many draws of the noise [B, segments, P].

    GPES as its authors define it: the noise lasts `segment` windows, the accumulator is the sum of the noises so far.
    """
    windows = -(-T // window)
    of = np.arange(windows) // segment
    by_step = noise[:, of[np.arange(T) // window]]
    high, low = (many_step_losses(system, np.asarray(theta) + sign * by_step) for sign in (1, -1))
    delta = by_window(np.asarray(high - low), window)[..., None] / 2
    total = np.cumsum(noise, 1)[:, of]
    if not analytic:
        return total * delta
    local = np.einsum("wwp->wp", influence(system, theta, window))  # each window's own gradient
    before = total if segment >= windows else total - noise[:, of]
    return local + before * (delta - (local * noise[:, of]).sum(-1, keepdims=True))


def moments(system, theta, window, segment, analytic=False):
    """Mean [W, P] and covariance [W, P, W, P] of the estimates as quadratic forms of standard normals.

    q(e) = constant + e M e with symmetric M has mean constant + tr M, and two such covariance 2 tr M M'. M is read off
    from the values at all sums of two unit vectors, or none.
    """
    size = math.ceil(math.ceil(T / window) / segment) * P
    points = np.zeros((T * P + 1, size))  # more than needed, so that one compilation does for every window
    points[1 : size + 1] = np.eye(size)
    sums = (points[:, None] + points[None]).reshape(len(points) ** 2, -1, P)
    values = estimates(system, theta, window, segment, sums, analytic)
    values = values.reshape(len(points), len(points), *values.shape[1:])
    constant, at_units, at_pairs = values[0, 0], values[0, 1 : size + 1], values[1 : size + 1, 1 : size + 1]
    forms = (at_pairs - at_units[:, None] - at_units[None] + constant) / 2
    return constant + np.einsum("iiwp->wp", forms), 2 * np.einsum("ijwp,jivq->wpvq", forms, forms)


@pytest.mark.parametrize("window", [1, 3, 5])
def test_variances_are_those_of_the_simulated_estimators(window):
    """The estimators are run on the inner loop; as quadratic forms in their noise, their moments are exact."""
    system, theta = system_and_theta(1)
    g = influence(system, theta, window)
    windows = len(g)
    cases = {
        "pes": (1, False, linear.pes_variance),
        "gpes": (2, False, lambda g: linear.gpes_variance(g, 2)),
        "nres": (windows, False, linear.nres_variance),
        "pes with local gradients": (1, True, linear.pes_analytic_variance),
        "nres with local gradients": (windows, True, linear.nres_analytic_variance),
    }
    formulas = jax.jit(lambda g: {name: formula(g) for name, (*_, formula) in cases.items()})(g)
    for name, (segment, analytic, _) in cases.items():
        mean, covariance = moments(system, theta, window, segment, analytic)
        np.testing.assert_allclose(mean.sum(0), linear.full_gradient(g), rtol=1e-9, err_msg=name)
        exact = np.einsum("wpvp->", covariance)
        np.testing.assert_allclose(formulas[name], exact, rtol=1e-9, err_msg=name)
        assert exact > 0


def test_second_moments_of_single_windows_are_those_of_the_simulated_estimators():
    system, theta = system_and_theta(2)
    g = influence(system, theta, 3)
    pes, nres = linear.pes_second_moment(g), linear.nres_second_moment(g)
    for segment, formula in ((1, pes), (len(g), nres)):
        mean, covariance = moments(system, theta, 3, segment)
        np.testing.assert_allclose(formula, np.einsum("wpwp->w", covariance) + (mean**2).sum(1), rtol=1e-9)
    assert bool((nres <= pes * (1 + 1e-12)).all())


def test_gpes_lies_between_pes_and_nres_at_its_ends():
    g = influence(*system_and_theta(), 1)
    np.testing.assert_allclose(linear.gpes_variance(g, 1), linear.pes_variance(g), rtol=1e-12)
    for windows in (T, 2 * T):
        np.testing.assert_allclose(linear.gpes_variance(g, windows), linear.nres_variance(g), rtol=1e-12)
    np.testing.assert_allclose(linear.coarsen(g, 3), influence(*system_and_theta(), 3), rtol=1e-10, atol=1e-12)


def test_a_single_window_leaves_the_analytic_variants_no_variance():
    g = influence(*system_and_theta(), T)
    assert float(linear.pes_analytic_variance(g)) == 0 == float(linear.nres_analytic_variance(g))
    np.testing.assert_allclose(linear.pes_variance(g), linear.nres_variance(g), rtol=1e-12)


def test_local_influence_makes_pes_half_as_noisy_as_nres():
    """Equal gradients, each window moved by its own theta alone: P (T + 1) / 2T + 1 / T times |g|^2, in T windows."""
    g = jnp.tile(jnp.eye(T)[..., None], P)
    ratio = linear.pes_variance(g) / jnp.square(linear.full_gradient(g)).sum()
    np.testing.assert_allclose(ratio, P * (T + 1) / (2 * T) + 1 / T, rtol=1e-12)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="got state=0"):
        linear.linear_system(KEY, 0, P, T)
    with pytest.raises(ValueError, match="at least the 13 steps of the inner loop, got 12"):
        start(linear.linear(13), jnp.zeros(P), linear.linear_system(KEY, S, P, T), KEY)
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        linear.linear(0)
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        linear.influence(*system_and_theta(), 0)
    with pytest.raises(ValueError, match="windows must be at least 1, got 0"):
        linear.coarsen(jnp.zeros((2, 2, P)), 0)
