"""The synthetic prior: its labels re-derived in NumPy from the task's parameters, its moments, its distributions."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.errors import UnknownNameError
from metalearn.learner import Signature
from metalearn_tasks.families.synthetic import TAIL, TEACHERS, SyntheticConfig, draw_task, synthetic

TASKS, T, D, C = 2000, 64, 16, 10


@pytest.fixture(scope="module")
def drawn():
    """Tasks, xs[TASKS, T, D] and ys[TASKS, T] of the default prior: one compilation for the whole file."""
    family = synthetic(SyntheticConfig(length=T))

    def one(key):
        key_task, key_episode = jax.random.split(key)
        task = family.sample((), key_task)
        return task, *family.episode((), task, key_episode)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), TASKS)))


def pick(tasks, i):
    return jax.tree.map(lambda leaf: leaf[i], tasks)


def classes_of(task, ys):
    """Classes from labels: the inverse of the naming."""
    return np.argsort(task.names)[ys]


def teacher_class(task, x):
    """Class of one input from the definition of the teacher, in float64, and how far it is from another class."""
    kind = TEACHERS[task.teacher]
    if kind == "tree":
        node = 0
        while node < len(task.tree.splits):
            node = 2 * node + (2 if x[task.tree.coordinates[node]] > task.tree.splits[node] else 1)
        return task.tree.leaves[node - len(task.tree.splits)], math.inf
    f = (lambda h: h, lambda h: max(h, 0.0), math.tanh, lambda h: h * h)[task.network.activation]
    units = [f(float(b + w @ x)) for w, b in zip(task.network.hidden.T.astype(float), task.network.bias, strict=True)]
    outputs = np.asarray(units) @ task.network.output.astype(float) + task.network.shift
    if kind == "argmax":
        ranked = np.argsort(outputs[: task.num_classes])
        return ranked[-1], outputs[ranked[-1]] - outputs[ranked[-2]]
    above = [outputs[0] > t for t in task.network.thresholds[: task.num_classes - 1]]
    return sum(above), min(abs(outputs[0] - t) for t in task.network.thresholds[: task.num_classes - 1])


@pytest.mark.parametrize("teacher", ["argmax", "score", "tree"])
def test_without_noise_the_label_is_the_teachers_function_of_the_input(drawn, teacher):
    tasks, xs, ys = drawn
    chosen = np.flatnonzero((tasks.teacher == TEACHERS.index(teacher)) & (tasks.noise == 0))[:40]
    compared = 0
    for i in chosen:
        task = pick(tasks, i)
        for x, c in zip(xs[i].astype(float), classes_of(task, ys[i]), strict=True):
            expected, margin = teacher_class(task, x)
            if margin > 1e-3:  # closer than that, float32 may fall on the other side
                assert c == expected
                compared += 1
    assert compared > 0.99 * len(chosen) * T


def test_noise_replaces_the_label_with_the_probability_of_its_task(drawn):
    tasks, xs, ys = drawn
    chosen = np.flatnonzero((TEACHERS.index("tree") == tasks.teacher) & (tasks.noise > 0))[:100]
    changed, expected, variance = 0, 0.0, 0.0
    for i in chosen:
        task = pick(tasks, i)
        clean = np.array([teacher_class(task, x)[0] for x in xs[i]])
        changed += np.sum(classes_of(task, ys[i]) != clean)
        p = task.noise * (1 - 1 / task.num_classes)  # a random class may be the right one
        expected, variance = expected + p * T, variance + p * (1 - p) * T
    assert abs(changed - expected) < 4 * math.sqrt(variance)


def test_half_of_the_tasks_have_no_noise_and_the_others_up_to_the_largest(drawn):
    noise = drawn[0].noise
    assert abs(np.mean(noise == 0) - 0.5) < 4 * math.sqrt(0.25 / TASKS)
    assert noise.min() == 0 and 0.195 < noise.max() <= 0.2


def test_labels_are_below_the_number_of_classes_and_named_by_a_random_injection(drawn):
    tasks, xs, ys = drawn
    assert (xs.dtype, ys.dtype, xs.shape, ys.shape) == (np.float32, np.int32, (TASKS, T, D), (TASKS, T))
    assert ys.min() == 0 and ys.max() == C - 1
    np.testing.assert_array_equal(np.sort(tasks.names, axis=1), np.tile(np.arange(C), (TASKS, 1)))
    classes = np.take_along_axis(np.argsort(tasks.names, axis=1), ys, axis=1)
    assert np.all(classes < tasks.num_classes[:, None])
    assert_uniform(tasks.names[:, 0], range(C))


def assert_uniform(values, support):
    """Each value of the support as frequent as the next, within 4.5 standard errors, and no other."""
    support = list(support)
    p = 1 / len(support)
    frequencies = np.array([np.mean(values == v) for v in support])
    assert math.isclose(frequencies.sum(), 1.0)
    assert np.all(np.abs(frequencies - p) < 4.5 * math.sqrt(p * (1 - p) / len(values)))


def test_classes_teachers_shapes_and_relevant_inputs_are_uniformly_distributed(drawn):
    tasks, _, _ = drawn
    assert_uniform(tasks.num_classes, range(2, C + 1))
    assert_uniform(tasks.teacher, range(4))
    assert_uniform(tasks.inputs.shape, range(3))
    assert_uniform(tasks.inputs.clusters, range(1, 4))
    assert_uniform(tasks.network.activation, range(4))
    relevant = (tasks.network.hidden != 0).any(2)
    assert_uniform(relevant.sum(1), range(1, D + 1))
    assert np.all(np.take_along_axis(relevant, tasks.tree.coordinates, axis=1)), "a tree asks relevant inputs only"


def test_every_task_has_mean_0_and_unit_global_variance_by_its_parameters(drawn):
    tasks, _, _ = drawn
    for i in range(200):
        task = pick(tasks, i)
        inputs, k = task.inputs, task.inputs.clusters
        mean, square = np.zeros(D), 0.0
        for c in range(task.num_classes):
            for j in range(k):
                weight, centre = float(task.proportions[c]) / k, inputs.centres[c, j] @ inputs.mixing.astype(float)
                spread = inputs.spreads[c][:, None] * inputs.mixing.astype(float)
                mean += weight * centre
                square += weight * (centre @ centre + np.trace(spread.T @ spread))
        np.testing.assert_allclose(mean, 0.0, atol=1e-5)
        np.testing.assert_allclose(square, D, rtol=1e-4)


def test_drawn_inputs_have_mean_0_and_unit_global_variance(drawn):
    xs = drawn[1].astype(np.float64)
    for values, expected in ((xs.mean((1, 2)), 0.0), (np.square(xs).mean((1, 2)), 1.0)):
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(TASKS)


@pytest.mark.parametrize("clustered", [True, False])
@pytest.mark.parametrize(
    ("shape", "kurtosis"),
    [
        (0, 3.0),
        # E[sinh(az)^4] / E[sinh(az)^2]^2 from E[cosh(bz)] = exp(b^2 / 2)
        (1, (math.exp(8 * TAIL**2) - 4 * math.exp(2 * TAIL**2) + 3) / 2 / (math.exp(2 * TAIL**2) - 1) ** 2),
        (2, 9 / 5),
    ],
)
def test_an_input_is_centre_plus_spread_times_z_of_the_shape_of_its_task(drawn, shape, kurtosis, clustered):
    tasks, xs, ys = drawn
    is_clusters = tasks.teacher == TEACHERS.index("clusters")
    wanted = (tasks.inputs.clusters == 1) & is_clusters & (tasks.noise == 0) if clustered else ~is_clusters
    chosen = np.flatnonzero((tasks.inputs.shape == shape) & wanted)
    assert len(chosen) >= 10
    zs = []
    for i in chosen:
        task = pick(tasks, i)
        latent = np.linalg.solve(task.inputs.mixing.T.astype(float), xs[i].T.astype(float)).T
        c = classes_of(task, ys[i])
        if not clustered:
            assert not task.inputs.centres.any() and np.all(task.inputs.spreads == 1)
        zs.append((latent - task.inputs.centres[c, 0]) / task.inputs.spreads[c])
    z = np.concatenate(zs).ravel()
    for power, expected in ((1, 0.0), (2, 1.0), (4, kurtosis)):
        assert abs(np.mean(z**power) - expected) < 4.5 * np.std(z**power) / math.sqrt(z.size), power
    if shape == 2:
        assert np.abs(z).max() < math.sqrt(3) + 0.02


def test_the_clusters_of_a_class_in_use_are_equally_frequent(drawn):
    tasks, xs, ys = drawn
    chosen = (tasks.teacher == TEACHERS.index("clusters")) & (tasks.noise == 0) & (tasks.inputs.clusters > 1)
    squares = []
    for i in np.flatnonzero(chosen):
        task = pick(tasks, i)
        used = task.inputs.centres[:, : task.inputs.clusters].astype(float)
        c = classes_of(task, ys[i])
        latent = np.linalg.solve(task.inputs.mixing.T.astype(float), xs[i].T.astype(float)).T
        variance = used.var(1) + np.square(task.inputs.spreads.astype(float))  # of the mixture that is a class
        deviation = ((latent - used.mean(1)[c]) / np.sqrt(variance[c])).sum(0) / math.sqrt(T)
        squares.append(np.mean(np.square(deviation)))
    assert abs(np.mean(squares) - 1) < 4 * np.std(squares) / math.sqrt(len(squares))


def test_clusters_are_as_frequent_as_the_proportions_say(drawn):
    tasks, _, ys = drawn
    chosen = (tasks.teacher == TEACHERS.index("clusters")) & (tasks.noise == 0)
    classes = np.take_along_axis(np.argsort(tasks.names, axis=1), ys, axis=1)[chosen]
    p = tasks.proportions[chosen]
    frequency = np.stack([(classes == c).mean(1) for c in range(C)], axis=1)
    deviation = (frequency - p) / np.sqrt(np.maximum(p * (1 - p) / T, 1e-12))
    assert np.all(frequency[p == 0] == 0)
    deviation = deviation[p > 0]
    assert abs(np.mean(deviation**2) - 1) < 4 * np.std(deviation**2) / math.sqrt(deviation.size)


def test_a_nearest_neighbour_beats_chance_and_the_most_frequent_class_for_every_teacher(drawn):
    tasks, xs, ys = drawn
    squares = np.square(xs).sum(2)
    past = xs[:, :-16], ys[:, :-16]
    distance = squares[:, None, :-16] - 2 * np.einsum("nqd,npd->nqp", xs[:, -16:], past[0])
    nearest = np.take_along_axis(past[1], distance.argmin(2), axis=1)
    counts = np.eye(C)[past[1]].sum(1)
    for teacher in range(4):
        of = tasks.teacher == teacher
        right = (nearest == ys[:, -16:])[of].mean(1)
        frequent = (counts.argmax(1)[:, None] == ys[:, -16:])[of].mean(1)
        for gain in (right - 1 / tasks.num_classes[of], right - frequent):
            assert gain.mean() > 4 * gain.std() / math.sqrt(len(gain)), TEACHERS[teacher]
        assert right.mean() < 0.95, "too easy to be worth learning from"


def test_only_the_teachers_asked_for_are_drawn():
    config = SyntheticConfig(teachers=("tree", "clusters"))
    draw = jax.jit(jax.vmap(lambda key: draw_task(config, key).teacher))  # compiles no more than the teacher needs
    assert_uniform(np.asarray(draw(jax.random.split(jax.random.key(0), TASKS))), (0, 3))


def test_tasks_are_numbered_by_the_seed_and_unseen_ones_are_never_sampled():
    config = SyntheticConfig(classes=50, num_tasks=4, seed=2)
    family = synthetic(config)
    assert family.seen is not None

    def names(draw, arguments):
        """The tasks' 50 names, enough to tell them apart and cheap to compile."""
        return np.asarray(jax.jit(jax.vmap(lambda a: draw((), a).names))(arguments))[:, None]

    sampled = names(family.sample, jax.random.split(jax.random.key(0), 200))
    seen, unseen = names(family.seen, jnp.arange(8)), names(family.unseen, jnp.arange(100))
    key = jax.random.fold_in(jax.random.key(2), 3)
    np.testing.assert_array_equal(seen[3, 0], names(lambda _, k: draw_task(config, k), key[None])[0, 0])
    np.testing.assert_array_equal(seen[4:], seen[:4])
    is_seen = (sampled == seen[None, :4, 0]).all(2)
    assert np.all(is_seen.sum(1) == 1) and np.all(is_seen.any(0))
    assert not (unseen == seen[None, :4, 0]).all(2).any()
    assert len(np.unique(unseen[:, 0], axis=0)) == 100
    assert synthetic(SyntheticConfig()).seen is None


