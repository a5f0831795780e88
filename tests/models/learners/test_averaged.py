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


def sequence():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(6, 4)), jnp.float32), jnp.asarray(rng.integers(0, 3, 6), jnp.int32)


def test_an_equivariant_learner_does_not_change():
    """Ridge regression commutes with rotations and permutations, so its average has the same order of classes."""
    learner = ridge(SIGNATURE, RidgeConfig())
    (xs, ys), key = sequence(), jax.random.key(1)

    @jax.jit
    def both():
        theta = learner.init(key)
        return [predictions_in_order(one, theta, xs, ys, key) for one in (learner, averaged(learner, 5))]

    logits, mean = both()
    plain = np.asarray(logits) - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(mean, plain, atol=2e-4)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def members_and_average(both, learner, rotation):
    """Logits for one input, plain and rotated, of a learner; and what its average over two members says of it."""
    x = jnp.asarray([0.3, -1.0, 0.5, 2.0])

    @jax.jit
    def predict(key):
        theta = learner.init(key)
        members = [learner.predict(theta, (), x), learner.predict(theta, (), x @ rotation)]
        return members, both.predict(theta, both.start(theta, key), x)

    return jax.tree.map(np.asarray, predict(jax.random.key(0)))


def test_the_average_is_of_probabilities_with_labels_named_back():
    learner = mlp(SIGNATURE, MLPConfig(hidden=8))
    # The generator's draws, taken again as the definition says: a rotation a member, then a permutation a member.
    rng = np.random.default_rng(3)
    q, r = np.linalg.qr(rng.normal(size=(4, 4)))
    rotation, permutation = (q * np.sign(np.diag(r))).astype(np.float32), rng.permutation(3)
    (first, second), found = members_and_average(averaged(learner, 2, seed=3), learner, rotation)
    wanted = (softmax(first) + softmax(second)[permutation]) / 2
    np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-4)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-6)


def test_only_outputs_that_are_classes_compete_within_each_member():
    """Each member's probabilities are over two of three outputs, and its third has none."""
    learner = mlp(SIGNATURE, MLPConfig(hidden=8))
    rng = np.random.default_rng(3)
    q, r = np.linalg.qr(rng.normal(size=(4, 4)))
    rotation, permutation = (q * np.sign(np.diag(r))).astype(np.float32), rng.permutation(3)
    (first, second), found = members_and_average(averaged(learner, 2, seed=3, classes=2), learner, rotation)
    wanted = (softmax(first[:2]) + softmax(second[permutation][:2])) / 2
    np.testing.assert_allclose(np.exp(found), [*wanted, 0.0], rtol=1e-4)
    with pytest.raises(ValueError, match="classes must be between 1 and the learner's 3 outputs, got 4"):
        averaged(learner, 2, classes=4)


def test_the_parallel_run_equals_the_loop():
    learner = averaged(transformer(SIGNATURE, TINY), 3)
    (xs, ys), run = sequence(), learner.run
    assert run is not None

    @jax.jit
    def both(key):
        theta = learner.init(key)
        return run(theta, xs[None, None], ys[None, None]), predictions_in_order(learner, theta, xs, ys, key)

    parallel, loop = both(jax.random.key(0))
    np.testing.assert_allclose(parallel[0, 0], loop, atol=1e-5)
    np.testing.assert_allclose(np.exp(loop).sum(-1), 1.0, rtol=1e-5)
    assert learner.state_size == 3 * transformer(SIGNATURE, TINY).state_size


def test_members_and_kind_of_label_are_checked():
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        averaged(transformer(SIGNATURE, TINY), 0)
    with pytest.raises(ValueError, match="needs a learner of classes"):
        averaged(ridge(Signature(4, 1, 6, regression=True), RidgeConfig()), 2)
