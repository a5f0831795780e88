"""Regression families against NumPy evaluations of their tasks, closed-form moments, and their numbering."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn import learner
from metalearn.errors import UnknownNameError
from metalearn.inner import scan_steps
from metalearn_tasks.families._task_numbers import numbered_tasks
from metalearn_tasks.families.regression import RegressionConfig, network, regression

KINDS = ("linear", "sparse", "sinusoid", "network", "tree")


@functools.cache  # one compilation a configuration: they are most of the time of this file
def episodes(config, count=4000):
    """`count` episodes, each of its own task: tasks, xs[count, T, D], ys[count, T]."""
    family = regression(config)

    def one(key):
        key_task, key_episode = jax.random.split(key)
        task = family.sample((), key_task)
        return task, *family.episode((), task, key_episode)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)))


def same(a, b):
    """Equal up to the last bits, in which a compiled program may differ from another."""
    return all(np.allclose(x, y, rtol=1e-5) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def numpy_value(kind, task, x):
    """The function of one task at one input, in float64 and without looking at the library's code."""
    x = x.astype(np.float64)
    if kind in ("linear", "sparse"):
        return sum(w * xi for w, xi in zip(task.weights, x, strict=True))
    if kind == "sinusoid":
        return task.amplitude * math.sin(x[0] - task.phase)
    if kind == "network":
        return sum(a * max(0.0, float(np.dot(w, x))) for w, a in zip(task.hidden.T, task.output, strict=True))

    def descend(coordinates_by_level, leaves):
        """Split the tree at its root, recursively: each half of a level belongs to one subtree."""
        if not coordinates_by_level:
            return leaves.item()
        right = x[coordinates_by_level[0][0]] > 0
        halves = [np.split(level, 2)[int(right)] for level in coordinates_by_level[1:]]
        return descend(halves, np.split(leaves, 2)[int(right)])

    depth = int(math.log2(len(task.leaves)))
    return descend([task.coordinates[2**d - 1 : 2 ** (d + 1) - 1] for d in range(depth)], task.leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_equal_an_independent_numpy_evaluation_of_the_task(kind):
    tasks, xs, ys = episodes(RegressionConfig(kind, length=12))
    for i in range(20):
        task = jax.tree.map(lambda leaf, i=i: leaf[i], tasks)
        expected = [numpy_value(kind, task, x) for x in xs[i]]
        np.testing.assert_allclose(ys[i], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sequences_have_the_shapes_and_types_of_the_signature(kind):
    config = RegressionConfig(kind, length=12)
    width = 1 if kind == "sinusoid" else 20
    assert regression(config).signature == learner.Signature(width, 1, 12, regression=True)
    _, xs, ys = episodes(config)
    assert (xs.shape, xs.dtype, ys.shape, ys.dtype) == ((4000, 12, width), np.float32, (4000, 12), np.float32)


@pytest.mark.parametrize(
    ("kind", "second_moment"),
    [
        ("linear", 20.0),
        ("sparse", 3.0),
        (
            "sinusoid",
            (5.0**3 - 0.1**3) / (3 * 4.9) / 2,
        ),  # E[a^2] / 2, as p covers half a turn
        ("network", 20.0),
        ("tree", 1.0),
    ],
)
def test_labels_have_the_closed_form_second_moment(kind, second_moment):
    _, _, ys = episodes(RegressionConfig(kind, length=12))
    squares = np.square(ys.astype(np.float64)).mean(1)  # averaged within a task: only tasks are independent
    assert abs(squares.mean() - second_moment) < 4 * squares.std() / math.sqrt(len(squares))


def test_least_squares_recovers_a_noiseless_linear_task_after_d_examples_and_not_before():
    tasks, xs, ys = episodes(RegressionConfig("linear", inputs=8, length=12), 16)
    for w, x, y in zip(tasks.weights, xs.astype(np.float64), ys.astype(np.float64), strict=True):
        estimate = np.linalg.lstsq(x[:8], y[:8], rcond=None)[0]
        np.testing.assert_allclose(estimate, w, atol=1e-6 * np.linalg.cond(x[:8]))
        np.testing.assert_allclose(x[8:] @ estimate, y[8:], atol=1e-5 * np.linalg.cond(x[:8]))
        short = np.linalg.lstsq(x[:7], y[:7], rcond=None)[0]
        assert np.abs(short - w).max() > 1e-3


@pytest.mark.parametrize("nonzeros", [1, 3])
def test_sparse_weights_have_k_nonzeros_at_uniformly_random_places(nonzeros):
    config = RegressionConfig("sparse", nonzeros=nonzeros, length=12)
    tasks, _, _ = episodes(config)
    support = tasks.weights != 0
    assert np.all(support.sum(1) == nonzeros)
    p = nonzeros / 20
    assert np.all(np.abs(support.mean(0) - p) <= 5 * math.sqrt(p * (1 - p) / 4000))


def test_sinusoids_cover_the_ranges_of_the_paper():
    tasks, xs, _ = episodes(RegressionConfig("sinusoid", length=12))
    for values, low, high in ((tasks.amplitude, 0.1, 5.0), (tasks.phase, 0.0, math.pi), (xs, -5.0, 5.0)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high


def test_noise_is_what_it_adds_to_the_noiseless_labels():
    _, xs, ys = episodes(RegressionConfig("tree", length=12))
    _, xs_noisy, ys_noisy = episodes(RegressionConfig("tree", length=12, noise=0.5))
    np.testing.assert_array_equal(xs, xs_noisy)
    added = ys_noisy - ys
    assert abs(added.mean()) < 4 * 0.5 / math.sqrt(added.size)
    assert abs(added.std() - 0.5) < 4 * 0.5 / math.sqrt(2 * added.size)
    assert abs(np.corrcoef(added[:, :-1].ravel(), added[:, 1:].ravel())[0, 1]) < 4 / math.sqrt(added.size)


def test_a_numbered_task_is_the_same_every_time_and_changes_with_the_seed():
    first, again, other = (regression(RegressionConfig("tree", num_tasks=16, seed=s)) for s in (3, 3, 4))
    assert same(first.seen((), 5), again.seen((), jnp.int32(5)))
    assert same(first.unseen((), 5), again.unseen((), jnp.int32(5)))
    assert not same(first.seen((), 5), first.seen((), 6))
    assert not same(first.seen((), 5), other.seen((), 5))
    assert not same(first.unseen((), 5), other.unseen((), 5))
    assert same(first.seen((), 5), first.seen((), 21)), "seen never leaves the tasks of meta-training"


def test_a_task_is_drawn_from_the_key_folded_with_its_number():
    family = regression(RegressionConfig("network", inputs=3, hidden=4, num_tasks=10, seed=7))
    draw = network(3, 4).draw
    assert same(family.seen((), 2), draw(jax.random.fold_in(jax.random.key(7), 2)))
    assert same(family.unseen((), 0), draw(jax.random.fold_in(jax.random.key(7), np.uint32(2**32 - 1))))


def numbers(num_tasks, samples=2000, seed=0):
    """Sampled, seen and unseen tasks, where a task is the key it would be drawn from: [count, 2] integers."""
    sample, seen, unseen = numbered_tasks(lambda data, key: jax.random.key_data(key), num_tasks, seed)
    sampled = jax.vmap(sample, (None, 0))((), jax.random.split(jax.random.key(1), samples))
    all_seen = None if seen is None else jax.vmap(seen, (None, 0))((), jnp.arange(num_tasks))
    return np.asarray(sampled), all_seen, np.asarray(jax.vmap(unseen, (None, 0))((), jnp.arange(1000)))


@pytest.mark.parametrize("num_tasks", [1, 2, 13])
def test_sample_draws_every_seen_task_equally_often_and_no_other(num_tasks):
    sampled, seen, unseen = numbers(num_tasks)
    matches = (sampled[:, None] == np.asarray(seen)[None]).all(-1)
    assert np.all(matches.sum(1) == 1)
    p = 1 / num_tasks
    assert np.all(np.abs(matches.mean(0) - p) <= 5 * math.sqrt(p * (1 - p) / len(sampled)))
    assert not (unseen[:, None] == np.asarray(seen)[None]).all(-1).any()
    assert len(np.unique(unseen, axis=0)) == len(unseen)


def test_without_a_number_of_tasks_every_task_is_new_and_none_is_seen():
    sampled, seen, unseen = numbers(None)
    assert seen is None
    assert len(np.unique(np.concatenate([sampled, unseen]), axis=0)) == len(sampled) + len(unseen)


def test_the_last_unseen_task_of_the_largest_family_is_the_number_minus_2_to_the_31():
    _, seen, unseen = numbered_tasks(lambda data, key: jax.random.key_data(key), 2**31 - 1, seed=0)
    key = jax.random.key(0)
    assert seen is not None
    last_unseen = jax.random.key_data(jax.random.fold_in(key, np.uint32(2**31)))
    last_seen = jax.random.key_data(jax.random.fold_in(key, np.uint32(2**31 - 2)))
    np.testing.assert_array_equal(unseen((), 2**31 - 1), last_unseen)
    np.testing.assert_array_equal(seen((), 2**31 - 2), last_seen)


def test_an_inner_loop_on_a_regression_family_charges_the_zero_predictor_the_squared_label():
    family = regression(RegressionConfig("linear", inputs=4, length=5))
    zero = learner.Learner(
        init=lambda key: (),
        start=lambda theta, key: (),
        predict=lambda theta, state, x: jnp.zeros(1),
        observe=lambda theta, state, x, y: state,
        run=None,
        state_size=0,
        signature=family.signature,
    )
    loop = learner.inner_loop(zero, family)
    state = loop.init((), (), jax.random.key(0))
    (_, ys), _ = state
    _, losses, _ = scan_steps(loop, (), state, jnp.int32(0), 5, jax.random.key(1), ())
    np.testing.assert_allclose(losses, np.square(ys[0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RegressionConfig("sinusoid", inputs=20), "inputs must be 1 or None for sinusoids, got 20"),
        (RegressionConfig("sparse", inputs=2), "between 1 and the 2 inputs, got 3"),
        (RegressionConfig("linear", inputs=0), "inputs must be at least 1, got 0"),
        (RegressionConfig("network", hidden=0), "hidden must be at least 1, got 0"),
        (RegressionConfig("tree", depth=17), "depth must be between 1 and 16"),
        (RegressionConfig(length=0), "length must be at least 1, got 0"),
        (RegressionConfig(noise=-1.0), "at least 0, got -1.0"),
        (RegressionConfig(num_tasks=0), "num_tasks must be between 1 and"),
        (RegressionConfig(num_tasks=2**31), "got 2147483648"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_what_was_got(config, message):
    with pytest.raises(ValueError, match=message):
        regression(config)


def test_an_unknown_kind_is_refused_with_the_nearest_name():
    config = RegressionConfig()
    object.__setattr__(config, "kind", "netwrk")  # past the run-time type checker, when it is on
    with pytest.raises(UnknownNameError, match="Did you mean 'network'"):
        regression(config)
