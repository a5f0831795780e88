"""The black-box learners with a recurrent state, and the contextless one: exact against NumPy, causal, symmetric."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.learner import Learner, Signature, prediction_loss, predictions_in_order
from metalearn_models.learners.contextless import MLPConfig, mlp
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.learners.outer_lstm import OuterLSTMConfig, outer_lstm
from metalearn_models.learners.vsml import VSMLConfig, vsml

CLASSES = Signature(inputs=3, outputs=4, length=6)
REAL = Signature(inputs=3, outputs=1, length=6, regression=True)

LEARNERS: dict[str, Callable[[Signature], Learner]] = {
    "lstm": lambda s: lstm(s, LSTMConfig(hidden=8)),
    "outer_lstm": lambda s: outer_lstm(s, OuterLSTMConfig(hidden=4, heads=3)),
    "vsml": lambda s: vsml(s, VSMLConfig(hidden=6, messages=3)),
    "mlp": lambda s: mlp(s, MLPConfig(hidden=8)),
    "lstm_pair": lambda s: lstm(s, LSTMConfig(hidden=8, token="pair")),
    "outer_lstm_pair": lambda s: outer_lstm(s, OuterLSTMConfig(hidden=5, token="pair")),
}


def some_theta(learner: Learner, seed: int = 0) -> Any:
    """Theta with biases and scalars off their zeros, so that no term of the equations is tested at nought."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(learner.init, jax.random.key(0))
    return jax.tree.map(lambda a: jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype), shapes)


def sequences(signature: Signature, *batch: int, seed: int = 5) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    shape = (*batch, signature.length)
    xs = rng.normal(size=(*shape, signature.inputs)).astype(np.float32)
    if signature.regression:
        return jnp.asarray(xs), jnp.asarray(rng.normal(size=shape).astype(np.float32))
    return jnp.asarray(xs), jnp.asarray(rng.integers(0, signature.outputs, shape), jnp.int32)


def run_of(learner: Learner) -> Callable[..., jax.Array]:
    assert learner.run is not None
    return jax.jit(learner.run)


@functools.cache
def compiled(name: str, signature: Signature) -> tuple[Any, Callable[..., jax.Array]]:
    """Theta and `run`, compiled once for the tests that call it on the same shapes."""
    learner = LEARNERS[name](signature)
    return some_theta(learner), run_of(learner)


