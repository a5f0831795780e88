"""Influence balancing: its closed form, its known optimum, and the published figures of online training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.inner import start
from metalearn_tasks.systems import influence as balancing
from metalearn_tasks.systems import linear

KEY = jax.random.key(0)


def test_influence_of_theta_in_closed_form():
    assert [balancing.influence_of(t) for t in (0, 1, 10)] == [0, 1, 10]
    assert round(balancing.influence_of(20), 2) == 16.48
    values = [balancing.influence_of(t) for t in range(1, 60)]
    assert next(t for t, h in enumerate(values, 1) if h < 0) == 41
    np.testing.assert_allclose(balancing.influence_of(500), -6, rtol=1e-12)
    np.testing.assert_allclose(sum(balancing.influence_of(t) for t in range(1, 101)), 58, atol=0.5)


def test_influence_is_the_derivative_of_the_simulation():
    loop, theta = balancing.influence_balancing(), jnp.array(0.5)

    def first_variable(theta):
        def step(state, t):
            state, *_ = loop.step(theta, state, t, KEY, ())
            return state, state[0]

        return jax.lax.scan(step, start(loop, theta, (), KEY), jnp.arange(300, dtype=jnp.int32))[1]

    derivative = jax.jit(jax.jacfwd(first_variable))(theta)
    for t in (1, 2, 10, 20, 41, 300):
        np.testing.assert_allclose(derivative[t - 1], balancing.influence_of(t), rtol=1e-10)


def test_influence_balancing_settles_at_the_known_loss_and_gradient():
    loss, gradient = jax.value_and_grad(balancing.final_loss)(jnp.array(balancing.START))
    np.testing.assert_allclose([loss, gradient], [8, 24], rtol=1e-12)
    np.testing.assert_allclose(jax.value_and_grad(balancing.final_loss)(jnp.array(-1 / 6)), (0, 0), atol=1e-12)


def online(exact, updates=3000, rate=1e-4):
    """SGD along a trajectory that goes on while theta changes; real-time recurrent learning, or one step back only."""
    loop = balancing.influence_balancing()

    def update(carry, t):
        theta, state, tangent = carry
        tangent = tangent if exact else jnp.zeros_like(tangent)
        step = lambda theta, state: loop.step(theta, state, t, KEY, ())[:2]  # noqa: E731
        (state, _), (tangent, gradient) = jax.jvp(step, (theta, state), (jnp.ones_like(theta), tangent))
        theta = theta - rate * gradient
        return (theta, state, tangent), theta

    theta = jnp.array(balancing.START)
    state = start(loop, theta, (), KEY)
    thetas = jax.lax.scan(update, (theta, state, jnp.zeros_like(state)), jnp.arange(updates, dtype=jnp.int32))[1]
    return jax.vmap(balancing.final_loss)(thetas[jnp.array([499, 999, 2999])])


def test_one_step_back_raises_the_loss_as_published_and_exact_gradients_lower_it():
    """These figures fix the convention that the loss is that of the state after the update."""
    np.testing.assert_allclose(online(exact=False), [12.645, 22.209, 211.32], rtol=1e-4)
    np.testing.assert_allclose(online(exact=True)[:2], [1.0417e-2, 1.3439e-5], rtol=1e-3)
    assert float(online(exact=True)[2]) < 2e-12


def test_influence_balancing_is_a_linear_system_and_has_the_known_variances(trajectory):
    """Per-pair relative standard deviations over 100 steps, which were derived and simulated independently of this."""
    length, signs = 100, jnp.where(jnp.arange(23) < 10, 1.0, -1.0)
    system = linear.LinearSystem(
        transition=(jnp.eye(23) + jnp.eye(23, k=1)) / 2,
        control=signs[:, None],
        readout=jnp.tile(jax.nn.one_hot(0, 23), (length, 1)),
        target=jnp.ones(length),
        initial=jnp.ones(23),
    )
    theta = jnp.array(balancing.START)
    losses = trajectory(balancing.influence_balancing(), theta, length=length)
    np.testing.assert_allclose(trajectory(linear.linear(length), theta[None], system), losses, rtol=1e-10)

    @jax.jit
    def deviations(theta):
        by_step = linear.influence(system, theta[None], 1)
        variances = jnp.stack([linear.gpes_variance(by_step, windows) for windows in (1, 10, 50)])
        return jnp.sqrt(variances) / jnp.abs(linear.full_gradient(by_step)).sum()

    np.testing.assert_allclose(deviations(theta), [1.76, 1.85, 2.07], atol=0.005)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="positive=24, size=23"):
        balancing.influence_balancing(balancing.InfluenceConfig(positive=24))
