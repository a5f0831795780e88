"""What every optimizer does with gradients of any size, in loops, under vmap, with donated and with restored states.

One program per optimizer makes any number of steps; another is the `vmap` of one step.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

from metalearn_models.optimizers.handmade.constants import decode_constants
from metalearn_models.optimizers.handmade.table import HANDMADE
from tests.models.optimizers.conformance_cases import (
    DROPS,
    NAMES,
    STEPS,
    fresh_state,
    gradients,
    half_square,
    make,
    params,
    program,
    take_step,
    theta,
    training,
)

AS_LARGE = (
    *("learnable-sgd", "learnable-momentum", "first_order", "lgl2o", "gl2o", "sparse"),
    *("sgd", "momentum", "nesterov", "sam"),
)
"""Their update is as large as the gradient, as that of SGD is."""

STUCK = ("learnable-adam", "schedule")
"""Their second moment overflows as that of Adam does, and their updates stay 0 afterwards."""


def _finite(tree):
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating))


def _share_that_decay_leaves(name, steps):
    """What weight decay alone leaves of parameters: 1 without it."""
    entry = HANDMADE.get(name)
    if entry is None or "weight_decay" not in entry.positive:
        return 1.0
    constants = {name: float(x) for name, x in decode_constants(theta(name)).items()}
    return (1 - constants["learning_rate"] * constants["weight_decay"]) ** steps


@pytest.mark.parametrize("name", NAMES)
def test_parameters_whose_gradient_is_exactly_zero_stay_where_they_are(name):
    """A frozen layer, and the rows of an embedding that no batch has had, for 1,000 steps."""
    start = jax.tree.map(lambda x: jnp.asarray(np.full_like(x, 0.5)), params())
    frozen, *_ = training(name, start, gradients(0), 1000)
    kept = _share_that_decay_leaves(name, 1000)
    expected = training(name, start, gradients(0), 4)[0] if name in DROPS else start
    for frozen_, start_ in zip(jax.tree.leaves(frozen), jax.tree.leaves(expected), strict=True):
        if kept == 1 or start_.dtype == jnp.float32:  # one step of a decay is below the resolution of bfloat16
            np.testing.assert_allclose(frozen_, kept * start_, atol=1e-6 if kept == 1 else 1e-5, rtol=0)
    rows = gradients(0.1)
    rows["matrix"] = jnp.asarray(np.asarray(rows["matrix"]) * (np.arange(8)[:, None] % 2).astype(np.float32))
    moved, *_ = training(name, start, rows, 30)
    still = 0.5 * _share_that_decay_leaves(name, 30)
    if name in DROPS:
        still = training(name, start, rows, 4)[0]["matrix"][::2]
    np.testing.assert_allclose(moved["matrix"][::2], still, atol=1e-6, rtol=0)
    assert np.abs(np.asarray(moved["matrix"][1::2]) - 0.5).min() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_any_size_leave_an_optimizer_finite_afterwards(name):
    after = training(name, params(), gradients(1e-30, 1.0, 1e-3), 8)
    assert _finite(after) and np.abs(after[2]["matrix"]).max() > 0
    if name not in AS_LARGE:
        after, state, updates = training(name, params(), gradients(1e19, 3e19, 1.0, 1e-3), 8)
        assert _finite((after, updates))
        assert name in STUCK or (_finite(state) and np.abs(updates["matrix"]).max() > 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_nan_once_can_be_left_out(name):
    grads = gradients(0.1)
    spoil = lambda g: np.concatenate([g[:1], np.full_like(g[:1], np.nan), g[1:3]])  # noqa: E731
    spoilt = jax.tree.map(lambda g: jnp.asarray(spoil(np.asarray(g))), grads)
    expected, clean, _ = training(name, params(), grads, 3)
    found, state, _ = training(name, params(), spoilt, 4)
    assert state.total_notfinite == 1
    jax.tree.map(np.testing.assert_array_equal, (found, state.inner_state), (expected, clean.inner_state))


@pytest.mark.parametrize("name", NAMES)
def test_forms_stay_in_a_loop_and_a_donated_state_takes_nothing_with_it(name):
    """Also the state after a step, which may be made of the parameters or of the gradients of that step."""
    start, grads = params(), gradients(0.1)
    given = jax.tree.map(jnp.copy, (start, grads, theta(name)))
    state = fresh_state(name, start)
    forms = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(x.size for x in jax.tree.leaves(state))
    for _ in range(2):
        _, after, updates = program(name)(theta(name), STEPS, start, state, grads, 1)
        assert all(x.is_deleted() for x in jax.tree.leaves(state))
        state = after
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == forms
    for x, y in zip(jax.tree.leaves(start), jax.tree.leaves(updates), strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
    jax.tree.map(np.testing.assert_array_equal, (start, grads, theta(name)), given)  # nothing of it is deleted


@pytest.mark.parametrize("name", NAMES)
def test_vmap_over_trainings_equals_a_loop(name):
    """Trainings that have nothing in common: neither theta nor its horizon, parameters, states or gradients."""
    thetas = [theta(name), jax.tree.map(lambda x: np.asarray(x) * np.float32(0.9), theta(name))]
    given = [
        (thetas[i], STEPS + i, params(i), fresh_state(name, params(i), thetas[i], STEPS + i), gradients(0.1, seed=i))
        for i in range(2)
    ]
    step = jax.jit(jax.vmap(functools.partial(take_step, name)))
    stacked = lambda *trees: jax.tree.map(lambda *a: np.stack([np.asarray(x) for x in a]), *trees)  # noqa: E731
    theta_, num_steps, found, states, grads = stacked(*given)
    for t in range(3):
        now = jax.tree.map(lambda g, t=t: g[:, t], grads)
        found, states, _ = step(theta_, num_steps, found, states, now)
    for i in range(2):
        alone, *_ = program(name)(*given[i], 3)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone), strict=True):
            loose = 2**-8 if a.dtype == jnp.bfloat16 else 1e-5
            np.testing.assert_allclose(np.asarray(a[i], np.float32), np.asarray(b, np.float32), rtol=loose, atol=1e-6)


def test_orbax_saves_and_restores_every_state_and_training_continues_equally(tmp_path):
    """All optimizers in one checkpoint: what one of them cannot have saved is refused for all."""
    starts, grads, states = params(), gradients(0.1), {}
    for name in NAMES:
        states[name] = training(name, starts, grads, 2)[1]
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), states)
        restored = checkpointer.restore(tmp_path / "states", like)
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), restored)  # on no device in particular, as before
    for name in NAMES:
        runs = [program(name)(theta(name), STEPS, starts, state[name], grads, 2)[0] for state in (states, restored)]
        jax.tree.map(np.testing.assert_array_equal, *runs)


def test_the_loss_of_a_guard_is_one_number():
    for name in ("lgl2o", "gl2o"):
        tx, start = make(name), params()
        state = jax.eval_shape(tx.init, start)

        def updated(value_fn, tx=tx, start=start, state=state):
            jax.eval_shape(lambda state: tx.update(start, state, start, value_fn=value_fn), state)

        with pytest.raises(ValueError, match=rf"{name} needs a value_fn .* got tuple: .*f\(params\)\[0\]"):
            updated(lambda p: (half_square(p), {"aux": 1}))
        with pytest.raises(ValueError, match=rf"{name} needs a value_fn .* got shape \(1,\)"):
            updated(lambda p: half_square(p)[None])
