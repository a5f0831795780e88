"""Averaging over rotations and permutations against members written out one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import Signature
from metalearn.learner import predictions_in_order
from metalearn_models.learners.averaged import averaged
from metalearn_models.learners.contextless import MLPConfig, mlp
from metalearn_models.learners.reference.ridge import RidgeConfig, ridge
from metalearn_models.learners.transformer import TransformerConfig, transformer

SIGNATURE = Signature(inputs=4, outputs=3, length=6)
TINY = TransformerConfig(width=8, layers=1, heads=2, key_size=4, token="pair")


def sequence(seed=0):
    key_x, key_y = jax.random.split(jax.random.key(seed))
    return jax.random.normal(key_x, (6, 4)), jax.random.randint(key_y, (6,), 0, 3)


def test_an_equivariant_learner_does_not_change():
    """Ridge regression commutes with rotations and permutations, so its average has the same order of classes."""
    learner = ridge(SIGNATURE, RidgeConfig())
    (xs, ys), key = sequence(), jax.random.key(1)
    theta = learner.init(key)
    plain = jax.nn.log_softmax(predictions_in_order(learner, theta, xs, ys, key))
    mean = predictions_in_order(averaged(learner, 5), theta, xs, ys, key)
    np.testing.assert_allclose(mean, plain, atol=2e-4)


def test_the_average_is_of_probabilities_with_labels_named_back():
    learner = mlp(SIGNATURE, MLPConfig(hidden=8))
    theta = learner.init(jax.random.key(0))
    # The generator's draws, taken again as the definition says: a rotation a member, then a permutation a member.
    rng = np.random.default_rng(3)
    q, r = np.linalg.qr(rng.normal(size=(4, 4)))
    rotation, permutation = (q * np.sign(np.diag(r))).astype(np.float32), rng.permutation(3)
    x = jnp.asarray([0.3, -1.0, 0.5, 2.0])
    first = jax.nn.softmax(learner.predict(theta, (), x))
    second = jax.nn.softmax(learner.predict(theta, (), x @ rotation))[permutation]
    found = averaged(learner, 2, seed=3).predict(theta, averaged(learner, 2).start(theta, jax.random.key(0)), x)
    np.testing.assert_allclose(jnp.exp(found), (first + second) / 2, rtol=1e-4)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-6)


def test_only_outputs_that_are_classes_compete_within_each_member():
    """Each member's probabilities are over two of three outputs, and its third has none."""
    learner = mlp(SIGNATURE, MLPConfig(hidden=8))
    theta, x = learner.init(jax.random.key(0)), jnp.asarray([0.3, -1.0, 0.5, 2.0])
    rng = np.random.default_rng(3)
    q, r = np.linalg.qr(rng.normal(size=(4, 4)))
    rotation, permutation = (q * np.sign(np.diag(r))).astype(np.float32), rng.permutation(3)
    named = [learner.predict(theta, (), x), learner.predict(theta, (), x @ rotation)[permutation]]
    wanted = (jax.nn.softmax(named[0][:2]) + jax.nn.softmax(named[1][:2])) / 2
    both = averaged(learner, 2, seed=3, classes=2)
    found = jnp.exp(both.predict(theta, both.start(theta, jax.random.key(0)), x))
    np.testing.assert_allclose(found, [*wanted, 0.0], rtol=1e-4)
    with pytest.raises(ValueError, match="classes must be between 1 and the learner's 3 outputs, got 4"):
        averaged(learner, 2, classes=4)


def test_the_parallel_run_equals_the_loop():
    learner = averaged(transformer(SIGNATURE, TINY), 3)
    theta, (xs, ys) = learner.init(jax.random.key(0)), sequence()
    assert learner.run is not None
    loop = predictions_in_order(learner, theta, xs, ys, jax.random.key(0))
    np.testing.assert_allclose(learner.run(theta, xs[None, None], ys[None, None])[0, 0], loop, atol=1e-5)
    np.testing.assert_allclose(jnp.exp(loop).sum(-1), 1.0, rtol=1e-5)
    assert learner.state_size == 3 * transformer(SIGNATURE, TINY).state_size


def test_members_and_kind_of_label_are_checked():
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        averaged(transformer(SIGNATURE, TINY), 0)
    with pytest.raises(ValueError, match="needs a learner of classes"):
        averaged(ridge(Signature(4, 1, 6, regression=True), RidgeConfig()), 2)
