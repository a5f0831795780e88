"""Learnable hyper-parameters against optax's own optimizers in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers.learned.learnable import AdamTheta, learnable_adam, learnable_momentum, learnable_sgd

SHAPES = {"bias": (4,), "empty": (0, 3), "gain": (), "matrix": (3, 5)}
CASES = {
    "sgd": (learnable_sgd(0.03), optax.sgd(0.03)),
    "momentum": (learnable_momentum(0.03, 0.95), optax.sgd(0.03, 0.95)),
    "no momentum": (learnable_momentum(0.03, 0.0), optax.sgd(0.03, 0.0)),
    "adam": (learnable_adam(), optax.adam(1e-3)),
    "other adam": (learnable_adam(0.1, 0.3, 0.9, 1e-3), optax.adam(0.1, 0.3, 0.9, 1e-3)),
    "slow adam": (learnable_adam(0.1, 0.0, 0.99999, 1e-2), optax.adam(0.1, 0.0, 0.99999, 1e-2)),
}


def _tree(rng, scale):
    return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def _run(transform, gradients):
    """Updates of each step."""

    def body(state, grads):
        updates, state = transform.update(grads, state)
        return state, updates

    return jax.lax.scan(body, transform.init(jax.tree.map(lambda g: g[0], gradients)), gradients)[1]


def _gradients(steps=6):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda *a: jnp.stack(a), *[_tree(rng, 0.3) for _ in range(steps)])


@pytest.mark.parametrize("name", CASES)
def test_updates_equal_those_of_optax_in_float64(name):
    optimizer, peer = CASES[name]
    theta, gradients = optimizer.init(jax.random.key(0)), _gradients()
    updates = jax.jit(lambda theta: _run(optimizer.transform(theta), gradients))(theta)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        expected = _run(peer, jax.tree.map(lambda g: jnp.asarray(np.asarray(g), jnp.float64), gradients))
    for leaf in SHAPES:
        np.testing.assert_allclose(updates[leaf], expected[leaf], rtol=3e-6, atol=1e-7, err_msg=leaf)


@pytest.mark.parametrize("name", ["sgd", "momentum", "other adam"])
def test_the_gradient_with_respect_to_theta_is_that_of_finite_differences(name):
    """Gradients that are 0 all the time among them."""
    optimizer, _ = CASES[name]
    gradients = _gradients(3)
    gradients["bias"] = jnp.zeros_like(gradients["bias"])

    @jax.jit
    def moved(epsilon):
        theta = jax.tree.map(lambda a: a + epsilon, optimizer.init(jax.random.key(0)))
        return sum(jnp.square(u).sum() for u in jax.tree.leaves(_run(optimizer.transform(theta), gradients)))

    h = jnp.float32(1e-2)
    slope = jax.jit(jax.grad(moved))(jnp.float32(0))
    np.testing.assert_allclose(slope, (moved(h) - moved(-h)) / (2 * h), rtol=1e-3)


def test_a_beta_beyond_its_range_is_0():
    gradients = _gradients(3)
    beyond = AdamTheta(*map(jnp.float32, (np.log(0.1), 0.7, np.log(0.5), np.log(1e-3))))
    at = beyond._replace(log_forgetting1=jnp.float32(0))
    updates, expected = (_run(learnable_adam().transform(theta), gradients) for theta in (beyond, at))
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


@pytest.mark.parametrize("make, value", [(learnable_sgd, 0.0), (learnable_momentum, -1.0), (learnable_adam, 0.0)])
def test_a_learning_rate_that_has_no_logarithm_is_refused(make, value):
    with pytest.raises(ValueError, match=f"learning_rate must be positive.*got {value}"):
        make(value)


def test_betas_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"beta2 must be in \[0, 1\).*got 1.0"):
        learnable_adam(beta2=1.0)


def test_integer_parameters_are_refused_and_bfloat16_ones_are_rounded_updates():
    for optimizer, _ in CASES.values():
        transform = optimizer.transform(optimizer.init(jax.random.key(0)))
        with pytest.raises(TypeError, match="int32"):
            transform.init({"a": jnp.zeros(3, jnp.int32)})
        grads = jnp.asarray([0.5, -0.25, 2.0])
        full, _ = transform.update(grads, transform.init(grads))
        half = grads.astype(jnp.bfloat16)
        updates, _ = transform.update(half, transform.init(half))
        assert jnp.asarray(updates).dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(updates, np.float32), full, rtol=2**-8)
