from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.inner import unroll
from metalearn_models.networks.conv import conv
from metalearn_tasks.datasets import load
from metalearn_tasks.objectives.baselines import hand_designed_optimizer
from metalearn_tasks.objectives.neural_style import (
    Pair,
    digits_features,
    digits_network,
    feature_maps,
    gram_matrix,
    neural_style,
    style_targets,
)
from metalearn_tasks.objectives.objective import draw_start
from metalearn_tasks.objectives.training import training_loop

SHAPE = (6, 5, 2)
UNTRAINED = feature_maps(jax.jit(conv(SHAPE, (3, 4), 2).init)(jax.random.key(0)))
untrained = jax.jit(UNTRAINED)
untrained_targets = jax.jit(partial(style_targets, UNTRAINED), static_argnums=2)


def images(count, shape=SHAPE, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, *shape)), jnp.float32)


def test_the_gram_matrix_is_the_mean_product():
    maps = np.asarray(images(1)[0], np.float64)
    expected = np.zeros((2, 2))
    for i in range(6):
        for j in range(5):
            expected += np.outer(maps[i, j], maps[i, j]) / 30
    np.testing.assert_allclose(gram_matrix(jnp.asarray(maps, jnp.float32)), expected, rtol=1e-5)


def test_an_image_that_is_content_and_style_has_no_loss_and_no_gradient():
    image = images(1)
    objective = neural_style(UNTRAINED, SHAPE)
    problem = objective.draw(jax.random.key(0))
    batch = objective.sample(problem, untrained_targets(image, image), jax.random.key(0))
    slope = jax.jit(jax.value_and_grad(objective.loss, 1))
    loss, gradient = slope(problem, image[0], batch)
    assert loss < 1e-9
    assert jnp.abs(gradient).max() < 1e-4
    assert slope(problem, image[0] + 0.1, batch)[0] > 1e-3


def test_the_loss_is_that_of_gatys_with_sums_written_out():
    contents, styles, image = images(3), images(4, seed=1), images(1, seed=2)[0]
    objective = neural_style(UNTRAINED, SHAPE, 0, 0.7, 30.0, 0.2)
    targets = untrained_targets(contents, styles, 0)
    problem = Pair(jnp.float32(0.5), jnp.float32(0.99))  # the second of three contents, the last of four styles
    loss = jax.jit(objective.loss)(problem, image, objective.sample(problem, targets, jax.random.key(0)))

    def maps(x):
        return [np.asarray(m, np.float64).reshape(-1, m.shape[-1]).T for m in untrained(x)]

    content = 0.5 * ((maps(image)[0] - maps(contents[1])[0]) ** 2).sum()
    style = 0.0
    for f, s in zip(maps(image), maps(styles[3]), strict=True):
        n, m = f.shape
        style += ((f @ f.T - s @ s.T) ** 2).sum() / (4 * n**2 * m**2) / 2
    x = np.asarray(image, np.float64)
    rough = ((x[1:] - x[:-1]) ** 2).sum() + ((x[:, 1:] - x[:, :-1]) ** 2).sum()
    np.testing.assert_allclose(loss, 0.7 * content + 30 * style + 0.2 * rough, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        layers = jax.jit(conv(SHAPE, (3, 4), 2).init)(jax.random.key(0))
        features = feature_maps(jax.tree.map(lambda x: x.astype(jnp.float64), layers))
        content, style, image = (images(1, seed=s).astype(jnp.float64) for s in range(3))
        objective = neural_style(features, SHAPE, roughness_weight=0.1)
        pair = Pair(jnp.float64(0), jnp.float64(0))
        targets = jax.jit(lambda content, style: style_targets(features, content, style))(content, style)
        batch = objective.sample(pair, targets, jax.random.key(0))
        slope = jax.jit(jax.value_and_grad(lambda x: objective.loss(pair, x, batch)))
        gradient = np.asarray(slope(image[0])[1])
        for direction in np.random.default_rng(3).normal(size=(3, *SHAPE)):
            ahead, behind = (float(slope(image[0] + h * direction)[0]) for h in (1e-6, -1e-6))
            np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-6)


def test_the_bundled_features_are_those_of_a_network_that_reads_digits():
    data = load("digits")
    params = digits_network(jax.random.key(0), steps=200)
    logits = jax.jit(jax.vmap(conv((8, 8), (8, 16), 10).apply, (None, 0)))(params, jnp.asarray(data.test.inputs))
    assert (np.asarray(logits).argmax(1) == data.test.labels).mean() > 0.9
    first, second = jax.jit(feature_maps(params))(images(1, (16, 12, 1))[0])
    assert (first.shape, second.shape) == ((8, 6, 8), (4, 3, 16))
    with jax.numpy_rank_promotion("allow"):
        rows = np.asarray(second).mean((0, 1)) @ np.asarray(params[-1]["weight"]) + np.asarray(params[-1]["bias"])
    head = jax.jit(conv((16, 12), (8, 16), 10).apply)(params, images(1, (16, 12, 1))[0].ravel())
    np.testing.assert_allclose(head, rows, rtol=1e-4, atol=1e-5)


def test_runs_draw_pairs_of_their_own_and_adam_lowers_the_loss():
    features = digits_features(jax.random.key(0), (4,), steps=20)
    digits = jnp.asarray(load("digits").train.inputs[:12]).reshape(12, 8, 8, 1)
    data = jax.jit(lambda digits: style_targets(features, digits[:8], digits[8:]))(digits)
    objective = neural_style(features, (8, 8, 1), style_weight=10.0)
    pairs = jax.vmap(objective.draw)(jax.random.split(jax.random.key(1), 2000))
    for part, size in ((pairs.content, 8), (pairs.style, 4)):
        counts = np.bincount((np.asarray(part) * size).astype(int), minlength=size)
        assert np.abs(counts - 2000 / size).max() < 5 * (2000 / size) ** 0.5
    problem, image = draw_start(objective, jax.random.key(2))
    assert image.shape == (8, 8, 1)
    assert objective.sample(problem, data, jax.random.key(0)).grams[0].shape == (4, 4)
    loop = training_loop(objective, hand_designed_optimizer(lambda rate: optax.adam(rate)), 60)
    with jax.numpy_dtype_promotion("standard"):
        losses, _ = jax.jit(lambda keys: unroll(loop, jnp.float32(0.05), data, keys, 60))(
            jax.random.split(jax.random.key(3), 3)
        )
    assert (losses[:, -1] < 0.3 * losses[:, 0]).all()
    assert len(np.unique(np.asarray(losses[:, 0]))) == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: neural_style(UNTRAINED, (8, 8)), r"got \(8, 8\)"),
        (lambda: neural_style(UNTRAINED, (8, 0, 1)), r"each at least 1, got \(8, 0, 1\)"),
        (lambda: neural_style(UNTRAINED, SHAPE, style_weight=-1.0), "at least 0, got"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
