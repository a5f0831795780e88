"""The Transformer learner: equal to its own loop, causal, equal to NumPy, of the paper's size; its windows."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.learner import Learner, Signature, prediction_loss, predictions_in_order
from metalearn_models.learners._dense import LayerNorm, dense
from metalearn_models.learners.transformer import TransformerConfig, transformer

CLASSES = Signature(inputs=3, outputs=4, length=7)
REAL = Signature(inputs=3, outputs=1, length=7, regression=True)
PAPER = TransformerConfig(width=12, layers=2, heads=2, key_size=5)
PAIR = TransformerConfig(width=12, layers=2, heads=2, key_size=5, token="pair")
WINDOW, ONE = dataclasses.replace(PAIR, window=3), dataclasses.replace(PAIR, window=1)


def some_theta(learner: Learner, seed: int = 0) -> Any:
    """Theta with biases, scales and offsets off their starting values, so that no term is tested at nought."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype), shapes)


def sequences(signature: Signature, *batch: int, seed: int = 5) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    shape = (*batch, signature.length)
    xs = jnp.asarray(rng.normal(size=(*shape, signature.inputs)), jnp.float32)
    if signature.regression:
        return xs, jnp.asarray(rng.normal(size=shape), jnp.float32)
    return xs, jnp.asarray(rng.integers(0, signature.outputs, shape), jnp.int32)


