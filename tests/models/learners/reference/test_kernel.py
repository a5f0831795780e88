import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.kernel_ridge import KernelRidge

from metalearn.learner import Signature, predictions_in_order
from metalearn_models.learners.reference.kernel import KernelRidgeConfig, kernel_ridge


def _peer(xs, targets, x, width, penalty):
    """scikit-learn's, in float64, with the width that the examples so far decide."""
    xs, targets = np.asarray(xs, np.float64), np.asarray(targets, np.float64)
    scale = width * pdist(xs, "sqeuclidean").mean() if len(xs) > 1 else 1.0
    model = KernelRidge(kernel="rbf", gamma=1 / scale, alpha=penalty).fit(xs, targets - targets.mean(0))
    return targets.mean(0) + model.predict(np.asarray(x, np.float64)[None])[0]


def test_every_position_is_scikit_learns_for_one_hot_labels_and_real_ones():
    rng = np.random.default_rng(0)
    xs = (rng.normal(size=(24, 6)) + 1).astype(np.float32)
    ys = rng.integers(4, size=24).astype(np.int32)
    values = (xs @ rng.normal(size=6) + 5).astype(np.float32)
    cases = ((Signature(6, 4, 24), ys, np.eye(4)[ys]), (Signature(6, 1, 24, regression=True), values, values[:, None]))
    for signature, labels, targets in cases:
        learner = kernel_ridge(signature, KernelRidgeConfig(0.8, 0.1))
        found = np.asarray(jax.jit(lambda xs, ys, run=learner.run: run((), xs, ys))(xs, labels))
        np.testing.assert_array_equal(found[0], 0)
        for n in range(1, 24):
            np.testing.assert_allclose(found[n], _peer(xs[:n], targets[:n], xs[n], 0.8, 0.1), rtol=1e-4, atol=2e-5)


def test_neither_scale_nor_basis_of_the_inputs_matters():
    rng = np.random.default_rng(1)
    xs = (rng.normal(size=(20, 6)) + 2).astype(np.float32)
    moved = (7 * (xs - 3) @ np.linalg.qr(rng.normal(size=(6, 6)))[0]).astype(np.float32)
    ys = rng.integers(4, size=20).astype(np.int32)
    learner = kernel_ridge(Signature(6, 4, 20))
    found = jax.jit(lambda xs: learner.run((), xs, jnp.stack([ys, ys])))(np.stack([xs, moved]))
    np.testing.assert_allclose(found[1], found[0], atol=2e-4)
    assert np.ptp(found[0][-1]) > 0.05


def test_the_memory_is_as_long_as_a_sequence():
    rng = np.random.default_rng(2)
    xs, ys = rng.normal(size=(9, 3)).astype(np.float32), rng.integers(2, size=9).astype(np.int32)
    short, long = (kernel_ridge(Signature(3, 2, length)) for length in (6, 9))
    loop = jax.jit(lambda xs, ys: predictions_in_order(short, (), xs, ys, jax.random.key(0)))(xs, ys)
    run = jax.jit(lambda xs, ys: long.run((), xs, ys)[-1])
    last = run(np.concatenate([xs[:6], xs[8:]]), np.concatenate([ys[:6], ys[8:]]))
    np.testing.assert_allclose(loop[8], last, atol=2e-5)
    with pytest.raises(ValueError, match="the memory holds 6 examples, got a sequence of 9"):
        short.run((), jnp.asarray(xs), jnp.asarray(ys))


def test_state_size_counts_the_numbers_kept_but_their_count():
    learner = kernel_ridge(Signature(6, 4, 20))
    state = learner.start((), jax.random.key(0))
    assert learner.state_size == sum(leaf.size for leaf in jax.tree.leaves(state)) - 1


@pytest.mark.parametrize("field", ["width", "penalty"])
def test_what_is_not_positive_is_refused(field):
    with pytest.raises(ValueError, match=rf"^{field} must be a number above 0 .*got 0"):
        kernel_ridge(Signature(6, 4, 20), KernelRidgeConfig(**{field: 0.0}))
