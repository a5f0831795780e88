"""M-FAC as an optimizer, against a loop with dense matrices in float64."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.errors import NotEnoughMemoryError
from metalearn_models.optimizers.curvature.mfac import _check_window, mfac, scale_by_mfac

LEAVES = {"a": (3, 2), "b": (4,)}


def tree(rows):
    """A tree of leaves from flat vectors in the rows, with the number of rows in front."""
    return {"a": rows[:, :6].reshape(-1, 3, 2), "b": rows[:, 6:]}


def flat(tree):
    return np.concatenate([np.asarray(tree["a"]).reshape(len(tree["a"]), 6), np.asarray(tree["b"])], 1)


def run(tx, params, gradients, updates_instead=False):
    """The parameters after each step, or the updates, and the last state."""

    @jax.jit
    def training(params, gradients):
        def step(carry, g):
            params, state = carry
            updates, state = tx.update(g, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, state), (params, updates)

        (_, state), (trajectory, updates) = jax.lax.scan(step, (params, tx.init(params)), gradients)
        return (updates if updates_instead else trajectory), state

    return training(params, gradients)


def loop(w, gradients, window, damping, rate, momentum=0.0, decay=0.0, max_norm=np.inf):
    rows, v, trajectory = np.zeros((window, len(w))), np.zeros_like(w), []
    for t, g in enumerate(gradients):
        g = g + decay * w
        rows[t % window] = g
        u = np.linalg.solve(damping * np.eye(len(w)) + rows.T @ rows / window, g)
        u = u * min(1, max_norm / np.linalg.norm(u))
        v = momentum * v + (1 - momentum) * u
        w = w - rate * v
        trajectory.append(w)
    return np.array(trajectory)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "weight_decay": 0.1, "max_norm": 0.5}])
def test_every_step_multiplies_by_the_dense_inverse_of_the_window(options):
    """Three times as many steps as the window holds, with less than the first window in the buffer at first."""
    rng = np.random.default_rng(0)
    w, gradients = rng.normal(size=10), rng.normal(size=(12, 10))
    names = {"momentum": "momentum", "weight_decay": "decay", "max_norm": "max_norm"}
    expected = loop(w, gradients, 4, 0.01, 0.1, **{names[k]: v for k, v in options.items()})
    with jax.enable_x64(True):
        start = jax.tree.map(lambda x: jnp.asarray(x[0]), tree(w[None]))
        found, state = run(mfac(0.1, 4, 0.01, **options), start, jax.tree.map(jnp.asarray, tree(gradients)))
        np.testing.assert_allclose(flat(found), expected, rtol=1e-10, atol=1e-12)
    scaling = state[1]
    assert {x.dtype for x in jax.tree.leaves(scaling.window)} == {np.dtype("float64")} == {scaling.gram.dtype}
    np.testing.assert_allclose(scaling.gram, flat(scaling.window) @ flat(scaling.window).T, rtol=1e-12)


def test_float32_solves_are_nearly_as_exact_as_their_numbers():
    """Nothing is divided by the damping in the product with a gradient of the window."""
    rng = np.random.default_rng(1)
    gradients = np.float32(rng.normal(size=(8, 10)) / np.sqrt(10))
    for damping in (1e-3, 1e-6):
        start = jax.tree.map(lambda x: np.zeros_like(x[0]), tree(gradients))
        found, _ = run(scale_by_mfac(8, damping), start, tree(gradients), updates_instead=True)
        trajectory = loop(np.zeros(10), np.float64(gradients), 8, damping, -1.0)
        expected = np.diff(trajectory, axis=0, prepend=np.zeros((1, 10)))
        error = np.abs(flat(found) - expected).max() / np.abs(expected).max()
        assert error < 1e-4, error


def test_the_first_step_is_that_of_a_single_gradient():
    g = jnp.array([3.0, 4.0])
    tx = scale_by_mfac(window=8, damping=1e-3)
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, g / (1e-3 + 25 / 8), rtol=1e-5)


def test_equal_gradients_and_gradients_of_very_different_lengths_leave_the_steps_finite():
    gradients = jnp.concatenate([jnp.full((20, 5), 3e3), jnp.full((3, 5), 1e25), jnp.full((20, 5), 1e-20)])
    found, state = run(scale_by_mfac(6, 1e-6), jnp.zeros(5), gradients, updates_instead=True)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves((found, state)))
    expected = 3e3 / (1e-6 + 5 * 9e6)  # the window is full of this gradient
    np.testing.assert_allclose(found[19], expected, rtol=0.3)  # rounding: the six rows are one and the same


def test_a_gradient_that_is_not_finite_leaves_no_trace():
    rng = np.random.default_rng(2)
    gradients = tree(np.float32(rng.normal(size=(6, 10))))
    start = jax.tree.map(lambda x: x[0], gradients)
    tx = mfac(0.1, 3, 0.01, 0.5, include=lambda path, x: x.ndim > 1)
    expected, state = run(tx, start, gradients)
    for bad in (np.nan, np.inf):
        spoilt = jax.tree.map(lambda g: np.concatenate([g[:4], np.copy(g[:1]), g[4:]]), gradients)
        spoilt["b"][4, 1] = bad  # in a parameter that does not belong to the window
        found, same = run(tx, start, spoilt)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.delete(x, 4, 0), y), found, expected)
        jax.tree.map(np.testing.assert_array_equal, same, state)
        np.testing.assert_array_equal(flat(found)[4], flat(found)[3])


def test_parameters_that_are_left_out_are_updated_by_their_gradient():
    rng = np.random.default_rng(3)
    gradients = tree(np.float32(rng.normal(size=(5, 10))))
    start = jax.tree.map(lambda x: x[0], gradients)
    found, state = run(scale_by_mfac(3, 0.01, include=lambda path, x: "b" not in path), start, gradients)
    np.testing.assert_allclose(found["b"], start["b"] + np.cumsum(gradients["b"], 0), rtol=1e-5)
    assert state.window["b"] is None
    alone, _ = run(scale_by_mfac(3, 0.01), start["a"], gradients["a"])
    np.testing.assert_allclose(found["a"], alone, rtol=1e-6)


def test_a_window_that_does_not_fit_into_memory_is_refused_with_one_that_does(monkeypatch):
    monkeypatch.setattr(sys.modules[scale_by_mfac.__module__], "available_bytes", lambda: 1_000_000)
    params = {"matrix": jnp.ones((100, 100)), "bias": jnp.ones(100, jnp.bfloat16)}
    text = r"window=100 gradients of 10100 parameters need 4.0 MB, 1.0 MB are free: a window of 24 would fit"
    with pytest.raises(NotEnoughMemoryError, match=text) as error:
        scale_by_mfac(100).init(params)
    scale_by_mfac(error.value.largest).init(params)
    with pytest.raises(NotEnoughMemoryError):
        scale_by_mfac(error.value.largest + 1).init(params)
    scale_by_mfac(100, include=lambda path, x: x.ndim < 2).init(params)


def test_settings_out_of_range_and_parameters_that_are_no_floats_are_refused():
    for settings, text in (
        ({"window": 0}, "window must be at least 1 gradient, got 0"),
        ({"damping": 0.0}, "damping must be greater than 0, .* got 0.0"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"max_norm": 0.0}, "max_norm must be greater than 0, or None .*, got 0.0"),
    ):
        with pytest.raises(ValueError, match=text):
            mfac(**settings)
    with pytest.raises(TypeError, match=r"window must be a whole number of gradients, such as 1024, got 1\.5"):
        _check_window(1.5)
    with pytest.raises(TypeError, match=r"an optimizer updates floating-point parameters, got int32 at params\['n'\]"):
        scale_by_mfac(4).init({"n": jnp.arange(3)})