@pytest.mark.parametrize(("inputs", "classes", "length"), [(1, 2, 1), (5, 17, 3), (2, 1024, 2)])
def test_any_size_has_the_shapes_of_its_signature(inputs, classes, length):
    family = synthetic(SyntheticConfig(inputs, classes, length))
    assert family.signature == Signature(inputs, classes, length)
    key = jax.random.key(0)
    task = jax.eval_shape(family.sample, (), key)
    xs, ys = jax.eval_shape(family.episode, (), task, key)
    assert (xs.shape, xs.dtype, ys.shape, ys.dtype) == ((length, inputs), jnp.float32, (length,), jnp.int32)
    assert task.tree.leaves.size >= classes, "every class has a leaf"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": 1}, "2 to 1024 classes, got 16, 50 and 1"),
        ({"length": 0}, "got 16, 0 and 10"),
        ({"inputs": 0}, "got 0, 50 and 10"),
        ({"label_noise": 1.5}, "label_noise must be a probability, between 0 and 1, got 1.5"),
        ({"teachers": ()}, "teachers must have at least one of clusters, argmax"),
        ({"num_tasks": 0}, "num_tasks must be between 1 and"),
    ],
)
def test_a_setting_out_of_range_is_refused_with_what_was_got(settings, message):
    with pytest.raises(ValueError, match=message):
        synthetic(SyntheticConfig(**settings))


def test_an_unknown_teacher_is_refused_with_the_nearest_name():
    config = SyntheticConfig()
    object.__setattr__(config, "teachers", ("trees",))  # past the run-time type checker, when it is on
    with pytest.raises(UnknownNameError, match="Did you mean 'tree'"):
        synthetic(config)
