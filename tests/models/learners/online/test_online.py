from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.learner import Signature, prediction_loss, predictions_in_order
from metalearn_models.learners.online import MAMLConfig, OnlineConfig, maml, maml_network, online_mlp, online_network
from metalearn_models.networks.network import Network

CLASSES = Signature(inputs=4, outputs=3, length=12)
REAL = Signature(inputs=4, outputs=1, length=12, regression=True)


@pytest.fixture(autouse=True)
def _optax_promotes():
    """Adam's bias correction in optax takes a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def _episode(signature, seed=0):
    rng = np.random.default_rng(seed)
    xs = jnp.asarray(rng.normal(size=(signature.length, signature.inputs)), jnp.float32)
    if signature.regression:
        return xs, jnp.sin(xs.sum(1))
    return xs, jnp.asarray(rng.integers(signature.outputs, size=signature.length), jnp.int32)


def _numpy_online(layers, xs, ys, regression, update):
    """Backpropagation by hand in float64: predict, then one `update(layers, grads)`, example after example."""
    layers = [(np.asarray(l["weight"], np.float64), np.asarray(l["bias"], np.float64)) for l in layers]  # noqa: E741
    outputs = []
    for x, y in zip(np.asarray(xs, np.float64), np.asarray(ys), strict=True):
        activations = [x]
        for weight, bias in layers[:-1]:
            activations.append(np.maximum(activations[-1] @ weight + bias, 0))
        out = activations[-1] @ layers[-1][0] + layers[-1][1]
        outputs.append(out)
        if regression:
            delta = 2 * (out - y)
        else:
            delta = np.exp(out - out.max())
            delta = delta / delta.sum() - np.eye(len(out))[y]
        grads = []
        for (weight, _), activation in zip(layers[::-1], activations[::-1], strict=True):
            grads.append((np.outer(activation, delta), delta))
            delta = (weight @ delta) * (activation > 0)
        layers = update(layers, grads[::-1])
    return np.stack(outputs)


def _numpy_sgd(rate):
    return lambda layers, grads: [
        tuple(p - rate * g for p, g in zip(layer, grad, strict=True)) for layer, grad in zip(layers, grads, strict=True)
    ]


def _numpy_adam(rate, epsilon_root=0.0):
    memory: dict[Any, Any] = {"t": 0}

    def one(name, p, g):
        m, v = memory.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        memory[name] = m, v
        corrected = v / (1 - 0.999 ** memory["t"])
        return p - rate * m / (1 - 0.9 ** memory["t"]) / (np.sqrt(corrected + epsilon_root) + 1e-8)

    def update(layers, grads):
        memory["t"] += 1
        return [
            tuple(one((i, j), layer[j], grad[j]) for j in range(2))
            for i, (layer, grad) in enumerate(zip(layers, grads, strict=True))
        ]

    return update


@pytest.mark.parametrize(
    "signature, hidden, optimizer",
    [(CLASSES, (7, 5), "adam"), (REAL, (7, 5), "sgd"), (CLASSES, (), "sgd"), (REAL, (), "adam")],
)
def test_online_training_is_backpropagation_written_out_in_numpy(signature, hidden, optimizer):
    learner = online_mlp(signature, OnlineConfig(hidden, optimizer, 0.05))
    xs, ys = _episode(signature)
    key = jax.random.key(3)
    params = learner.start((), key).params
    update = _numpy_sgd(0.05) if optimizer == "sgd" else _numpy_adam(0.05)
    expected = _numpy_online(params, xs, ys, signature.regression, update)
    np.testing.assert_allclose(jax.jit(lambda: predictions_in_order(learner, (), xs, ys, key))(), expected, atol=1e-4)


def test_maml_is_the_same_training_started_from_theta():
    learner = maml(CLASSES, MAMLConfig((6,), "adam", 0.05))
    theta = learner.init(jax.random.key(0))
    xs, ys = _episode(CLASSES)
    expected = _numpy_online(theta, xs, ys, False, _numpy_adam(0.05, epsilon_root=1e-8))
    run = jax.jit(lambda key: predictions_in_order(learner, theta, xs, ys, key))
    for key in (jax.random.key(1), jax.random.key(2)):  # whatever the sequence's key
        np.testing.assert_allclose(run(key), expected, atol=1e-4)


def test_the_meta_gradient_of_maml_is_the_closed_form_for_linear_regression():
    rate = 0.1
    learner = maml(REAL._replace(length=2), MAMLConfig((), "sgd", rate))
    theta = learner.init(jax.random.key(0))
    (xs, ys) = jax.tree.map(lambda a: a[:2], _episode(REAL))

    def loss(theta):
        return prediction_loss(predictions_in_order(learner, theta, xs, ys, jax.random.key(0)), ys).sum()

    gradient = jax.jit(jax.grad(loss))(theta)[0]
    z = np.concatenate([np.asarray(xs, np.float64), np.ones((2, 1))], 1)  # the bias is a weight of 1
    w = np.append(np.asarray(theta[0]["weight"][:, 0], np.float64), 0.0)
    error = z[0] @ w - float(ys[0])
    later = z[1] @ (w - rate * 2 * error * z[0]) - float(ys[1])
    expected = 2 * error * z[0] + 2 * later * (z[1] - 2 * rate * (z[1] @ z[0]) * z[0])
    np.testing.assert_allclose(np.append(gradient["weight"][:, 0], gradient["bias"]), expected, rtol=1e-4)


@pytest.mark.parametrize("optimizer, rate", [("sgd", 0.1), ("adam", 0.01)])
def test_the_meta_gradient_through_many_updates_agrees_with_finite_differences(optimizer, rate):
    learner = maml(CLASSES, MAMLConfig((16,), optimizer, rate))
    theta = learner.init(jax.random.key(0))
    xs, ys = _episode(CLASSES)

    @jax.jit
    def loss(theta):
        return prediction_loss(predictions_in_order(learner, theta, xs, ys, jax.random.key(0)), ys).sum()

    gradient = jax.jit(jax.grad(loss))(theta)
    norm = optax.tree.norm(gradient)
    along = jax.tree.map(lambda g: 0.003 * g / norm, gradient)
    slope = (loss(jax.tree.map(jnp.add, theta, along)) - loss(jax.tree.map(jnp.subtract, theta, along))) / 0.006
    np.testing.assert_allclose(norm, slope, rtol=0.03)


def test_the_meta_gradient_through_adam_is_finite_where_a_unit_is_dead():
    learner = maml(CLASSES, MAMLConfig((6,), "adam", 0.01))
    theta = learner.init(jax.random.key(0))
    theta[0]["bias"] = theta[0]["bias"].at[0].set(-1e3)
    xs, ys = _episode(CLASSES)

    def loss(theta):
        return prediction_loss(predictions_in_order(learner, theta, xs, ys, jax.random.key(0)), ys).sum()

    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jit(jax.grad(loss))(theta)))


def test_meta_learned_initial_weights_lower_the_loss_on_new_tasks():
    signature = Signature(2, 1, 8, regression=True)
    learner = maml(signature, MAMLConfig((16,), "sgd", 0.05))
    tx = optax.adam(0.01)

    def loss(theta, key):
        """Linear functions near one that all tasks share."""
        key_x, key_w = jax.random.split(key)
        xs = jax.random.normal(key_x, (64, 8, 2))
        weights = jnp.array([[2.0, -1.0]]) + 0.3 * jax.random.normal(key_w, (64, 2))
        ys = jnp.einsum("btd,bd->bt", xs, weights)
        values = jax.vmap(lambda xs, ys: predictions_in_order(learner, theta, xs, ys, key))(xs, ys)
        return prediction_loss(values, ys).mean()

    def step(carry, key):
        theta, memory = carry
        updates, memory = tx.update(jax.grad(loss)(theta, key), memory)
        return (optax.apply_updates(theta, updates), memory), None

    theta = learner.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 150)
    (trained, _), _ = jax.jit(lambda theta: jax.lax.scan(step, (theta, tx.init(theta)), keys))(theta)
    held_out = jax.random.key(2)
    score = jax.jit(loss)
    assert score(trained, held_out) < 0.25 * score(theta, held_out)


def test_every_sequence_gets_a_fresh_network():
    learner = online_mlp(CLASSES)
    first, second = (learner.start((), jax.random.key(k)).params[0]["weight"] for k in (0, 1))
    assert not jnp.allclose(first, second)
    np.testing.assert_array_equal(first, learner.start((), jax.random.key(0)).params[0]["weight"])


def test_any_network_and_any_optax_transformation_fit():
    signature = REAL
    network = Network(lambda key: jax.random.normal(key, (4,)), lambda w, x: (w @ x)[None])
    seen = []

    def record(updates, state, params=None, *, value, **extra):
        seen.append(value.shape)
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    tx = optax.chain(optax.GradientTransformationExtraArgs(lambda params: (), record), optax.clip(1.0))
    xs, ys = _episode(signature)
    w = np.asarray(jax.random.normal(jax.random.key(5), (4,)), np.float64)
    expected = []
    for x, y in zip(np.asarray(xs, np.float64), np.asarray(ys, np.float64), strict=True):
        expected.append(w @ x)
        w = w + np.clip(-0.1 * 2 * (w @ x - y) * x, -1, 1)
    got = predictions_in_order(online_network(signature, network, tx), (), xs, ys, jax.random.key(5))
    np.testing.assert_allclose(got[:, 0], expected, atol=1e-4)
    assert seen == [()]  # the loss, traced once
    theta = jax.random.normal(jax.random.key(5), (4,))
    got = predictions_in_order(maml_network(signature, network, tx), theta, xs, ys, jax.random.key(0))
    np.testing.assert_allclose(got[:, 0], expected, atol=1e-4)


def test_vmap_over_sequences_equals_one_at_a_time():
    learner = online_mlp(CLASSES, OnlineConfig((8,), "adam", 0.01))
    episodes = [_episode(CLASSES, seed) for seed in range(3)]
    xs, ys = jnp.stack([e[0] for e in episodes]), jnp.stack([e[1] for e in episodes])
    keys = jax.random.split(jax.random.key(0), 3)
    single = jax.jit(lambda xs, ys, key: predictions_in_order(learner, (), xs, ys, key))
    batched = jax.jit(jax.vmap(single))(xs, ys, keys)
    for b in range(3):
        np.testing.assert_allclose(batched[b], single(xs[b], ys[b], keys[b]), atol=1e-5)


def test_state_size_counts_weights_and_the_optimizers_moments():
    weights = 4 * 8 + 8 + 8 * 3 + 3
    assert online_mlp(CLASSES, OnlineConfig((8,), "sgd", 0.1)).state_size == weights
    assert online_mlp(CLASSES, OnlineConfig((8,), "adam", 0.1)).state_size == 3 * weights
    assert maml(CLASSES, MAMLConfig((8,), "adam", 0.1)).state_size == 3 * weights


@pytest.mark.unchecked_types
def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="'adams'"):
        online_mlp(CLASSES, OnlineConfig(optimizer="adams"))
    with pytest.raises(ValueError, match=r"^learning_rate must be a number above 0 .*got 0"):
        maml(CLASSES, MAMLConfig(learning_rate=0.0))
    with pytest.raises(ValueError, match=r"^hidden must be .*got \(0,\)"):
        online_mlp(CLASSES, OnlineConfig(hidden=(0,)))
