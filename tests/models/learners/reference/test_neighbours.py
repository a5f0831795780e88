import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestCentroid

from metalearn.learner import Signature, predictions_in_order
from metalearn_models.learners.reference.neighbours import (
    UNSEEN,
    NearestNeighbourConfig,
    nearest_centroid,
    nearest_neighbour,
)

SIGNATURE = Signature(inputs=5, outputs=4, length=30)
BUILDERS = [nearest_neighbour, nearest_centroid]


def _episode(seed=0, length=30, classes=4):
    rng = np.random.default_rng(seed)
    xs = (rng.normal(size=(length, 5)) + 3).astype(np.float32)
    return xs, rng.integers(classes, size=length).astype(np.int32)


def _loop(learner, xs, ys):
    one = jax.jit(lambda xs, ys: predictions_in_order(learner, (), xs, ys, jax.random.key(0)))
    return np.asarray(one(jnp.asarray(xs), jnp.asarray(ys)))


def _run(learner, xs, ys):
    return np.asarray(jax.jit(lambda xs, ys: learner.run((), xs, ys))(jnp.asarray(xs), jnp.asarray(ys)))


def test_nearest_neighbour_is_scikit_learns_at_every_position():
    xs, ys = _episode()
    logits = _loop(nearest_neighbour(SIGNATURE), xs, ys)
    for n in range(1, 30):
        peer = KNeighborsClassifier(1).fit(xs[:n], ys[:n])
        distance, _ = peer.kneighbors(xs[n : n + 1])
        assert logits[n].argmax() == peer.predict(xs[n : n + 1])[0]
        np.testing.assert_allclose(logits[n].max(), -(distance[0, 0] ** 2), rtol=1e-5)


def test_nearest_neighbour_predicts_its_neighbours_real_value():
    signature = Signature(5, 1, 30, regression=True)
    xs, _ = _episode()
    ys = np.sin(xs.sum(1))
    learner = nearest_neighbour(signature)
    values = _loop(learner, xs, ys)
    assert values.shape == (30, 1) and values[0, 0] == 0
    expected = [KNeighborsRegressor(1).fit(xs[:n], ys[:n]).predict(xs[n : n + 1])[0] for n in range(1, 30)]
    np.testing.assert_array_equal(values[1:, 0], np.asarray(expected, np.float32))
    np.testing.assert_array_equal(values, _run(learner, xs, ys))


@pytest.mark.parametrize("ys", [(3, 1, 2, 0), (0, 2, 1, 3)])
def test_the_first_stored_of_equally_near_examples_gives_the_label(ys):
    xs = np.asarray([[3, 0, 0, 0, 0], [0, 3, 0, 0, 0], [0, 0, 3, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    learner = nearest_neighbour(SIGNATURE)
    ys = np.asarray(ys, np.int32)
    assert _loop(learner, xs, ys)[3].argmax() == ys[0]
    assert _run(learner, xs, ys)[3].argmax() == ys[0]


def test_nearest_centroid_is_scikit_learns_at_every_position():
    xs, ys = _episode()
    logits = _loop(nearest_centroid(SIGNATURE), xs, ys)
    for n in range(2, 30):
        if len(set(ys[:n].tolist())) < 2:
            continue
        with np.errstate(all="ignore"):  # it also divides by n - classes, for a variance unused here
            peer = NearestCentroid().fit(xs[:n], ys[:n])
        assert logits[n].argmax() == peer.predict(xs[n : n + 1])[0]
        distance = np.square(peer.centroids_ - xs[n]).sum(1)
        np.testing.assert_allclose(logits[n][peer.classes_], -distance, rtol=1e-4)


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("length", [30, 17])
def test_run_on_a_batch_equals_the_loop(builder, length):
    learner = builder(SIGNATURE)
    episodes = [_episode(seed, length) for seed in range(4)]
    xs, ys = np.stack([e[0] for e in episodes]), np.stack([e[1] for e in episodes])
    run = _run(learner, xs, ys)
    loop = np.stack([_loop(learner, *episode) for episode in episodes])
    np.testing.assert_allclose(run, loop, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(run.argmax(-1), loop.argmax(-1))


@pytest.mark.parametrize("builder", BUILDERS)
def test_run_reads_neither_the_future_nor_the_own_label(builder):
    learner = builder(SIGNATURE)
    xs, ys = _episode()
    later = np.arange(30)
    changed = _run(learner, xs + (later > 10)[:, None].astype(np.float32), np.where(later >= 10, (ys + 1) % 4, ys))
    np.testing.assert_array_equal(changed[:11], _run(learner, xs, ys)[:11])


@pytest.mark.parametrize("builder", BUILDERS)
def test_classes_are_equally_likely_before_any_example_and_masked_until_one_shows_them(builder):
    learner = builder(SIGNATURE)
    xs, _ = _episode()
    ys = np.full(30, 2, np.int32)
    for logits in (_loop(learner, xs, ys), _run(learner, xs, ys)):
        np.testing.assert_array_equal(logits[0], 0)
        assert (logits[1:, [0, 1, 3]] <= UNSEEN).all() and (logits[1:, 2] > -1e6).all()
        assert np.isfinite(logits).all()


def test_temperature_divides_the_logits_and_keeps_the_class():
    xs, ys = _episode()
    warm = _run(nearest_neighbour(SIGNATURE, NearestNeighbourConfig(temperature=10.0)), xs, ys)
    cold = _run(nearest_neighbour(SIGNATURE), xs, ys)
    np.testing.assert_array_equal(warm.argmax(-1), cold.argmax(-1))
    np.testing.assert_allclose(warm[20], cold[20] / 10, rtol=1e-5)


def test_a_full_memory_keeps_its_examples():
    learner = nearest_neighbour(SIGNATURE._replace(length=2))
    xs, ys = _episode(length=3)
    state = learner.start((), jax.random.key(0))
    for x, y in zip(xs, ys, strict=True):
        state = learner.observe((), state, jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_array_equal(state.xs, xs[:2])


def test_state_size_counts_the_numbers_kept():
    assert nearest_neighbour(SIGNATURE).state_size == 30 * 5 + 30
    assert nearest_centroid(SIGNATURE).state_size == 4 * 5 + 4


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(ValueError, match="regression"):
        nearest_centroid(Signature(5, 1, 30, regression=True))
    with pytest.raises(ValueError, match=r"^temperature must be .*got 0"):
        nearest_neighbour(SIGNATURE, NearestNeighbourConfig(temperature=0.0))
    xs, ys = _episode(length=31)
    with pytest.raises(ValueError, match="30 examples, got a sequence of 31"):
        _run(nearest_neighbour(SIGNATURE), xs, ys)
