"""What a user may hand to any learned optimizer: it works, or is refused with the reason."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models import optimizers

PLANS = {"schedule", "celo"}
"""Those that need num_steps."""
READS_LOSS = {"celo", "rnn-mlp"}
NAMES = optimizers.names()


@pytest.fixture(autouse=True)
def _optax_promotes():
    with jax.numpy_dtype_promotion("standard"):
        yield


def _made(name, num_steps=3):
    optimizer = optimizers.make(name)
    return optimizer.transform(optimizer.init(jax.random.key(0)), num_steps)


@pytest.mark.parametrize("name", NAMES)
def test_scalars_empty_and_bfloat16_leaves_and_more_steps_than_planned(name):
    params = {
        "matrix": jnp.full((3, 2), 0.5),
        "vector": jnp.array([1.0, -1.0], jnp.bfloat16),
        "scalar": jnp.float32(2.0),
        "empty": jnp.zeros((0, 3)),
    }
    transform = _made(name)

    def step(carry, _):
        params, state = carry
        updates, state = transform.update(params, state, params, value=jnp.float32(1.0))  # the gradient of |p|^2 / 2
        return (optax.apply_updates(params, updates), state), updates

    state = transform.init(params)
    (params, after), updates = jax.jit(lambda c: jax.lax.scan(step, c, length=5))((params, state))  # 3 were planned
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for leaf, update in zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True):
        assert update.dtype == leaf.dtype and update.shape == (5, *leaf.shape)
        assert np.isfinite(np.asarray(update, np.float32)).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_work_is_refused_with_the_reason(name):
    transform = _made(name)
    with pytest.raises(TypeError, match=r"int32 at params\['steps'\]"):
        transform.init({"w": jnp.ones(2), "steps": jnp.int32(3)})
    other = optimizers.make("star" if name != "star" else "small-fc").init(jax.random.key(0))
    with pytest.raises(ValueError, match="another optimizer"):
        optimizers.make(name).transform(other, 3)
    params = {"w": jnp.ones(2)}
    state = transform.init(params)
    if name in PLANS:
        with pytest.raises(ValueError, match=r"num_steps"):
            _made(name, None)
    if name in READS_LOSS:
        with pytest.raises(ValueError, match="value"):
            transform.update(params, state, params)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_can_be_left_out(name):
    params, bad = {"w": jnp.ones((2, 2))}, {"w": jnp.full((2, 2), jnp.nan)}
    transform = optax.apply_if_finite(_made(name), 3)
    state = transform.init(params)
    extra = {"value": jnp.float32(1.0)}
    updates, after = transform.update(bad, state, params, **extra)
    np.testing.assert_array_equal(updates["w"], 0)
    jax.tree.map(np.testing.assert_array_equal, after.inner_state, state.inner_state)  # pyright: ignore[reportAttributeAccessIssue]  # any pytree, says optax


@pytest.mark.parametrize("name", ["small-fc", "star", "mlp"])
def test_an_empty_leaf_leaves_memory_and_meta_gradient_finite(name):
    optimizer = optimizers.make(name)
    theta = jax.tree.map(lambda x: x + 0.1, optimizer.init(jax.random.key(0)))
    params = {"matrix": jnp.full((3, 2), 0.5), "empty": jnp.zeros((0, 5)), "nothing": jnp.zeros(0)}

    def stepped(theta):
        transform = optimizer.transform(theta)
        updates, state = transform.update(params, transform.init(params), params)
        return jnp.square(updates["matrix"]).sum() + sum(u.sum() for u in jax.tree.leaves(updates)), state

    gradient, state = jax.jit(jax.grad(stepped, has_aux=True))(theta)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((gradient, state)))
    assert any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(gradient))
