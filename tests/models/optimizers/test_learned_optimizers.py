"""Learned optimizers against the computation written out in NumPy: concatenated features, whole matrices, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers import mlp_optimizer, small_fc
from metalearn_models.optimizers.learned.small_fc import SmallFCTheta

OPTIMIZERS = {"mlp": mlp_optimizer, "small_fc": small_fc}
SHAPES = {"matrix": (23, 19), "bias": (4,), "gain": (), "kernel": (4, 2, 4)}  # largest axis first; last of equals
FEW = {name: SHAPES[name] for name in ("matrix", "bias")}  # where ranks are not the point: compiling is what takes time
TIMES = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])


def _tree(rng, scale, shapes=SHAPES):
    return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def _network(features, t, layers, step_size, exponent):
    """features[..., F] of one tensor: normalise, append the time, run the network, make the step."""
    axes = tuple(range(features.ndim - 1))
    features = features / np.sqrt(1e-5 + np.mean(features**2, axis=axes, keepdims=True))
    time = np.broadcast_to(np.tanh(t / TIMES - 1), (*features.shape[:-1], 11))
    x = np.concatenate([features, time], -1)
    for layer in layers[:-1]:
        x = np.maximum(x @ layer["weight"] + layer["bias"], 0)
    direction, magnitude = np.moveaxis(x @ layers[-1]["weight"] + layers[-1]["bias"], -1, 0)
    return -step_size * direction * np.exp(exponent * magnitude)


def _reference_mlp(theta, params, gradients, step_size, exponent):
    """The updates and momenta of one tensor over several steps, without applying the updates."""
    theta = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    shape, updates = params.shape, []
    params = np.atleast_1d(np.asarray(params, np.float64))
    m = np.zeros((*params.shape, 6))
    decays = np.array([0.1, 0.5, 0.9, 0.99, 0.999, 0.9999])
    for t, g in enumerate(gradients):
        g = np.atleast_1d(np.asarray(g, np.float64))
        m = decays * m + (1 - decays) * g[..., None]
        features = np.concatenate([g[..., None], params[..., None], m], -1)
        updates.append(_network(features, t, theta, step_size, exponent).reshape(shape))
    return updates, {"momenta": np.moveaxis(m, -1, 0).reshape(6, *shape)}


def _learned_decay(initial, delta):
    return 1 - np.exp(10 * (np.log(1 - np.array(initial)) / 10 + delta))


def _reference_small_fc(theta, params, gradients, step_size, exponent):
    theta = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    b_m = _learned_decay([0.9, 0.99, 0.999], theta.momentum)
    b_v = np.clip(_learned_decay([0.999], theta.second_moment), 0, 1)
    b_f = np.clip(_learned_decay([0.9, 0.99, 0.999], theta.factored), 0, 1)
    shape, updates = params.shape, []
    p = np.atleast_1d(np.asarray(params, np.float64))
    factored = p.ndim > 1
    m, v = np.zeros((*p.shape, 3)), np.zeros((*p.shape, 1))
    if factored:
        d1, d0 = np.argsort(p.shape, kind="stable")[-2:]
        row = np.zeros((*np.delete(p.shape, d0), 3))
        col = np.zeros((*np.delete(p.shape, d1), 3))
    else:
        full = np.zeros((*p.shape, 3))
    for t, g in enumerate(gradients):
        g = np.atleast_1d(np.asarray(g, np.float64))[..., None]
        m = b_m * m + (1 - b_m) * g
        v = b_v * v + (1 - b_v) * g**2
        square = g**2 + 1e-30
        if factored:
            row = b_f * row + (1 - b_f) * square.mean(d0)
            col = b_f * col + (1 - b_f) * square.mean(d1)
            # Row keeps axis d1, whose mean makes the rows relative; as whole tensors everything broadcasts.
            row_full, col_full = np.expand_dims(row, d0), np.expand_dims(col, d1)
            relative = row_full / (row_full.mean(d1, keepdims=True) + 1e-9)
            factor = np.maximum(relative, 1e-9) ** -0.5 * np.maximum(col_full, 1e-9) ** -0.5
            fac_g, fac_m = g * factor, m * factor
            row_full = np.broadcast_to(row_full, (*p.shape, 3))
            col_full = np.broadcast_to(col_full, (*p.shape, 3))
        else:
            full = b_f * full + (1 - b_f) * square
            fac_g, fac_m = g * (full + 1e-9) ** -0.5, m * (full + 1e-6) ** -0.5
            row_full = col_full = full
        inverse = (v + 1e-6) ** -0.5
        features = [g, p[..., None], m, v, m * inverse, inverse, fac_g, row_full, col_full]
        features += [(row_full + 1e-8) ** -0.5, (col_full + 1e-8) ** -0.5, fac_m]
        updates.append(_network(np.concatenate(features, -1), t, theta.layers, step_size, exponent).reshape(shape))
    memory = {"momenta": np.moveaxis(m, -1, 0).reshape(3, *shape), "second_moment": v[..., 0].reshape(shape)}
    if factored:
        memory |= {"rows": np.moveaxis(row, -1, 0), "columns": np.moveaxis(col, -1, 0)}
    else:
        memory |= {"rows": np.moveaxis(full, -1, 0).reshape(3, *shape)}
    return updates, memory


REFERENCES = {"mlp": _reference_mlp, "small_fc": _reference_small_fc}


def _zeros(optimizer):
    """A theta where its values do not matter: to draw one is several programs."""
    shapes = jax.eval_shape(optimizer.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(np.zeros(a.shape, a.dtype)), shapes)


def _run(optimizer, theta, params, gradients):
    """Updates of each step and the last state, the params held fixed, as one scan."""
    transform = optimizer.transform(theta, len(gradients))

    def body(state, grads):
        updates, state = transform.update(grads, state, params)
        return state, updates

    stacked = jax.tree.map(lambda *a: jnp.stack(a), *gradients)
    state, updates = jax.lax.scan(body, transform.init(params), stacked)
    return updates, state


def _perturbed(theta, seed, scale):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a) + scale * rng.normal(size=a.shape), jnp.float32), theta)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_and_memory_equal_the_written_out_computation(name):
    """Random network, moved decays, ranks 0 to 3, five steps; a step size of 1 makes the tolerance a strict one."""
    rng = np.random.default_rng(0)
    optimizer = OPTIMIZERS[name](step_size=1.0, exponent=0.1)
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(0)), 1, 0.03)
    run = jax.jit(lambda params, gradients: _run(optimizer, theta, params, gradients))
    for gradient_scale in (1.0, 1e-4):
        params, gradients = _tree(rng, 0.5), [_tree(rng, gradient_scale) for _ in range(5)]
        updates, state = run(params, gradients)
        for leaf in SHAPES:
            expected, memory = REFERENCES[name](theta, params[leaf], [g[leaf] for g in gradients], 1.0, 0.1)
            np.testing.assert_allclose(updates[leaf], np.stack(expected), rtol=2e-5, atol=5e-6, err_msg=leaf)
            for field, value in memory.items():
                # Sums of either sign: exact relative to the largest.
                close = dict(rtol=1e-6, atol=1e-6 * np.abs(value).max(), err_msg=f"{field} {leaf}")
                np.testing.assert_allclose(getattr(state, field)[leaf], value, **close)
        assert state.step == 5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_applied_updates_equal_the_written_out_computation_within_1e_6(name):
    rng = np.random.default_rng(1)
    optimizer = OPTIMIZERS[name]()
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(2)), 3, 0.03)
    params, gradients = _tree(rng, 0.5, FEW), [_tree(rng, 0.1, FEW) for _ in range(5)]
    updates, _ = jax.jit(lambda theta: _run(optimizer, theta, params, gradients))(theta)
    for leaf in FEW:
        expected, _ = REFERENCES[name](theta, params[leaf], [g[leaf] for g in gradients], 1e-3, 1e-3)
        np.testing.assert_allclose(updates[leaf], np.stack(expected), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("size", [300, 9001])
def test_tensors_that_do_not_fill_their_blocks_are_updated_to_the_last_entry(size):
    rng = np.random.default_rng(6)
    optimizer = mlp_optimizer(step_size=1.0)
    theta = jax.jit(optimizer.init)(jax.random.key(9))
    params, grads = (jnp.asarray(rng.normal(size=size), jnp.float32) for _ in range(2))
    transform = optimizer.transform(theta)
    updates, _ = jax.jit(transform.update)(grads, transform.init(params), params)
    (expected,), _ = _reference_mlp(theta, params, [grads], 1.0, 1e-3)
    np.testing.assert_allclose(updates, expected, rtol=2e-5, atol=5e-6)


def _reading(feature, inputs, width):
    """Layers whose direction is one input feature, as relu(x) - relu(-x), and whose magnitude is 0."""
    first = np.zeros((inputs, width), np.float32)
    first[feature, :2] = 1, -1
    last = np.zeros((width, 2), np.float32)
    last[:2, 0] = 1, -1
    weights = (first, np.eye(width, dtype=np.float32), last)
    return tuple({"weight": w, "bias": np.zeros(w.shape[1], np.float32)} for w in weights)


@pytest.mark.parametrize("name, inputs, width", [("mlp", 19, 32), ("small_fc", 39, 4)])
def test_each_feature_alone_equals_the_written_out_one(name, inputs, width):
    rng = np.random.default_rng(2)
    optimizer = OPTIMIZERS[name](step_size=1.0)
    params, gradients = _tree(rng, 0.5), [_tree(rng, 3.0) for _ in range(3)]
    thetas = []
    for feature in range(inputs):
        layers = _reading(feature, inputs, width)
        nothing = [np.zeros(n, np.float32) for n in (3, 1, 3)]
        thetas.append(layers if name == "mlp" else SmallFCTheta(layers, *nothing))
    stacked = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *thetas)
    updates, _ = jax.jit(jax.vmap(lambda theta: _run(optimizer, theta, params, gradients)))(stacked)
    for feature, theta in enumerate(thetas):
        for leaf in SHAPES:
            expected, _ = REFERENCES[name](theta, params[leaf], [g[leaf] for g in gradients], 1.0, 1e-3)
            expected = np.stack(expected)
            assert np.abs(expected).max() > 0.01  # something to compare
            np.testing.assert_allclose(
                updates[leaf][feature], expected, rtol=3e-6, atol=1e-6, err_msg=f"{feature} {leaf}"
            )


@pytest.mark.parametrize("name, size", [("mlp", 1762), ("small_fc", 197)])
def test_the_number_of_meta_parameters_is_the_papers(name, size):
    theta = jax.eval_shape(OPTIMIZERS[name]().init, jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(theta)) == size


def test_initial_weights_are_truncated_normal_of_scale_one_over_root_fan_in():
    first, second, _ = jax.jit(mlp_optimizer(hidden=(300, 300)).init)(jax.random.key(0))
    for layer, fan_in in ((first, 19), (second, 300)):
        weight = np.asarray(layer["weight"]) * fan_in**0.5
        assert np.abs(weight).max() <= 2 + 1e-5
        # The standard deviation of a standard normal truncated at 2 is 0.8796.
        np.testing.assert_allclose(weight.std(), 0.8796, rtol=0.02)
        assert not layer["bias"].any()


@pytest.mark.parametrize("name, multiple", [("mlp", 6.0), ("small_fc", 4.1)])
def test_memory_per_parameter(name, multiple):
    params = {"weight": jnp.zeros((256, 256)), "bias": jnp.zeros(256)}
    optimizer = OPTIMIZERS[name]()
    state = jax.eval_shape(lambda key: optimizer.transform(optimizer.init(key), 1).init(params), jax.random.key(0))
    floats = sum(a.size for a in jax.tree.leaves(state) if a.dtype == jnp.float32)
    assert floats <= multiple * sum(a.size for a in jax.tree.leaves(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_chain_scales_and_clips_around_it(name):
    """Clipping before and scaling after, under jit, equal the three parts one after the other."""
    rng = np.random.default_rng(4)
    optimizer = OPTIMIZERS[name]()
    theta = jax.jit(optimizer.init)(jax.random.key(5))
    params, grads = _tree(rng, 0.5, FEW), _tree(rng, 1.0, FEW)
    chain = optax.chain(optax.clip(0.1), optimizer.transform(theta, 10), optax.scale(-3.0))
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = jax.jit(chain.update)(grads, chain.init(params), params, value=jnp.float32(1.0))
    alone = optimizer.transform(theta)
    clipped = jax.tree.map(lambda g: jnp.clip(g, -0.1, 0.1), grads)
    expected, _ = jax.jit(alone.update)(clipped, alone.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -3 * b, rtol=1e-4, atol=1e-8), updates, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_gradient_with_respect_to_theta_is_that_of_finite_differences(name):
    rng = np.random.default_rng(5)
    # Two hidden units a layer: what the derivative of small_fc takes to compile grows with them.
    optimizer = small_fc((2, 2), step_size=1.0) if name == "small_fc" else mlp_optimizer(step_size=1.0)
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(6)), 7, 0.03)
    shapes = {**FEW, "empty": (0, 5), "nothing": (0,)}  # a mean over nothing would be NaN, also in derivatives
    params, gradients = _tree(rng, 0.5, shapes), [_tree(rng, 0.1, shapes) for _ in range(2)]
    direction = _perturbed(_zeros(optimizer), 8, 1.0)

    def moved(epsilon):
        there = jax.tree.map(lambda a, b: a + epsilon * b, theta, direction)
        updates, _ = _run(optimizer, there, params, gradients)
        return sum(jnp.square(u).mean() for u in jax.tree.leaves(updates) if u.size)

    h = jnp.float32(2e-4)
    values, slopes = zip(*map(jax.jit(jax.value_and_grad(moved)), (-h, jnp.float32(0), h)), strict=True)
    np.testing.assert_allclose(slopes[1], (values[2] - values[0]) / (2 * h), rtol=2e-2)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_that_are_not_floating_point_are_refused(name):
    optimizer = OPTIMIZERS[name]()
    transform = optimizer.transform(_zeros(optimizer), 10)
    with pytest.raises(TypeError, match=r"int32 at params\['layers'\]\[1\]"):
        transform.init({"layers": [jnp.zeros(3), jnp.zeros(3, jnp.int32)]})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_without_params_is_refused(name):
    optimizer = OPTIMIZERS[name]()
    transform = optimizer.transform(_zeros(optimizer), 10)
    with pytest.raises(ValueError, match=r"update\(grads, state, params\), got None"):
        transform.update(jnp.zeros(3), transform.init(jnp.zeros(3)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bfloat16_parameters_get_the_float32_updates_rounded(name):
    rng = np.random.default_rng(7)
    optimizer = OPTIMIZERS[name]()
    transform = optimizer.transform(jax.jit(optimizer.init)(jax.random.key(10)))
    half = [jax.tree.map(lambda a: a.astype(jnp.bfloat16), _tree(rng, 0.5, FEW)) for _ in range(2)]
    full = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    results = []
    for params, grads in (half, full):
        results.append(jax.jit(transform.update)(grads, transform.init(params), params))
    (updates, state), (expected, expected_state) = results
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=2**-8), updates, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state, expected_state)