def run(learner: Learner, theta: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
    assert learner.run is not None
    return jax.jit(learner.run)(theta, xs, ys)


@pytest.mark.parametrize("signature", [CLASSES, REAL], ids=["classes", "real"])
@pytest.mark.parametrize("config", [PAPER, PAIR, WINDOW, ONE], ids=["paper", "pair", "window", "one"])
def test_the_parallel_run_equals_the_loop_over_the_cache_whatever_the_leading_axes(
    config: TransformerConfig, signature: Signature
) -> None:
    learner = transformer(signature, config)
    theta = some_theta(learner)
    xs, ys = sequences(signature, 2, 3)
    parallel = np.asarray(run(learner, theta, xs, ys))
    one = jax.jit(lambda x, y: predictions_in_order(learner, theta, x, y, jax.random.key(0)))
    xs, ys = np.asarray(xs), np.asarray(ys)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(parallel[i], one(xs[i], ys[i]), atol=1e-5, rtol=1e-5)
    if signature is REAL:  # the tests of windows run numbers without leading axes
        return
    for i in ((0,), (0, 0)):
        one_less = run(learner, theta, jnp.asarray(xs[i]), jnp.asarray(ys[i]))
        np.testing.assert_allclose(one_less, parallel[i], atol=1e-5)


@pytest.mark.parametrize("config", [PAPER, PAIR], ids=["paper", "pair"])
def test_later_examples_and_the_current_label_change_no_earlier_logits(config: TransformerConfig) -> None:
    learner = transformer(CLASSES, config)
    theta = some_theta(learner)
    xs, ys = sequences(CLASSES, 2)
    program = jax.jit(lambda xs, ys: run(learner, theta, xs, ys))
    xs, ys = np.asarray(xs), np.asarray(ys)

    def logits(xs, ys):
        return np.asarray(program(jnp.asarray(xs), jnp.asarray(ys)))

    before = logits(xs, ys)
    for t in range(CLASSES.length):
        at = np.arange(CLASSES.length) == t
        label = logits(xs, np.where(at, (ys + 1) % CLASSES.outputs, ys))
        np.testing.assert_array_equal(label[:, : t + 1], before[:, : t + 1])
        example = logits(np.where(at[:, None], xs + 1, xs), ys)
        np.testing.assert_array_equal(example[:, :t], before[:, :t])
        assert (example[:, t:] != before[:, t:]).any(-1).all()
        assert (label[:, t + 1 :] != before[:, t + 1 :]).any(-1).all()


def test_the_gradient_of_a_prediction_by_later_examples_is_exactly_zero() -> None:
    learner = transformer(REAL, PAPER)
    theta = some_theta(learner)
    xs, ys = sequences(REAL)
    by_xs, by_ys = jax.jit(jax.jacobian(lambda xs, ys: run(learner, theta, xs, ys)[:, 0], argnums=(0, 1)))(xs, ys)
    by_xs, by_ys = np.asarray(by_xs), np.asarray(by_ys)
    reads_x = (by_xs != 0).any(-1)
    np.testing.assert_array_equal(reads_x, np.tril(np.ones((REAL.length, REAL.length), bool)))
    np.testing.assert_array_equal(by_ys != 0, np.tril(np.ones((REAL.length, REAL.length), bool), -1))


def _numpy_norm(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["offset"]


def _numpy_affine(x: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    return x @ p["kernel"] + p["bias"]


def _numpy_logits(theta: Any, xs: np.ndarray, ys: np.ndarray, config: TransformerConfig) -> np.ndarray:
    """Tokens, queries and heads one at a time, in float64, from the paper's equations."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), theta)
    heads, size = config.heads, config.key_size
    h = []
    for t, x in enumerate(xs):
        last_x = xs[t - 1] if t else np.zeros(CLASSES.inputs)
        last_y = np.eye(CLASSES.outputs)[ys[t - 1]] if t else np.zeros(CLASSES.outputs)
        token = [x, last_y, last_x] if config.token == "pair" else [x, last_y]
        h.append(_numpy_affine(np.concatenate(token), p["embed"]) + p["positions"][t])
    h = np.stack(h)
    window = config.window or len(xs)
    for layer in range(config.layers):
        block = p["blocks"][layer]
        qkv = _numpy_affine(_numpy_norm(h, block["norm_attention"]), block["qkv"])
        read = np.zeros((len(xs), heads * size))
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            q, k, v = (part[:, columns] for part in np.split(qkv, 3, axis=1))
            for t in range(len(xs)):
                first = max(0, t + 1 - window)
                weights = np.exp([q[t] @ k[s] / math.sqrt(size) for s in range(first, t + 1)])
                read[t, columns] = weights @ v[first : t + 1] / weights.sum()
        h = h + _numpy_affine(read, block["out"])
        up = _numpy_affine(_numpy_norm(h, block["norm_mlp"]), block["up"])
        gelu = 0.5 * up * (1 + np.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        h = h + _numpy_affine(gelu, block["down"])
    return _numpy_affine(_numpy_norm(h, p["norm"]), p["head"])


@pytest.mark.parametrize("config", [PAPER, PAIR, WINDOW], ids=["paper", "pair", "window"])
def test_logits_equal_an_independent_computation(config: TransformerConfig) -> None:
    learner = transformer(CLASSES, config)
    theta = some_theta(learner, seed=3)
    xs, ys = sequences(CLASSES, seed=4)
    expected = _numpy_logits(theta, np.asarray(xs, np.float64), np.asarray(ys), config)
    np.testing.assert_allclose(run(learner, theta, xs, ys), expected, atol=2e-5)


def test_the_paper_size_has_the_reference_number_of_parameters_and_state() -> None:
    learner = transformer(Signature(inputs=196, outputs=10, length=100), TransformerConfig())
    theta = jax.eval_shape(learner.init, jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(theta)) == 3_240_714
    assert learner.state_size == 204_800
    state = jax.eval_shape(learner.start, theta, jax.random.key(0))
    assert state.keys.size + state.values.size == learner.state_size


@pytest.mark.parametrize("attention", ["written", "fused"])
@pytest.mark.parametrize(("window", "layers"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_a_prediction_depends_on_exactly_the_tokens_its_windows_reach(
    window: int, layers: int, attention: Literal["written", "fused"]
) -> None:
    config = dataclasses.replace(PAPER, window=window, layers=layers, attention=attention)
    learner = transformer(REAL, config)
    theta = some_theta(learner)
    xs, ys = sequences(REAL)
    by_xs, by_ys = jax.jit(jax.jacobian(lambda xs, ys: run(learner, theta, xs, ys)[:, 0], argnums=(0, 1)))(xs, ys)
    by_xs, by_ys = np.asarray(by_xs), np.asarray(by_ys)
    age = np.arange(REAL.length)[:, None] - np.arange(REAL.length)
    reached = (age >= 0) & (age <= layers * (window - 1))
    np.testing.assert_array_equal((by_xs != 0).any(-1), reached)
    # A label arrives one token after its input.
    np.testing.assert_array_equal(by_ys != 0, np.pad(reached, ((0, 0), (0, 1)))[:, 1:])


@pytest.mark.parametrize("attention", ["written", "fused"])
def test_a_window_that_leaves_nothing_out_is_no_window_bit_for_bit(attention: Literal["written", "fused"]) -> None:
    whole = transformer(CLASSES, dataclasses.replace(PAIR, attention=attention))
    theta = some_theta(whole)
    xs, ys = sequences(CLASSES)
    loop = jax.jit(predictions_in_order, static_argnums=0)
    parallel, in_order = run(whole, theta, xs, ys), loop(whole, theta, xs, ys, jax.random.key(0))
    for window in (CLASSES.length, 100):
        learner = transformer(CLASSES, dataclasses.replace(PAIR, attention=attention, window=window))
        assert learner.state_size == whole.state_size
        np.testing.assert_array_equal(run(learner, theta, xs, ys), parallel)
        np.testing.assert_array_equal(loop(learner, theta, xs, ys, jax.random.key(0)), in_order)
    learner = transformer(CLASSES, dataclasses.replace(PAIR, attention=attention, window=CLASSES.length - 1))
    assert (np.asarray(run(learner, theta, xs, ys))[-1] != np.asarray(parallel)[-1]).any()


@pytest.mark.parametrize("window", [1, 3, 7, 100])
def test_a_window_shrinks_the_state_and_leaves_the_initial_theta_alone(window: int) -> None:
    whole, learner = (transformer(CLASSES, dataclasses.replace(PAIR, window=w)) for w in (None, window))
    theta = jax.jit(learner.init)(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, theta, jax.jit(whole.init)(jax.random.key(0)))
    state = jax.eval_shape(learner.start, theta, jax.random.key(0))
    assert state.keys.size + state.values.size == learner.state_size == 2 * 2 * 2 * 5 * min(window, 7)


@pytest.mark.parametrize("window", [0, -3])
def test_an_empty_window_is_refused(window: int) -> None:
    with pytest.raises(ValueError, match=f"^window must be a whole number from 1 .*or none, got {window}"):
        transformer(CLASSES, TransformerConfig(window=window))


def test_bfloat16_products_stay_close_to_float32_and_keep_parameters_and_logits_in_float32() -> None:
    low = transformer(CLASSES, TransformerConfig(width=12, layers=2, heads=2, key_size=5, compute="bfloat16"))
    theta = some_theta(low)
    assert all(a.dtype == jnp.float32 for a in jax.tree.leaves(theta))
    xs, ys = sequences(CLASSES, 4)
    full, rough = (np.asarray(run(one, theta, xs, ys)) for one in (transformer(CLASSES, PAPER), low))
    assert rough.dtype == np.float32
    error = float(np.abs(rough - full).max() / full.std())
    assert 1e-4 < error < 5e-2, error


def test_scores_of_any_size_give_finite_logits_and_gradients() -> None:
    learner = transformer(CLASSES, PAPER)
    theta = jax.tree.map(lambda a: jnp.asarray(30 * np.asarray(a)), some_theta(learner))
    xs, ys = sequences(CLASSES, 2)
    value_and_grad = jax.jit(jax.value_and_grad(lambda theta: prediction_loss(run(learner, theta, xs, ys), ys).mean()))
    loss, gradient = value_and_grad(theta)
    assert np.isfinite(loss)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


def test_forward_and_reverse_mode_agree_with_a_finite_difference() -> None:
    learner = transformer(CLASSES, PAIR)
    theta = some_theta(learner)
    xs, ys = sequences(CLASSES, 6)
    direction = some_theta(learner, seed=9)

    def loss(theta: Any) -> jax.Array:
        return prediction_loss(run(learner, theta, xs, ys), ys).mean()

    @jax.jit
    def along(size):
        there = jax.tree.map(lambda a, b: a + size * b, theta, direction)
        return *jax.jvp(loss, (there,), (direction,)), jax.grad(loss)(there)

    step = 1e-2
    (_, forward, gradient), (ahead, *_), (behind, *_) = (along(jnp.float32(s)) for s in (0, step, -step))
    reverse = sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    difference = (ahead - behind) / (2 * step)
    np.testing.assert_allclose(forward, reverse, rtol=1e-4)
    np.testing.assert_allclose(forward, difference, rtol=2e-2)


def test_a_population_of_thetas_under_vmap_equals_one_at_a_time() -> None:
    learner = transformer(CLASSES, PAIR)
    thetas = [some_theta(learner, seed) for seed in range(3)]
    xs, ys = sequences(CLASSES, 8)
    population = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *thetas)
    together = jax.jit(jax.vmap(lambda theta: run(learner, theta, xs, ys)))(population)
    for theta, logits in zip(thetas, np.asarray(together), strict=True):
        np.testing.assert_allclose(logits, run(learner, theta, xs, ys), atol=1e-5)


@pytest.mark.parametrize(("rows", "width", "outputs"), [(40, 9, 4), (40, 4, 9), (5, 9, 4)])
def test_dense_is_a_product_with_the_gradients_of_one_in_every_shape(rows: int, width: int, outputs: int) -> None:
    rng = np.random.default_rng(0)
    x, w, g = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(rows, width), (width, outputs), (rows, outputs)])

    @jax.jit
    def value_and_gradients(x, w, g):
        y, back = jax.vjp(dense, x, w)
        return y, *back(g)

    y, by_x, by_w = value_and_gradients(x.reshape(5, -1, width), w, g.reshape(5, -1, outputs))
    np.testing.assert_allclose(y.reshape(rows, outputs), np.asarray(x) @ np.asarray(w), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_x.reshape(rows, width), np.asarray(g) @ np.asarray(w).T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_w, np.asarray(x).T @ np.asarray(g), rtol=1e-4, atol=1e-5)


def test_layer_norm_keeps_leading_axes_and_has_mean_nought_and_variance_one() -> None:
    x = np.random.default_rng(0).normal(3, 2, (2, 3, 4, 50)).astype(np.float32)
    y = np.asarray(jax.jit(LayerNorm(50))(jnp.asarray(x)))
    assert y.shape == x.shape
    np.testing.assert_allclose(y.mean(-1), np.zeros((2, 3, 4)), atol=1e-5)
    np.testing.assert_allclose(y.var(-1), np.ones((2, 3, 4)), rtol=1e-4)