@pytest.mark.parametrize(
    ("name", "signature"),
    [(name, CLASSES) for name in LEARNERS] + [(name, REAL) for name in ("lstm", "outer_lstm", "vsml", "mlp")],
    ids=lambda v: v if isinstance(v, str) else "real" if v.regression else "classes",
)
def test_run_equals_the_loop_over_predict_and_observe(name, signature):
    learner, (theta, run) = LEARNERS[name](signature), compiled(name, signature)
    xs, ys = sequences(signature, 2, 6)
    logits = run(theta, xs, ys)
    assert logits.shape == (2, 6, signature.length, signature.outputs)
    loop = jax.vmap(jax.vmap(lambda xs, ys: predictions_in_order(learner, theta, xs, ys, jax.random.key(0))))
    np.testing.assert_allclose(logits, jax.jit(loop)(xs, ys), atol=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_an_input_changes_its_own_and_later_predictions_only_and_a_label_later_ones_only(name):
    theta, run = compiled(name, CLASSES)
    xs, ys = sequences(CLASSES)
    xs, ys = jnp.tile(xs, (2, 6, 1, 1)), jnp.tile(ys, (2, 6, 1))
    j = jnp.arange(CLASSES.length)
    changed_xs = xs.at[0, j, j].add(1.0)  # in sequence (0, j) the input at j is another,
    changed_ys = ys.at[1, j, j].set((ys[1, j, j] + 1) % CLASSES.outputs)  # in sequence (1, j) the label at j
    same = np.all(
        np.asarray(run(theta, xs, ys) == run(theta, changed_xs, changed_ys)), axis=-1
    )  # [2, j, t], to the bit
    later = np.triu(np.ones((6, 6), bool), 1)
    np.testing.assert_array_equal(
        same[0], ~np.eye(6, dtype=bool) if name == "mlp" else ~(later | np.eye(6, dtype=bool))
    )
    np.testing.assert_array_equal(same[1], np.ones((6, 6), bool) if name == "mlp" else ~later)


@pytest.mark.parametrize("name", ["lstm", "outer_lstm", "vsml", "mlp"])
def test_theta_is_a_dict_of_float32_arrays_and_differs_between_keys(name):
    learner = LEARNERS[name](CLASSES)
    one, two = jax.jit(learner.init)(jax.random.key(0)), jax.jit(learner.init)(jax.random.key(1))
    assert type(one) is dict and all(a.dtype == jnp.float32 for a in jax.tree.leaves(one))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert not np.array_equal(jax.flatten_util.ravel_pytree(one)[0], jax.flatten_util.ravel_pytree(two)[0])


@pytest.mark.parametrize(
    ("learner", "size"),
    [
        (lstm(CLASSES, LSTMConfig(hidden=8)), 2 * 8),
        (outer_lstm(CLASSES, OuterLSTMConfig(hidden=4, heads=3)), 3 * 4 * 4 + 3 * 4),
        (vsml(CLASSES, VSMLConfig(hidden=16)), 3 * 4 * 2 * 16),
        (mlp(CLASSES, MLPConfig()), 0),
    ],
    ids=["lstm", "outer_lstm", "vsml", "mlp"],
)
def test_state_size_counts_the_floats_of_the_cells(learner, size):
    state = learner.start(some_theta(learner), jax.random.key(1))
    cells = (state.h, state.c) if hasattr(state, "c") else getattr(state, "cell", ())
    assert learner.state_size == size == sum(a.size for a in jax.tree.leaves(cells))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def affine(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def numpy_tokens(xs, ys, token: str):
    """[x_j, y_{j-1}] or [x_j, y_{j-1}, x_{j-1}], what precedes the first example being zeros."""
    labels = np.vstack([np.zeros(CLASSES.outputs), np.eye(CLASSES.outputs)[ys[:-1]]])
    parts = [xs, labels] + ([np.vstack([np.zeros(CLASSES.inputs), xs[:-1]])] if token == "pair" else [])
    return np.concatenate(parts, axis=1)


def numpy_embedding(theta, tokens):
    return np.maximum(affine(theta["embed_2"], np.maximum(affine(theta["embed_1"], tokens), 0)), 0)


def as_float64(theta, xs, ys):
    return (
        jax.tree.map(lambda a: np.asarray(a, np.float64), theta),
        np.asarray(xs, np.float64),
        np.asarray(ys),
    )


@pytest.mark.parametrize("token", ["paper", "pair"])
def test_the_lstm_is_the_one_computed_in_numpy(token):
    learner = lstm(CLASSES, LSTMConfig(hidden=8, token=token))
    theta, (xs, ys) = some_theta(learner), sequences(CLASSES)
    logits = run_of(learner)(theta, xs, ys)
    theta, xs, ys = as_float64(theta, xs, ys)
    cell, h, c = theta["cell"], np.zeros(8), np.zeros(8)
    for t, e in enumerate(numpy_embedding(theta, numpy_tokens(xs, ys, token))):
        z = affine(cell["gates_input"], e) + affine(cell["gates_state"], h)
        i, g, f, o = z[:8], z[8:16], z[16:24], z[24:]
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        np.testing.assert_allclose(logits[t], affine(theta["head"], h), atol=2e-6)


@pytest.mark.parametrize(("hidden", "heads", "token"), [(5, 1, "paper"), (4, 3, "pair")])
def test_the_outer_product_lstm_is_the_one_computed_in_numpy(hidden, heads, token):
    learner = outer_lstm(CLASSES, OuterLSTMConfig(hidden=hidden, heads=heads, token=token))
    theta, (xs, ys) = some_theta(learner), sequences(CLASSES)
    logits = run_of(learner)(theta, xs, ys)
    theta, xs, ys = as_float64(theta, xs, ys)
    cell, h, c = theta["cell"], np.zeros(heads * hidden), np.zeros((heads, hidden, hidden))
    scale = np.log1p(np.exp(cell["key_scale"]))
    for t, e in enumerate(numpy_embedding(theta, numpy_tokens(xs, ys, token))):
        z = affine(cell["gates_input"], e) + affine(cell["gates_state"], h)
        outputs = []
        for n, row in enumerate(np.split(z, heads)):
            a, b, q, o = (
                row[: 3 * hidden],
                row[3 * hidden : 6 * hidden],
                row[6 * hidden : 7 * hidden],
                row[7 * hidden :],
            )
            i, g, f = (
                np.outer(np.tanh(k1) * scale, np.tanh(k2))
                for k1, k2 in zip(np.split(a, 3), np.split(b, 3), strict=True)
            )
            c[n] = sigmoid(f + 1) * c[n] + sigmoid(i) * g
            outputs.append(sigmoid(o) * np.tanh(c[n].T @ q))
        h = np.concatenate(outputs)
        np.testing.assert_allclose(logits[t], affine(theta["head"], h), atol=2e-6)


@pytest.mark.parametrize("ticks", [1, 2])
def test_vsml_is_the_loop_over_its_cells_in_numpy(ticks):
    """Every cell on its own, each message sent by its cell and averaged afterwards."""
    hidden, messages, inputs, outputs = 6, 3, CLASSES.inputs, CLASSES.outputs
    learner = vsml(CLASSES, VSMLConfig(hidden=hidden, messages=messages, ticks=ticks))
    theta, (xs, ys) = some_theta(learner), sequences(CLASSES)
    logits = run_of(learner)(theta, xs, ys)
    theta, xs, ys = as_float64(theta, xs, ys)
    w = np.vstack([theta[k]["kernel"] for k in ("gates_row", "gates_column", "gates_state")])
    h, c = np.zeros((2, inputs, outputs, hidden))
    forward, backward, label = np.zeros((outputs, messages)), np.zeros((inputs, messages)), np.zeros(outputs)
    for t in range(CLASSES.length):
        for i in range(inputs):
            for o in range(outputs):
                for _ in range(ticks):
                    read = np.concatenate([backward[i], xs[t, i : i + 1], forward[o], label[o : o + 1], h[i, o]])
                    gate_i, gate_g, gate_f, gate_o = np.split(read @ w + theta["gates_row"]["bias"], 4)
                    c[i, o] = sigmoid(gate_f + 1) * c[i, o] + sigmoid(gate_i) * np.tanh(gate_g)
                    h[i, o] = sigmoid(gate_o) * np.tanh(c[i, o])
        forward = np.mean([affine(theta["send_forward"], h[i]) for i in range(inputs)], axis=0)
        backward = np.mean([affine(theta["send_backward"], h[:, o]) for o in range(outputs)], axis=0)
        label = np.eye(outputs)[ys[t]]
        np.testing.assert_allclose(logits[t], forward[:, 0], atol=2e-6)


def test_vsml_ignores_the_order_of_the_inputs():
    learner = vsml(CLASSES, VSMLConfig())
    theta, (xs, ys) = some_theta(learner), sequences(CLASSES)
    logits = run_of(learner)(theta, xs, ys)
    for order in ([2, 0, 1], [1, 0, 2]):
        np.testing.assert_allclose(run_of(learner)(theta, xs[:, jnp.array(order)], ys), logits, atol=1e-6)
    assert not np.allclose(run_of(learner)(theta, -xs, ys), logits, atol=1e-2)  # and not because it ignores the inputs


def test_vsml_permutes_its_logits_with_the_labels():
    learner = vsml(CLASSES, VSMLConfig())
    theta, (xs, ys) = some_theta(learner), sequences(CLASSES)
    logits = run_of(learner)(theta, xs, ys)
    for order in ([1, 2, 3, 0], [3, 1, 0, 2]):
        rename = jnp.array(order)  # label c is now called rename[c]
        np.testing.assert_allclose(run_of(learner)(theta, xs, rename[ys])[:, rename], logits, atol=1e-6)
    assert np.ptp(np.asarray(logits[-1])) > 1e-2  # and not because all labels are alike


def test_one_vsml_theta_fits_tasks_of_any_size():
    large = vsml(Signature(inputs=7, outputs=2, length=9), VSMLConfig())
    theta = some_theta(vsml(CLASSES, VSMLConfig()))
    xs, ys = sequences(large.signature)
    assert run_of(large)(theta, xs, ys).shape == (9, 2)


@pytest.mark.parametrize("name", ["lstm", "outer_lstm", "vsml"])
def test_gradient_descent_makes_it_learn_a_one_bit_task_in_context(name):
    """x is +1 or -1 and its label is x's sign or, in half of the sequences, the opposite: one example tells which."""
    signature = Signature(inputs=1, outputs=2, length=6)
    learner = {
        "lstm": lstm(signature, LSTMConfig(hidden=16)),
        "outer_lstm": outer_lstm(signature, OuterLSTMConfig(hidden=8)),
        "vsml": vsml(signature, VSMLConfig()),
    }[name]
    rng, optimizer = np.random.default_rng(0), optax.adam(1e-2)
    positive, flipped = rng.random((150, 64, 6)) < 0.5, rng.random((150, 64, 1)) < 0.5
    xs, ys = np.where(positive, 1.0, -1.0).astype(np.float32)[..., None], (positive ^ flipped).astype(np.int32)

    def loss(theta: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        return prediction_loss(run_of(learner)(theta, xs, ys), ys)[:, 1:].mean()  # the first label cannot be known

    def step(carry: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        theta, state = carry
        value, grad = jax.value_and_grad(loss)(theta, *batch)
        updates, state = optimizer.update(grad, state)
        return (optax.apply_updates(theta, updates), state), value

    theta = jax.jit(learner.init)(jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"):  # optax's bias correction takes a float to an integer power
        _, losses = jax.jit(lambda *args: jax.lax.scan(step, *args))((theta, optimizer.init(theta)), (xs, ys))
    assert losses[0] > 0.6 and losses[-20:].mean() < 0.1  # ln 2 = 0.69 is chance


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: lstm(CLASSES, LSTMConfig(hidden=0)), "^hidden must be a whole number from 1 .*got 0"),
        (lambda: lstm(CLASSES, LSTMConfig(token="pairs")), "'pairs'"),  # pyright: ignore
        (lambda: outer_lstm(CLASSES, OuterLSTMConfig(heads=0)), "^heads must be .*got 0"),
        (lambda: outer_lstm(CLASSES, OuterLSTMConfig(token="x")), "'x'"),  # pyright: ignore
        (lambda: lstm(CLASSES, LSTMConfig(7, "pair", "matching")), "pair.*4 of them, hidden of at least 8; .* and 7$"),
        (lambda: lstm(CLASSES, LSTMConfig(8, "paper", "matching")), "needs token=.pair.*got 'paper'"),
        (lambda: outer_lstm(CLASSES, OuterLSTMConfig(7, 1, "pair", "matching")), "hidden of at least 8; .* and 7$"),
        (lambda: outer_lstm(REAL, OuterLSTMConfig(9, 1, "pair", "matching")), "got 'pair', real labels and 9$"),
        (lambda: vsml(CLASSES, VSMLConfig(ticks=0)), "^ticks must be .*got 0"),
        (lambda: mlp(CLASSES, MLPConfig(hidden=-1)), "^hidden must be .*got -1"),
    ],
)
@pytest.mark.unchecked_types
def test_a_config_that_cannot_be_built_says_what_it_got(build, said):
    with pytest.raises(ValueError, match=said):
        build()
