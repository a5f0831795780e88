"""Lookahead against optax's, against two nested loops, and against the formula for a noisy quadratic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import UnknownNameError
from metalearn_models.optimizers import lookahead, slow_weights
from metalearn_models.optimizers.wrappers.lookahead import LookaheadState

TABLE = (
    (0.1, 5, 0.5, 0.0233),
    (0.5, 5, 0.5, 0.1134),
    (0.1, 5, 0.8, 0.0400),
    (0.9, 10, 0.5, 0.2727),
    (1.5, 5, 0.5, 0.9789),
)
"""Learning rate times curvature, k, alpha, and the variance that Proposition 2 of the paper gives the slow weights."""


def loss(params):
    return jnp.sum(jnp.array([1.0, 3.0, 10.0]) * params["w"] ** 2) + jnp.sum((params["b"] - 1) ** 4)


def start():
    return {"w": jnp.array([1.0, -2.0, 0.5]), "b": jnp.array([[2.0, 0.0]])}


def train(tx, params, steps):
    """The parameters after each step, and the last state."""

    @jax.jit
    def training(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        (_, state), found = jax.lax.scan(step, (params, tx.init(params)), length=steps)
        return found, state

    return training(params)


@pytest.mark.parametrize("on_sync", ["keep", "reset"])
def test_fast_and_slow_weights_are_those_of_optax(on_sync):
    @jax.jit
    def by_optax(params):
        tx = optax.lookahead(optax.adam(0.1), 5, 0.5, on_sync == "reset")
        pair: Any = optax.LookaheadParams.init_synced(params)

        def step(carry, _):
            pair, state = carry
            updates, state = tx.update(jax.grad(loss)(pair.fast), state, pair)
            pair: Any = optax.apply_updates(pair, updates)
            return (pair, state), pair.fast

        (pair, _), found = jax.lax.scan(step, (pair, tx.init(pair)), length=43)
        return found, pair.slow

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        params = jax.tree.map(jnp.float64, start())
        expected, slow = by_optax(params)
        found, state = train(optax.chain(lookahead(optax.adam(0.1), 5, 0.5, on_sync)), params, 43)
        close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-13, atol=1e-15)  # noqa: E731
        jax.tree.map(close, found, expected)
        jax.tree.map(close, slow_weights(state, params), slow)


def test_memory_that_is_pulled_back_is_that_of_two_nested_loops():
    momentum, rate, k, alpha = 0.9, 0.01, 4, 0.3
    curvature = np.array([1.0, 3.0, 10.0])
    w, slow, m, old = np.array([1.0, -2.0, 0.5]), np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    expected = []
    for _ in range(5):
        for _ in range(k):
            m = momentum * m + 2 * curvature * w
            w = w - rate * m
            expected.append(w)
        slow = w = slow + alpha * (w - slow)
        m = old = old + alpha * (m - old)
        expected[-1] = w
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        tx = lookahead(optax.sgd(rate, momentum), k, alpha, "pull-back")
        found, _ = train(tx, jax.tree.map(jnp.float64, start()), 5 * k)
        np.testing.assert_allclose(found["w"], expected, rtol=1e-12, atol=1e-14)


def test_alpha_1_is_the_inner_optimizer_and_period_1_scales_its_steps():
    with jax.numpy_dtype_promotion("standard"):
        adam, _ = train(optax.adam(0.1), start(), 12)
        whole, _ = train(lookahead(optax.adam(0.1), 5, 1.0), start(), 12)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), adam, whole)
        sgd, _ = train(optax.sgd(0.02), start(), 12)
        scaled, _ = train(lookahead(optax.sgd(0.1), 1, 0.2), start(), 12)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), sgd, scaled)


def test_the_variance_on_a_noisy_quadratic_is_that_of_the_formula():
    """All five cases in one program, each with 8,000 independent weights."""
    rates, periods, alphas, expected = (np.array(column) for column in zip(*TABLE, strict=True))
    r = (1 - rates) ** periods
    sgd = rates**2 / (1 - (1 - rates) ** 2)
    part = alphas**2 * (1 - r**2)
    np.testing.assert_allclose(sgd * part / (part + 2 * alphas * (1 - alphas) * (1 - r)), expected, atol=5e-5)

    @jax.jit
    @jax.vmap
    def variance(rate, period, alpha, key):
        tx: Any = lookahead(optax.sgd(rate), period, alpha)
        x: Any = jnp.zeros(8_000)

        def step(carry, key):
            x, state = carry
            updates, state = tx.update(x - jax.random.normal(key, x.shape), state, x)
            return (optax.apply_updates(x, updates), state), state.slow.var()

        _, found = jax.lax.scan(step, (x, tx.init(x)), jax.random.split(key, 240))
        return found[120:].mean()

    keys = jax.random.split(jax.random.key(0), len(TABLE))
    found = variance(jnp.float32(rates), jnp.int32(periods), jnp.float32(alphas), keys)
    np.testing.assert_allclose(found, expected, rtol=0.03)


def test_extra_arguments_reach_the_inner_optimizer_and_it_goes_into_wrappers():
    def update(updates, state, params=None, *, statistics, **extra):
        return jax.tree.map(lambda g: g * statistics, updates), state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    params = {**start(), "empty": jnp.zeros((0, 2)), "none": None}
    tx = optax.chain(optax.masked(lookahead(inner, 2), jax.tree.map(lambda x: x.ndim > 1, params)), optax.scale(-1.0))
    state = tx.init(params)
    updates, state = tx.update(params, state, params, statistics=3.0)
    np.testing.assert_array_equal(updates["b"], -3 * params["b"])
    found = slow_weights(state, params)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)
    np.testing.assert_array_equal(found["b"], params["b"])
    bare = lookahead(optax.sgd(0.1))
    with pytest.raises(TypeError, match="statistics"):
        lookahead(inner).update(params, lookahead(inner).init(params), params)
    with pytest.raises(ValueError, match=r"call update\(grads, state, params\), got None"):
        bare.update(params, bare.init(params))


def test_settings_out_of_range_are_refused():
    for settings, text in (
        ({"sync_period": 0}, "sync_period must be at least 1 step, got 0"),
        ({"slow_step_size": 0.0}, "slow_step_size must be greater than 0, .* got 0.0"),
    ):
        with pytest.raises(ValueError, match=text):
            lookahead(optax.sgd(0.1), **settings)
    with pytest.raises(UnknownNameError, match="pull-back"):
        lookahead(optax.sgd(0.1), on_sync="pullback")
    state = optax.sgd(0.1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="must hold one LookaheadState, got 0 in tuple"):
        slow_weights(state, jnp.ones(2))
    assert LookaheadState._fields == ("inner", "slow", "before", "step")
