import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from metalearn.learner import Signature, predictions_in_order
from metalearn_models.learners.reference.logistic import LogisticConfig, logistic
from metalearn_models.learners.reference.neighbours import UNSEEN

pytestmark = pytest.mark.newer_loops


def _episodes(sequences, length, inputs, classes, seed=0):
    """Overlapping classes with means of their own, under a random linear map."""
    rng = np.random.default_rng(seed)
    ys = rng.integers(classes, size=(sequences, length))
    means = rng.normal(size=(sequences, classes, inputs))
    xs = np.take_along_axis(means, ys[..., None], 1) + rng.normal(size=(sequences, length, inputs))
    xs = xs @ (rng.normal(size=(sequences, inputs, inputs)) / inputs**0.5)
    return xs.astype(np.float32), ys.astype(np.int32)


def _probabilities(inputs, outputs, length, config, xs, ys):
    learner = logistic(Signature(inputs, outputs, length), config)
    one = lambda xs, ys: predictions_in_order(learner, (), xs, ys, jax.random.key(0))  # noqa: E731
    return np.asarray(jax.nn.softmax(jax.jit(jax.vmap(one))(jnp.asarray(xs), jnp.asarray(ys))))


def _peer(xs, ys, x, inverse_penalty):
    """scikit-learn's probabilities at `x` and the classes they are for."""
    xs = np.asarray(xs, np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = LogisticRegression(C=inverse_penalty, tol=1e-6, max_iter=2000).fit(xs, np.asarray(ys))
    return peer.predict_proba(np.asarray(x, np.float64)[None])[0], peer.classes_


@pytest.mark.parametrize("inputs, length, inverse_penalty", [(16, 51, 0.1), (16, 51, 10.0), (196, 61, 1.0)])
def test_probabilities_are_scikit_learns(inputs, length, inverse_penalty):
    xs, ys = _episodes(2, length, inputs, 10)
    config = LogisticConfig(inverse_penalty)
    ours = _probabilities(inputs, 10, length, config, xs, ys)
    for b in range(2):
        for n in (10, 20, length - 1):
            theirs, classes = _peer(xs[b, :n], ys[b, :n], xs[b, n], inverse_penalty)
            np.testing.assert_allclose(ours[b, n, classes], theirs, atol=1e-2)
            assert np.delete(ours[b, n], classes).sum() == 0


def test_two_classes_are_scikit_learns_at_twice_the_c():
    xs, ys = _episodes(1, 31, 6, 2)
    ours = _probabilities(6, 2, 31, LogisticConfig(1.0, iterations=50), xs, ys)
    theirs, _ = _peer(xs[0, :30], ys[0, :30], xs[0, 30], 2.0)
    np.testing.assert_allclose(ours[0, 30], theirs, atol=1e-3)


def test_the_gradient_of_the_penalised_loss_is_zero_at_the_fit():
    xs, ys = _episodes(1, 25, 8, 4)
    learner = logistic(Signature(8, 4, 25), LogisticConfig(0.5, iterations=100))
    observe = jax.jit(learner.observe)
    state = learner.start((), jax.random.key(0))
    for x, y in zip(xs[0], ys[0], strict=True):
        state = observe((), state, x, y)
    xs64, weights = (
        np.asarray(xs[0], np.float64),
        np.asarray(state.xs, np.float64).T @ np.asarray(state.dual, np.float64),
    )
    logits = xs64 @ weights + np.asarray(state.intercept)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True) - np.eye(4)[ys[0]]
    np.testing.assert_allclose(0.5 * xs64.T @ error + weights, 0, atol=1e-3)
    np.testing.assert_allclose(error.sum(0), 0, atol=1e-3)


def test_a_nearly_singular_gram_matrix_and_a_weak_penalty_stay_finite():
    rng = np.random.default_rng(0)
    xs = (5 * rng.normal(size=(2, 80, 3)) @ rng.normal(size=(3, 100))).astype(np.float32)
    xs[:, 1::2] = xs[:, ::2]
    ys = rng.integers(10, size=(2, 80)).astype(np.int32)
    ours = _probabilities(100, 10, 80, LogisticConfig(100.0), xs, ys)
    np.testing.assert_allclose(ours.sum(-1), 1, rtol=1e-5)


def test_classes_are_equally_likely_before_any_example_and_masked_until_one_shows_them():
    xs, _ = _episodes(1, 10, 6, 4)
    learner = logistic(Signature(6, 4, 10))
    logits = predictions_in_order(learner, (), jnp.asarray(xs[0]), jnp.full(10, 2, jnp.int32), jax.random.key(0))
    np.testing.assert_array_equal(logits[0], 0)
    assert (logits[1:, jnp.array([0, 1, 3])] == UNSEEN).all() and (logits[1:].argmax(-1) == 2).all()


def test_a_full_memory_keeps_its_fit():
    xs, ys = map(jnp.asarray, _episodes(1, 11, 6, 3))
    learner = logistic(Signature(6, 3, 10), LogisticConfig(1.0, iterations=100))
    state = learner.start((), jax.random.key(0))
    observe = jax.jit(learner.observe)
    for x, y in zip(xs[0, :10], ys[0, :10], strict=True):
        state = observe((), state, x, y)
    later = observe((), state, xs[0, 10], ys[0, 10])
    np.testing.assert_array_equal(later.inverse, state.inverse)
    np.testing.assert_allclose(learner.predict((), later, xs[0, 10]), learner.predict((), state, xs[0, 10]), atol=1e-3)


def test_state_size_counts_the_numbers_kept_without_the_counter():
    learner = logistic(Signature(6, 4, 20))
    state = learner.start((), jax.random.key(0))
    assert learner.state_size == sum(leaf.size for leaf in jax.tree.leaves(state)) - 1


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="regression"):
        logistic(Signature(5, 1, 30, regression=True))
    with pytest.raises(ValueError, match=r"^inverse_penalty must be .*got 0"):
        logistic(Signature(5, 3, 30), LogisticConfig(inverse_penalty=0.0))
