"""What every optimizer does with gradients of any size, in loops, under vmap, with donated and with restored states.

One program per optimizer makes any number of steps; another is its `vmap`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from tests.models.optimizers.conformance_cases import NAMES, STEPS, half_square, make, optimizer, params, theta, update

AS_LARGE = ("learnable-sgd", "learnable-momentum", "first_order", "lgl2o", "gl2o")
"""Their update is as large as the gradient, as that of SGD is."""

STUCK = ("learnable-adam", "schedule")
"""Their second moment overflows as that of Adam does, and their updates stay 0 afterwards."""


def _run(name, theta, num_steps, params, state, grads, steps):
    """Parameters, state and the updates of the last step after `steps` steps; the last gradient is repeated."""
    tx = optax.apply_if_finite(optimizer(name).transform(theta, num_steps), 2)

    def body(t, carry):
        params, state, _ = carry
        now = jax.tree.map(lambda g: g[jnp.minimum(t, g.shape[0] - 1)], grads)
        updates, state = update(tx, now, state, params)
        with jax.numpy_dtype_promotion("standard"):
            return optax.apply_updates(params, updates), state, updates

    return jax.lax.fori_loop(0, steps, body, (params, state, jax.tree.map(jnp.zeros_like, params)))


@functools.cache
def _program(name):
    """One program of any number of steps, which donates the state."""
    return jax.jit(functools.partial(_run, name), donate_argnums=3)


def _training(name, params, grads, steps):
    return _program(name)(theta(name), STEPS, params, _init(name, params), grads, steps)


def _init(name, params, theta_=None, num_steps=STEPS):
    tx = make(name) if theta_ is None else optimizer(name).transform(theta_, num_steps)
    with jax.numpy_dtype_promotion("standard"):
        return optax.apply_if_finite(tx, 2).init(params)


def _grads(*scales, seed=5):
    """Gradients of four steps, the same number in every test, so that one program serves them all."""
    rng, scales = np.random.default_rng(seed), (*scales, *scales[-1:] * 3)[:4]
    draw = lambda x: jnp.stack([jnp.asarray(s * rng.normal(size=x.shape)).astype(x.dtype) for s in scales])  # noqa: E731
    return jax.tree.map(draw, params())


def _finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


@pytest.mark.parametrize("name", NAMES)
def test_parameters_whose_gradient_is_exactly_zero_stay_where_they_are(name):
    """A frozen layer, and the rows of an embedding that no batch has had, for 1,000 steps."""
    start = jax.tree.map(lambda x: jnp.full_like(x, 0.5), params())
    frozen, *_ = _training(name, start, jax.tree.map(jnp.zeros_like, _grads(1)), 1000)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0), frozen, start)
    rows = _grads(0.1)
    rows["matrix"] = rows["matrix"].at[:, ::2].set(0)
    moved, *_ = _training(name, start, rows, 30)
    np.testing.assert_allclose(moved["matrix"][::2], 0.5, atol=1e-6, rtol=0)
    assert np.abs(np.asarray(moved["matrix"][1::2]) - 0.5).min() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_any_size_leave_an_optimizer_finite_afterwards(name):
    after = _training(name, params(), _grads(1e-30, 1.0, 1e-3), 8)
    assert _finite(after) and jnp.abs(after[2]["matrix"]).max() > 0
    if name not in AS_LARGE:
        after, state, updates = _training(name, params(), _grads(1e19, 3e19, 1.0, 1e-3), 8)
        assert _finite((after, updates))
        assert name in STUCK or (_finite(state) and jnp.abs(updates["matrix"]).max() > 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_nan_once_can_be_left_out(name):
    grads = _grads(0.1)
    spoilt = jax.tree.map(lambda g: jnp.concatenate([g[:1], jnp.full_like(g[:1], jnp.nan), g[1:3]]), grads)
    expected, clean, _ = _training(name, params(), grads, 3)
    found, state, _ = _training(name, params(), spoilt, 4)
    assert state.total_notfinite == 1
    jax.tree.map(np.testing.assert_array_equal, (found, state.inner_state), (expected, clean.inner_state))


@pytest.mark.parametrize("name", NAMES)
def test_forms_stay_in_a_loop_and_a_donated_state_takes_nothing_with_it(name):
    """Also the state after a step, which may be made of the parameters or of the gradients of that step."""
    start, grads = params(), _grads(0.1)
    given = jax.tree.map(jnp.copy, (start, grads, theta(name)))
    state = _init(name, start)
    forms = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(x.size for x in jax.tree.leaves(state))
    for _ in range(2):
        _, after, updates = _program(name)(theta(name), STEPS, start, state, grads, 1)
        assert all(x.is_deleted() for x in jax.tree.leaves(state))
        state = after
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == forms
    for x, y in zip(jax.tree.leaves(start), jax.tree.leaves(updates), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
    jax.tree.map(np.testing.assert_array_equal, (start, grads, theta(name)), given)  # nothing of it is deleted


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_trainings_equals_a_loop(name):
    """Trainings that have nothing in common: neither theta nor its horizon, parameters, states or gradients."""
    thetas = [theta(name), jax.tree.map(lambda x: 0.9 * x, theta(name))]
    given = [
        (thetas[i], STEPS + i, params(i), _init(name, params(i), thetas[i], STEPS + i), _grads(0.1, seed=i))
        for i in range(2)
    ]
    together = jax.jit(jax.vmap(functools.partial(_run, name), (0, 0, 0, 0, 0, None)))
    found, *_ = together(*jax.tree.map(lambda *a: jnp.stack([jnp.asarray(x) for x in a]), *given), 3)
    for i in range(2):
        alone, *_ = _program(name)(*given[i], 3)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            loose = 2**-8 if a.dtype == jnp.bfloat16 else 1e-5
            np.testing.assert_allclose(np.asarray(a[i], np.float32), np.asarray(b, np.float32), rtol=loose, atol=1e-6)


def test_orbax_saves_and_restores_every_state_and_training_continues_equally(tmp_path):
    """All optimizers in one checkpoint: what one of them cannot have saved is refused for all."""
    starts, grads, states = params(), _grads(0.1), {}
    for name in NAMES:
        states[name] = _training(name, starts, grads, 2)[1]
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), states)
        restored = checkpointer.restore(tmp_path / "states", like)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), restored)  # on no device in particular, as before
    for name in NAMES:
        runs = [_program(name)(theta(name), STEPS, starts, state[name], grads, 2)[0] for state in (states, restored)]
        jax.tree.map(np.testing.assert_array_equal, *runs)


def test_the_loss_of_a_guard_is_one_number():
    for name in ("lgl2o", "gl2o"):
        tx, start = make(name), params()
        grads, state = start, tx.init(start)
        with pytest.raises(ValueError, match=rf"{name} needs a value_fn .* got tuple: .*f\(params\)\[0\]"):
            tx.update(grads, state, start, value_fn=lambda p: (half_square(p), {"aux": 1}))
        with pytest.raises(ValueError, match=rf"{name} needs a value_fn .* got shape \(1,\)"):
            tx.update(grads, state, start, value_fn=lambda p: half_square(p)[None])
