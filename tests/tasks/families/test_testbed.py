"""The neural testbed as a family: its teachers, its labels, and places that are visited again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_tasks.families import testbed as neural

KEY = jax.random.key(0)


def test_labels_are_drawn_from_the_teacher():
    family = neural.testbed(neural.TestbedConfig(length=4000, temperatures=(0.5,)))
    teacher = family.unseen((), 0)
    xs, ys = jax.jit(lambda: family.episode((), teacher, KEY))()
    probabilities = np.asarray(jax.nn.softmax(neural.teacher_logits(teacher, xs)))[:, 1]
    sure = probabilities * (1 - probabilities)
    assert abs((np.asarray(ys) - probabilities).sum()) < 4 * np.sqrt(sure.sum())
    np.testing.assert_allclose(np.asarray(xs).std(0), 1, atol=0.05)


def test_weights_and_temperatures_are_those_of_the_released_code():
    config = neural.TestbedConfig(inputs=4, temperatures=(0.01, 0.5))
    family = neural.testbed(config)
    teachers = jax.jit(jax.vmap(lambda i: family.unseen((), i)))(jnp.arange(200))
    assert set(np.unique(teachers.temperature)) == {np.float32(0.01), np.float32(0.5)}
    for leaf, fan_in in ((teachers.first, 4), (teachers.second, 50), (teachers.last, 50)):
        scaled = np.asarray(leaf) * np.sqrt(fan_in)
        assert np.abs(scaled).max() <= 2.0001
        np.testing.assert_allclose(scaled.std(), 0.8796, atol=0.01)
    np.testing.assert_allclose(np.asarray(teachers.bias).std(), 0.5, atol=0.02)
    # One hidden layer by hand, in NumPy.
    one = jax.tree.map(lambda leaf: np.asarray(leaf[3], np.float64), teachers)
    x = np.array([0.3, -1.0, 2.0, 0.1])
    hidden = np.maximum(np.maximum(x @ one.first + one.bias, 0) @ one.second, 0)
    found = neural.teacher_logits(jax.tree.map(lambda leaf: leaf[3], teachers), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, hidden @ one.last / one.temperature, rtol=1e-3)


def test_places_come_again_with_a_fresh_label():
    family = neural.testbed(neural.TestbedConfig(length=200, temperatures=(0.5,), repeats=0.7))
    xs, ys = map(np.asarray, jax.jit(lambda: family.episode((), family.unseen((), 1), KEY))())
    _, which = np.unique(xs, axis=0, return_inverse=True)
    assert 0.2 < len(set(which)) / 200 < 0.4
    labels = [set(ys[which == place]) for place in set(which)]
    assert any(len(found) == 2 for found in labels)
    assert len(np.unique(np.asarray(family.episode((), family.unseen((), 1), KEY)[0]), axis=0)) == len(set(which))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperatures": ()}, "temperatures must be positive numbers, at least one"),
        ({"temperatures": (0.0,)}, r"got \(0.0,\)"),
        ({"classes": 1}, "classes >= 2"),
        ({"repeats": 1.5}, "repeats must be a share"),
    ],
)
def test_what_is_no_testbed_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        neural.testbed(neural.TestbedConfig(**values))
