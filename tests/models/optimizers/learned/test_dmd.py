"""Dynamic mode decomposition on systems whose future is known, and the optimizer that reads it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.learned.dmd import dmd_lstm, fit, growth_bound, predict_snapshots, predict_sums
from metalearn_models.optimizers.learned.parts.coordinatewise import ravel_leaves


def _rotations(moduli, angles):
    """A real matrix with the eigenvalues modulus exp(+- i angle), in random coordinates."""
    size = 2 * len(moduli)
    blocks = np.zeros((size, size))
    for i, (r, a) in enumerate(zip(moduli, angles, strict=True)):
        blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = r * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    return basis @ blocks @ basis.T


def _snapshots(matrix, steps, embed):
    """x_t of x_{t+1} = matrix x_t, in `embed` dimensions of which it fills a few."""
    rng = np.random.default_rng(1)
    outside = np.linalg.qr(rng.normal(size=(embed, len(matrix))))[0]
    x, found = rng.normal(size=len(matrix)), []
    for _ in range(steps):
        found.append(outside @ x)
        x = matrix @ x
    return np.array(found)


def _products(snapshots):
    x = np.float32(snapshots)
    return jnp.asarray(x @ x.T)


def test_a_linear_system_is_predicted_and_its_eigenvalues_are_found():
    """Four dimensions within fifty; six pairs of snapshots."""
    matrix = _rotations([0.98, 0.9], [0.4, 1.7])
    xs = _snapshots(matrix, 40, 50)
    found = jax.jit(lambda p: fit(p, 4))(_products(xs[:7]))
    np.testing.assert_allclose(
        np.sort_complex(np.linalg.eigvals(found.operator)), np.sort_complex(np.linalg.eigvals(matrix)), atol=1e-4
    )
    horizons = (1, 4, 16)
    there, summed = jax.jit(lambda f: (predict_snapshots(f, horizons), predict_sums(f, horizons)))(found)
    there = np.asarray(there) @ np.float32(xs[:6])
    np.testing.assert_allclose(there, xs[[7, 10, 22]], atol=1e-4)
    sums = np.asarray(summed) @ np.float32(xs[:6])
    np.testing.assert_allclose(sums, [xs[7 : 7 + k].sum(0) for k in horizons], atol=3e-4)


def test_directions_that_are_not_there_are_left_out():
    """One decaying mode and rank 3: the operator has rank 1."""
    xs = 0.8 ** np.arange(7)[:, None] * np.ones((7, 20))
    found, there = jax.jit(lambda p: (fit(p, 3), predict_snapshots(fit(p, 3), (3,))))(_products(xs))
    np.testing.assert_allclose(np.sort(np.abs(np.linalg.eigvals(found.operator))), [0, 0, 0.8], atol=1e-5)
    np.testing.assert_allclose(np.asarray(there) @ np.float32(xs[:6]), 0.8**9 * xs[:1], rtol=1e-4)


def test_nothing_is_predicted_from_nothing():
    @jax.jit
    def everything(products):
        found = fit(products, 3)
        return found, predict_snapshots(found, (1, 5)), growth_bound(found.operator)

    assert not any(np.any(x) for x in jax.tree.leaves(everything(jnp.zeros((7, 7)))))


def test_the_growth_bounds_the_largest_eigenvalue_closely():
    bound = jax.jit(growth_bound)
    for moduli in ([1.2, 0.9], [0.3, 0.1], [50.0, 1.0]):
        matrix = _rotations(moduli, [0.4, 1.7])
        found = float(bound(jnp.asarray(matrix, jnp.float32)))
        assert 0.999 * max(moduli) <= found <= 1.06 * max(moduli)
    assert np.isfinite(bound(jnp.full((4, 4), 1e15)))


def _reading(optimizer, row):
    """Meta-parameters whose LSTM writes a monotone function of one input: c = sigmoid(0) tanh(x / 4)."""
    shapes = jax.eval_shape(optimizer.init, jax.random.key(0))
    theta = jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), shapes)
    (layer,) = theta.layers
    layer = layer._replace(inputs=layer.inputs.at[row, 1].set(0.25), bias=layer.bias.at[2].set(-100.0))
    return theta._replace(layers=(layer,), readout=theta.readout._replace(weight=jnp.ones(1)))


def test_on_a_quadratic_the_features_point_to_where_gradient_descent_goes():
    """Two curvatures a tensor; the optimizer only watches, the parameters follow gradient descent."""
    optimizer = dmd_lstm((1,), window=5, rank=2, horizons=(1, 30), output_scale=1.0)
    rng = np.random.default_rng(2)
    curvature = {"a": rng.choice([0.1, 1.0], 9), "b": rng.choice([0.2, 0.5], (3, 4))}
    x = {name: rng.normal(size=h.shape) for name, h in curvature.items()}
    path = [x]
    for _ in range(40):
        path.append({name: path[-1][name] * (1 - 0.5 * curvature[name]) for name in x})
    theta = _reading(optimizer, 3)  # after log and sign: the horizons 1 and 30, then the growth
    transform = optimizer.transform(theta)
    as_array = [jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), p) for p in path]
    state, update = transform.init(as_array[0]), jax.jit(transform.update)
    updates: Any = None
    for t in range(8):
        grads = jax.tree.map(lambda x: jnp.full_like(x, 1e-30), as_array[t])  # all but 0: at 0, the optimizer waits
        updates, state = update(grads, state, as_array[t])
        if t < 6:
            assert not any(u.any() for u in jax.tree.leaves(updates))  # too little seen
    for name in x:
        far = path[37][name] - path[7][name]
        feature = far / np.sqrt(np.mean(far**2))
        # What the LSTM has written: h = sigmoid(0) tanh(c), c = tanh(feature / 4) / 2, the forget gate shut.
        np.testing.assert_allclose(updates[name], np.tanh(np.tanh(feature / 4) / 2) / 2, atol=2e-4)


def test_the_growth_feature_is_the_slowest_decay():
    optimizer = dmd_lstm((1,), window=4, rank=1, horizons=(1,), output_scale=1.0)
    transform = optimizer.transform(_reading(optimizer, 3))
    x = jnp.ones(5)
    state, update = transform.init(x), jax.jit(transform.update)
    updates: Any = None
    for t in range(7):
        updates, state = update(jnp.full(5, 1e-30), state, 0.9**t * x)
    np.testing.assert_allclose(updates, np.tanh(np.tanh(np.log(0.9) / 4) / 2) / 2, rtol=1e-3)


def test_meta_gradients_are_finite_and_vmap_equals_a_loop():
    """Scalars, empty tensors, tensors that do not move; more steps than the window."""
    optimizer = dmd_lstm((3,), window=2, rank=2, horizons=(1, 2))
    params = {"a": jnp.array([1.0, -2.0]), "empty": jnp.zeros((0, 3)), "gain": jnp.float32(0.5), "still": jnp.zeros(2)}

    def loss(theta):
        transform = optimizer.transform(theta)

        def body(carry, _):
            params, state = carry
            grads = {**params, "still": jnp.zeros(2)}
            updates, state = transform.update(grads, state, params)
            params = {**jax.tree.map(jnp.add, params, updates), "still": params["still"]}
            return (params, state), jnp.square(ravel_leaves(params)).sum()

        return jax.lax.scan(body, (params, transform.init(params)), length=6)[1].sum()

    thetas = [jax.jit(optimizer.init)(jax.random.key(i)) for i in range(2)]
    slope = jax.jit(jax.value_and_grad(loss))
    values, slopes = jax.jit(jax.vmap(slope))(jax.tree.map(lambda *a: jnp.stack(a), *thetas))
    for i, theta in enumerate(thetas):
        value, alone = slope(theta)
        np.testing.assert_allclose(values[i], value, rtol=1e-5)
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(alone))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[i], b, rtol=2e-3, atol=1e-6), slopes, alone)  # noqa: B023
        assert max(np.abs(a).max() for a in jax.tree.leaves(alone)) > 1e-4


def test_settings_without_meaning_are_refused():
    with pytest.raises(ValueError, match="from 1 to window=4, got rank=5"):
        dmd_lstm(window=4, rank=5)
    with pytest.raises(ValueError, match=r"must ascend from at least 1, got horizons=\(4, 1\)"):
        dmd_lstm(horizons=(4, 1))
    transform = dmd_lstm().transform(jax.jit(dmd_lstm().init)(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"update\(grads, state, params\), got None"):
        transform.update(jnp.zeros(3), transform.init(jnp.zeros(3)))
    with pytest.raises(TypeError, match="int32 at params"):
        transform.init(jnp.zeros(3, jnp.int32))
