import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, log_softmax
from sklearn.datasets import make_moons

from metalearn.inner import unroll
from metalearn_models.optimizers import LearnedOptimizer
from metalearn_tasks.datasets import Split, load
from metalearn_tasks.objectives.classification import (
    conv_classification,
    layer_norm_classification,
    mlp_classification,
    moons,
    two_moons,
)
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.training import training_loop

DESCENT = LearnedOptimizer(lambda key: (), lambda theta, num_steps=None: optax.sgd(theta))


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def batch_of(count, inputs, classes):
    rng = np.random.default_rng(0)
    labels = jnp.asarray(rng.integers(classes, size=count), jnp.int32)
    return Split(jnp.asarray(rng.normal(size=(count, inputs)), jnp.float32), labels)


def cross_entropy(logits, labels):
    return -log_softmax(logits, 1)[np.arange(len(labels)), np.asarray(labels)].mean()


def test_sigmoids_and_a_scale_give_the_network_of_andrychowicz():
    objective = mlp_classification(6, 20, 3, batch=7, activation=jax.nn.sigmoid, scale=0.01)
    many = jax.jit(jax.vmap(lambda k: objective.init((), k)))(jax.random.split(jax.random.key(1), 300))
    for leaf in jax.tree.leaves(many):
        assert abs(((leaf / 0.01) ** 2).mean() - 1) < 5 * (2 / leaf.size) ** 0.5
        assert abs(leaf.mean() / 0.01) < 5 / leaf.size**0.5
    params = jax.tree.map(lambda x: 100 * x[0], many)
    batch = batch_of(7, 6, 3)
    first, second = wide(params)
    hidden = expit(wide(batch.inputs) @ first["weight"] + first["bias"])
    expected = cross_entropy(hidden @ second["weight"] + second["bias"], batch.labels)
    np.testing.assert_allclose(jax.jit(objective.loss)((), params, batch), expected, rtol=1e-5)


def test_layer_normalisation_is_that_of_the_formula():
    objective = layer_norm_classification(6, (5, 4), 3, activation=jnp.tanh)
    params = jax.jit(objective.init)((), jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    batch = batch_of(7, 6, 3)
    x = wide(batch.inputs)
    for layer in wide(params[:-1]):
        x = x @ layer["weight"]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        x = np.tanh(layer["gain"] * x + layer["bias"])
    expected = cross_entropy(x @ wide(params[-1]["weight"]) + wide(params[-1]["bias"]), batch.labels)
    np.testing.assert_allclose(jax.jit(objective.loss)((), params, batch), expected, rtol=1e-5)


def test_moons_are_those_of_scikit_learn():
    points, labels = make_moons(2000, shuffle=False, noise=None)
    draw = jax.jit(moons, static_argnums=1)
    ours = draw(jax.random.key(0), 2000, 0.0)
    for label in (0, 1):
        reference, found = points[labels == label], np.asarray(ours.inputs)[np.asarray(ours.labels) == label]
        assert abs(len(found) - 1000) < 5 * 500**0.5
        distance = np.sqrt(((found[:, None] - reference[None]) ** 2).sum(-1))
        assert distance.min(1).max() < np.pi / 999  # every point of ours is between two of theirs
        assert distance.min(0).max() < 0.05  # and no stretch of theirs is empty
    noisy = draw(jax.random.key(0), 2000, 0.2)
    assert abs(((noisy.inputs - ours.inputs) ** 2).mean() / 0.04 - 1) < 5 * (2 / 4000) ** 0.5
    np.testing.assert_array_equal(noisy.labels, ours.labels)


def test_a_run_on_moons_sees_its_own_moons_only():
    objective = two_moons(8, examples=20, batch=30)
    start = jax.jit(lambda key: draw_start(objective, key))
    problem, params = start(jax.random.key(0))
    other, _ = start(jax.random.key(1))
    assert not np.isin(np.asarray(other.inputs), np.asarray(problem.inputs)).any()
    batch = objective.sample(problem, (), jax.random.key(2))
    rows = [np.flatnonzero((np.asarray(problem.inputs) == x).all(1)) for x in np.asarray(batch.inputs)]
    np.testing.assert_array_equal(batch.labels, np.asarray(problem.labels)[np.concatenate(rows)])
    x = wide(batch.inputs)
    first, last = wide(params)
    logits = np.tanh(x @ first["weight"] + first["bias"]) @ last["weight"] + last["bias"]
    loss = jax.jit(objective.loss)(problem, params, batch)
    np.testing.assert_allclose(loss, cross_entropy(logits, batch.labels), rtol=1e-5)


@pytest.mark.parametrize(
    ("objective", "rate", "reached"),
    [
        (two_moons(batch=32), 0.5, 0.2),
        (conv_classification((8, 8), (4, 8), batch=32), 1.0, 1.2),
        (layer_norm_classification(64, 16, 10, batch=32), 0.3, 0.6),
    ],
)
def test_gradient_descent_learns_to_classify(objective, rate, reached):
    data = load("digits").train
    losses, _ = jax.jit(lambda keys: unroll(training_loop(objective, DESCENT, 100), rate, data, keys, 100))(
        jax.random.split(jax.random.key(0), 2)
    )
    assert losses[:, 0].mean() > 0.6
    assert losses[:, -20:].mean() < reached


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: two_moons(examples=0), "examples must be at least 1, got 0"),
        (lambda: two_moons(noise=-0.1), "noise must be at least 0, got -0.1"),
        (lambda: mlp_classification(6, 5, 3, scale=-1.0), "at least 0, got -1.0"),
        (lambda: conv_classification((8,)), r"\(H, W, C\), all at least one, got \(8,\)"),
        (lambda: conv_classification((8, 0)), r"got \(8, 0\)"),
        (lambda: conv_classification((8, 8), kernel=0), "at least one"),
        (lambda: layer_norm_classification(8, 0, 3), "at least one unit"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
