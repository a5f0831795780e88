"""Recurrent optimizers against the computation written out in NumPy float64, one parameter at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_models.optimizers.learned.component_rnn import component_rnn
from metalearn_models.optimizers.learned.lstm import log_and_sign, lstm_optimizer
from metalearn_models.optimizers.learned.parts.cell import Cell, cell_transform
from metalearn_models.optimizers.learned.rnnprop import rnnprop

OPTIMIZERS = {
    "lstm": lstm_optimizer(),
    "lstm with preprocessing": lstm_optimizer((7, 5), 0.01, log_and_sign()),
    "rnnprop": rnnprop(),
    "component": component_rnn(),
}
DIFFERENT = ("lstm with preprocessing", "rnnprop", "component")
SHAPES = {"bias": (4,), "empty": (0, 3), "gain": (), "kernel": (2, 3, 2)}
SIGNS = (1, -1, 1, 1, -1)  # five steps, as everywhere here: one program serves all tests of an optimizer


def _tree(rng, scale, shapes=SHAPES):
    return {name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _lstm_step(network, memory, x):
    """The layers of one parameter; x[D]."""
    new = []
    for layer, (h, c) in zip(network.layers, memory, strict=True):
        i, g, f, o = np.split(x @ layer.inputs + h @ layer.state + layer.bias, 4)
        c = _sigmoid(f + 1) * c + _sigmoid(i) * np.tanh(g)
        x = _sigmoid(o) * np.tanh(c)
        new.append((x, c))
    return new, x @ network.readout.weight + network.readout.bias


def _blank(network):
    return [(np.zeros(len(layer.state)),) * 2 for layer in network.layers]


def _reference_lstm(theta, gradients, scale=1.0, preprocess=lambda g: np.array([g])):
    memory, updates = _blank(theta), []
    for g in gradients:
        memory, out = _lstm_step(theta, memory, preprocess(g))
        updates.append(scale * out)
    return updates


def _paper_preprocess(g):
    """The two cases of the paper."""
    return np.array([np.log(abs(g)) / 10, np.sign(g)] if abs(g) >= np.exp(-10) else [-1, np.exp(10) * g])


def _reference_rnnprop(theta, gradients):
    memory, m, v, updates = _blank(theta.network), 0.0, 0.0, []
    for t, g in enumerate(gradients, 1):
        m, v = 0.95 * m + 0.05 * g, 0.95 * v + 0.05 * g**2
        m_hat, root = m / (1 - 0.95**t), np.sqrt(v / (1 - 0.95**t))
        x = np.array([m_hat, g]) / root @ theta.weight + theta.bias
        x = np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)
        memory, out = _lstm_step(theta.network, memory, x)
        updates.append(0.1 * np.tanh(out))
    return updates


def _reference_component(theta, gradients):
    h, updates = theta.initial, []
    for g in gradients:
        a, b = np.split(theta.inputs * g + theta.bias, 3), np.split(h @ theta.state, 3)
        r, z = _sigmoid(a[0] + b[0]), _sigmoid(a[1] + b[1])
        h = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
        updates.append(h @ theta.readout)
    return updates


REFERENCES = {
    "lstm": _reference_lstm,
    "lstm with preprocessing": lambda theta, g: _reference_lstm(theta, g, 0.01, _paper_preprocess),
    "rnnprop": _reference_rnnprop,
    "component": _reference_component,
}


def _perturbed(theta, seed, scale):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(np.asarray(a) + scale * rng.normal(size=a.shape), jnp.float32), theta)


def _run(optimizer, theta, gradients) -> Any:
    """Updates of each step and the last state, as one scan; params are never read."""
    stacked = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *gradients)
    state, updates = _scan(optimizer)(theta, stacked)
    return updates, state


@functools.cache
def _scan(optimizer):
    """One program per optimizer, number of steps and shapes; op by op it would be many small compilations."""

    def scan(theta, stacked):
        transform = optimizer.transform(theta, len(jax.tree.leaves(stacked)[0]))
        state = transform.init(jax.tree.map(lambda g: g[0], stacked))
        return jax.lax.scan(lambda s, g: transform.update(g, s)[::-1], state, stacked)

    return jax.jit(scan)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_equal_the_written_out_computation(name):
    """Every shape, gradients over six orders of magnitude, five steps."""
    rng = np.random.default_rng(0)
    optimizer = OPTIMIZERS[name]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(0)), 1, 0.1)
    gradients = [_tree(rng, scale) for scale in (1.0, 1e-3, 1e-6, 0.1, 2.0)]
    updates, state = _run(optimizer, theta, gradients)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    for leaf, shape in SHAPES.items():
        history = np.stack([np.asarray(g[leaf], np.float64).ravel() for g in gradients])
        expected = np.array([REFERENCES[name](wide, column) for column in history.T]).T
        np.testing.assert_allclose(updates[leaf], expected.reshape(5, *shape), rtol=1e-6, atol=1e-6, err_msg=leaf)
    assert state.step == 5


@pytest.mark.parametrize("name, floats", [("lstm", 80), ("rnnprop", 82), ("component", 32)])
def test_memory_per_parameter(name, floats):
    params = {"weight": jnp.zeros((64, 64)), "bias": jnp.zeros(64)}
    optimizer = OPTIMIZERS[name]
    state: Any = jax.eval_shape(lambda key: optimizer.transform(optimizer.init(key)).init(params), jax.random.key(0))
    stored = sum(a.size for a in jax.tree.leaves(state.memory))
    assert floats * (64 * 64 + 64) <= stored <= 1.01 * floats * (64 * 64 + 64)


def test_many_parameters_in_blocks_get_the_updates_each_gets_alone():
    rng = np.random.default_rng(1)
    optimizer = lstm_optimizer((3,))
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    gradients = [{"w": jnp.asarray(rng.normal(size=(41, 37)), jnp.float32)} for _ in range(3)]  # 3 blocks, 1 entry over
    updates, state = _run(optimizer, theta, gradients)
    assert state.memory[0][0].shape == (3, 3, 506)
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    history = np.stack([np.asarray(g["w"], np.float64).ravel() for g in gradients])
    for i in (0, 505, 506, 1000, 1012, 1516):
        expected = _reference_lstm(wide, history[:, i])
        np.testing.assert_allclose(updates["w"].reshape(3, -1)[:, i], expected, rtol=1e-6, atol=1e-6)


def test_one_preprocessing_is_the_papers_and_the_published_codes():
    g = np.concatenate([s * np.exp(np.linspace(-14, 4, 60)) for s in (-1, 1)] + [[0.0]])
    for x, features in zip(g, np.asarray(log_and_sign()(jnp.asarray(g, jnp.float32))).T, strict=True):
        np.testing.assert_allclose(features, _paper_preprocess(x), rtol=1e-5, atol=1e-6)
    published = np.stack(
        [np.maximum(np.log(np.abs(g) + np.finfo(np.float32).eps) / 5, -1), np.clip(g * np.exp(5), -1, 1)]
    )
    np.testing.assert_allclose(log_and_sign(5.0)(jnp.asarray(g, jnp.float32)), published, rtol=1e-5, atol=1e-5)


def test_the_preprocessing_has_finite_derivatives_at_zero():
    slope = jax.jacfwd(lambda g: log_and_sign(3.0)(g[None])[:, 0])(jnp.float32(0.0))
    np.testing.assert_allclose(slope, [0.0, np.exp(3)], rtol=1e-6)
    with pytest.raises(ValueError, match=r"needs p > 0, got 0.0"):
        log_and_sign(0.0)


def test_rnnprop_does_not_see_the_scale_of_the_gradients():
    rng = np.random.default_rng(2)
    optimizer = rnnprop()
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    gradients = [_tree(rng, 1.0, {"w": (5,)}) for _ in range(4)]
    scaled = [jax.tree.map(lambda g: 1000 * g, g) for g in gradients]
    a, b = (_run(optimizer, theta, g)[0]["w"] for g in (gradients, scaled))
    np.testing.assert_allclose(a, b, atol=1e-7)


def _training(optimizer, theta, curvature, steps):
    """Parameters after training on curvature x^2 / 2."""
    transform, start = optimizer.transform(theta), jnp.array([1.0, -2.0])

    def body(carry, _):
        x, state = carry
        updates, state = transform.update(curvature * x, state, x)
        return (x + updates, state), None

    return jax.lax.scan(body, (start, transform.init(start)), length=steps)[0][0]


def test_first_order_meta_gradients_are_those_with_constant_gradients():
    """Of a learned rate: x2 = x1 - theta a x1, of which only the middle a x1 is held constant."""
    sgd = LearnedOptimizer(lambda key: jnp.float32(0.1), lambda theta, num_steps=None: optax.sgd(theta))
    a, theta, x0 = 3.0, 0.2, np.array([1.0, -2.0])

    def final(optimizer):
        with jax.numpy_dtype_promotion("standard"):
            return jax.jacfwd(lambda theta: _training(optimizer, theta, a, 2))(jnp.float32(theta))

    np.testing.assert_allclose(final(sgd), -2 * a * (1 - theta * a) * x0, rtol=1e-5)
    # x1 = x0 - theta a x0 has slope -a x0; x2 adds -a x1, and the slope of the gradient a x1 is dropped.
    np.testing.assert_allclose(final(first_order(sgd)), -a * x0 - a * (1 - theta * a) * x0, rtol=1e-5)


def test_first_order_changes_meta_gradients_and_nothing_else():
    optimizer = lstm_optimizer((4,))
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    runs = [lambda theta, o=o: _training(o, theta, 1.0, 4).sum() for o in (optimizer, first_order(optimizer))]
    (value, full), (same, first) = (jax.jit(jax.value_and_grad(run))(theta) for run in runs)
    np.testing.assert_allclose(value, same, rtol=1e-6)
    assert np.abs(full.layers[0].inputs - first.layers[0].inputs).max() > 1e-4


@functools.cache
def _value_and_slope(name):
    """`(theta, curvature) -> the sum of the parameters after three steps, its gradient`, one program."""
    return jax.jit(jax.value_and_grad(lambda theta, curvature: _training(OPTIMIZERS[name], theta, curvature, 3).sum()))


@pytest.mark.parametrize("name", DIFFERENT)
def test_the_meta_gradient_is_that_of_finite_differences(name):
    optimizer = OPTIMIZERS[name]
    theta = _perturbed(jax.jit(optimizer.init)(jax.random.key(3)), 4, 0.1)
    direction = _perturbed(jax.tree.map(np.zeros_like, theta), 5, 1.0)
    h = 3e-3
    wide, along = (jax.tree.map(lambda a: np.asarray(a, np.float64), tree) for tree in (theta, direction))
    there = [jax.tree.map(lambda a, b, h=h: jnp.asarray(a + h * b, jnp.float32), wide, along) for h in (-h, 0.0, h)]
    values, slopes = zip(*(_value_and_slope(name)(theta, jnp.float32(1)) for theta in there), strict=True)
    slope = sum(jax.tree.leaves(jax.tree.map(np.vdot, slopes[1], direction)))
    np.testing.assert_allclose(slope, (values[2] - values[0]) / (2 * h), rtol=2e-2)


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_zero_gradient_leaves_the_meta_gradient_finite(name):
    """As at a dead unit; log, sign and roots have no derivative there."""
    theta = jax.jit(OPTIMIZERS[name].init)(jax.random.key(6))
    _, slope = _value_and_slope(name)(theta, jnp.float32(0))
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_nan_gradient_spoils_its_own_parameter_only(name):
    optimizer = OPTIMIZERS[name]
    theta = jax.jit(optimizer.init)(jax.random.key(8))
    clean = [jax.tree.map(lambda g, s=s: jnp.full_like(g, s), _tree(np.random.default_rng(0), 1)) for s in SIGNS]
    spoilt = [{**clean[0], "bias": clean[0]["bias"].at[1].set(jnp.nan)}, *clean[1:]]
    expected, updates = (_run(optimizer, theta, g)[0] for g in (clean, spoilt))
    assert np.isnan(updates["bias"][:, 1]).all()
    np.testing.assert_allclose(updates["bias"][:, ::2], expected["bias"][:, ::2], rtol=1e-6)
    for leaf in ("gain", "kernel"):
        np.testing.assert_allclose(updates[leaf], expected[leaf], rtol=1e-6)


@pytest.mark.parametrize("name", DIFFERENT)
def test_bfloat16_gradients_get_the_float32_updates_rounded(name):
    rng = np.random.default_rng(9)
    optimizer = OPTIMIZERS[name]
    theta = jax.jit(optimizer.init)(jax.random.key(9))
    half = [jax.tree.map(lambda a: a.astype(jnp.bfloat16), _tree(rng, 1.0)) for _ in SIGNS]
    full = [jax.tree.map(lambda a: a.astype(jnp.float32), g) for g in half]
    (updates, state), (expected, expected_state) = (_run(optimizer, theta, g) for g in (half, full))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=2**-8), updates, expected)
    jax.tree.map(np.testing.assert_array_equal, state, expected_state)


@pytest.mark.parametrize("name", DIFFERENT)
def test_parameters_that_are_not_floating_point_are_refused(name):
    transform = OPTIMIZERS[name].transform(jax.jit(OPTIMIZERS[name].init)(jax.random.key(0)))
    with pytest.raises(TypeError, match=r"int32 at params\['layers'\]\[1\]"):
        transform.init({"layers": [jnp.zeros(3), jnp.zeros(3, jnp.int32)]})


def test_layers_without_units_are_refused():
    for build in (lambda: lstm_optimizer(()), lambda: lstm_optimizer((20, 0)), lambda: rnnprop(embed=0)):
        with pytest.raises(ValueError, match=r"at least one unit( each)?, got (hidden=\(.*\)|embed=0)"):
            build().init(jax.random.key(0))
    with pytest.raises(ValueError, match="at least one hidden unit, got hidden=0"):
        component_rnn(0)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1"):
        rnnprop(decay=1.0)


def test_the_momentum_cell_is_optax_sgd_with_momentum():
    rng = np.random.default_rng(10)
    cell = Cell(jnp.zeros(1), lambda h, g: 0.9 * h + g, jnp.array([-0.3]))
    gradients = [_tree(rng, 1.0) for _ in range(4)]
    updates, _ = _run(LearnedOptimizer(lambda key: (), lambda theta, n: cell_transform(cell)), (), gradients)
    with jax.numpy_dtype_promotion("standard"):
        sgd = LearnedOptimizer(lambda key: (), lambda theta, n: optax.sgd(0.3, momentum=0.9))
        expected, _ = _run(sgd, (), gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)
