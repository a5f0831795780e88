import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from metalearn.learner import Signature, predictions_in_order
from metalearn_models.learners.reference.ridge import RidgeConfig, ridge


def _predictions(signature, penalty, xs, ys):
    learner = ridge(signature, RidgeConfig(penalty))
    one = jax.jit(lambda xs, ys: predictions_in_order(learner, (), xs, ys, jax.random.key(0)))
    return np.asarray(one(jnp.asarray(xs), jnp.asarray(ys)))


def _dense(xs, targets, x, penalty):
    """float64, and the intercept as one more column that the penalty leaves out."""
    xs, x = np.asarray(xs, np.float64), np.asarray(x, np.float64)
    design = np.concatenate([xs, np.ones((len(xs), 1))], 1)
    free = np.diag([penalty] * xs.shape[1] + [0.0])
    solution = np.linalg.solve(design.T @ design + free, design.T @ np.asarray(targets, np.float64))
    return np.append(x, 1.0) @ solution


def test_every_position_is_the_dense_solution_for_one_hot_labels():
    rng = np.random.default_rng(0)
    xs = (rng.normal(size=(40, 6)) + 1).astype(np.float32)
    ys = rng.integers(4, size=40).astype(np.int32)
    logits = _predictions(Signature(6, 4, 40), 0.7, xs, ys)
    np.testing.assert_array_equal(logits[0], 0)
    for n in range(1, 40):
        np.testing.assert_allclose(logits[n], _dense(xs[:n], np.eye(4)[ys[:n]], xs[n], 0.7), atol=2e-5)


def test_real_labels_get_scikit_learns_ridge():
    rng = np.random.default_rng(1)
    xs = rng.normal(size=(30, 6)).astype(np.float32)
    ys = (xs @ rng.normal(size=6) + 5).astype(np.float32)
    values = _predictions(Signature(6, 1, 30, regression=True), 2.0, xs, ys)
    assert values.shape == (30, 1)
    for n in (1, 2, 7, 29):
        peer = Ridge(alpha=2.0).fit(np.asarray(xs[:n], np.float64), np.asarray(ys[:n], np.float64))
        np.testing.assert_allclose(values[n, 0], peer.predict(np.asarray(xs[n : n + 1], np.float64))[0], rtol=1e-5)


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_float32_is_accurate_in_196_dimensions(penalty, spread):
    rng = np.random.default_rng(2)
    scales = np.arange(1, 197) ** -spread  # 1: an image-like spectrum, of condition number 4e4
    xs = rng.normal(size=(101, 196)) * scales * np.sqrt(196 / np.square(scales).sum())
    xs = (xs @ np.linalg.qr(rng.normal(size=(196, 196)))[0]).astype(np.float32)
    ys = rng.integers(10, size=101).astype(np.int32)
    logits = _predictions(Signature(196, 10, 101), penalty, xs, ys)
    for n in (10, 50, 100):
        dense = _dense(xs[:n], np.eye(10)[ys[:n]], xs[n], penalty)
        np.testing.assert_allclose(logits[n], dense, atol=2e-4)


def test_vmap_equals_one_sequence_at_a_time():
    rng = np.random.default_rng(3)
    learner = ridge(Signature(6, 4, 20))
    xs = jnp.asarray(rng.normal(size=(3, 20, 6)), jnp.float32)
    ys = jnp.asarray(rng.integers(4, size=(3, 20)), jnp.int32)
    single = jax.jit(lambda xs, ys: predictions_in_order(learner, (), xs, ys, jax.random.key(0)))
    batched = jax.jit(jax.vmap(single))(xs, ys)
    for b in range(3):
        np.testing.assert_allclose(batched[b], single(xs[b], ys[b]), atol=1e-5)


def test_state_size_counts_the_numbers_kept():
    learner = ridge(Signature(6, 4, 20))
    state = learner.start((), jax.random.key(0))
    assert learner.state_size == sum(leaf.size for leaf in jax.tree.leaves(state))


def test_a_penalty_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"^penalty must be a number above 0 .*got -1"):
        ridge(Signature(6, 4, 20), RidgeConfig(-1.0))
