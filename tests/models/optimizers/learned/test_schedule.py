"""A learned learning-rate schedule against NumPy's interpolation, and against optax where the rate is constant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers import learnable_schedule


def _run(transform, gradients) -> Any:
    """Updates of each step."""

    def body(state, grads):
        updates, state = transform.update(grads, state)
        return state, updates

    return jax.lax.scan(body, transform.init(jax.tree.map(lambda g: g[0], gradients)), gradients)[1]


@pytest.mark.parametrize("knots, steps", [(1, 7), (2, 7), (4, 7), (3, 1)])
def test_a_schedule_is_linear_in_the_logarithm_and_holds_its_last_value(knots, steps):
    optimizer = learnable_schedule(optax.identity(), knots)
    theta = optimizer.init(jax.random.key(0)) + jnp.asarray(np.random.default_rng(1).normal(size=knots), jnp.float32)
    ones = {"a": jnp.ones((10, 2))}
    for length in (steps, jnp.int32(steps)):
        updates = jax.jit(lambda theta: _run(optimizer.transform(theta, length), ones))(theta)  # noqa: B023
        where = np.linspace(0, max(steps - 1, 1), knots) if knots > 1 else [0.0]
        expected = -np.exp(np.interp(np.arange(10), where, np.asarray(theta, np.float64)))
        np.testing.assert_allclose(updates["a"][:, 0], expected, rtol=1e-6)
    gradient = jax.grad(lambda theta: _run(optimizer.transform(theta, steps), ones)["a"].sum())(theta)
    assert jnp.isfinite(gradient).all()


def test_a_fresh_schedule_of_adam_is_adam():
    rng = np.random.default_rng(0)
    gradients = {"a": jnp.asarray(0.3 * rng.normal(size=(6, 3, 5)), jnp.float32)}
    optimizer = learnable_schedule(optax.scale_by_adam(), learning_rate=0.01)
    theta = optimizer.init(jax.random.key(0))
    updates = jax.jit(lambda theta: _run(optimizer.transform(theta, 4), gradients))(theta)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(lambda: _run(optax.adam(0.01), gradients))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), updates, expected)


def test_a_schedule_hands_the_loss_on():
    """To a transformation that cannot do without: a step of Polyak's size, the loss over the squared gradient."""
    optimizer = learnable_schedule(optax.scale_by_polyak(), learning_rate=1.0)
    params = jnp.array([3.0, 4.0])
    transform = optimizer.transform(optimizer.init(jax.random.key(0)), 5)
    updates, _ = transform.update(params, transform.init(params), params, value=jnp.float32(12.5))
    np.testing.assert_allclose(updates, -params / 2, rtol=1e-6)


@pytest.mark.parametrize("num_steps", [None, 0, np.int64(-1)])
def test_a_schedule_without_a_number_of_steps_is_refused(num_steps):
    optimizer = learnable_schedule(optax.identity())
    with pytest.raises(ValueError, match=rf"transform\(theta, num_steps\).*got num_steps={num_steps}"):
        optimizer.transform(optimizer.init(jax.random.key(0)), num_steps)


def test_a_schedule_without_knots_is_refused():
    with pytest.raises(ValueError, match="at least one knot, got knots=0"):
        learnable_schedule(optax.identity(), 0)
