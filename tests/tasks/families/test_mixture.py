import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_tasks.families.mixture import mixture, reproject
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data, unprojected

KEYS = jax.random.split(jax.random.key(0), 400)


def _data(inputs, seed):
    rng = np.random.default_rng(seed)
    return projected_data(rng.standard_normal((40, inputs)), rng.integers(0, 5, 40))


def _parts():
    config = ProjectedConfig(length=8)
    return projected(6, 5, config), unprojected(6, 5, config), (_data(6, 0), _data(6, 1))


def test_a_mixture_draws_each_family_in_proportion_to_its_weight():
    images, tables, data = _parts()
    family = mixture((images, tables), (3.0, 1.0))
    chosen = jax.jit(jax.vmap(lambda k: family.sample(data, k).family))(KEYS)
    assert abs(float((chosen == 0).mean()) - 0.75) < 4 * (0.75 * 0.25 / len(KEYS)) ** 0.5
    never = mixture((images, tables), (0.0, 1.0))
    assert jnp.all(jax.jit(jax.vmap(lambda k: never.sample(data, k).family))(KEYS) == 1)


def test_an_episode_of_a_mixture_is_the_chosen_familys_own():
    images, tables, data = _parts()
    family = mixture((images, tables), (1.0, 1.0))

    @jax.jit
    def mixed(index, key):
        task = family.unseen(data, index)
        return task.family, family.episode(data, task, key)

    def alone(which):
        own = (images, tables)[which]
        return jax.jit(lambda index, key: own.episode(data[which], own.unseen(data[which], index), key))

    own_episodes, met = (alone(0), alone(1)), set()
    for index in range(12):
        which, episode = mixed(jnp.int32(index), KEYS[index])
        met.add(int(which))
        expected = own_episodes[int(which)](jnp.int32(index), KEYS[index])
        np.testing.assert_allclose(episode[0], expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(episode[1], expected[1])
    assert met == {0, 1}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0,), "one number per family, got 1 for 2 families"),
        ((0.0, 0.0), "not all 0"),
        ((1.0, -1.0), "at least 0"),
        ((float("nan"), 1.0), "finite"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, message):
    images, tables, _ = _parts()
    with pytest.raises(ValueError, match=message):
        mixture((images, tables), weights)


def test_families_of_different_signatures_are_refused():
    images, _, _ = _parts()
    with pytest.raises(ValueError, match=r"the same signature, got .*inputs=6.* and .*inputs=7"):
        mixture((images, projected(7, 5, ProjectedConfig(length=8))), (1.0, 1.0))


def test_reprojection_is_a_linear_map_that_keeps_labels_and_mean_square():
    narrow, data = unprojected(3, 5, ProjectedConfig(length=8)), _data(3, 0)
    family = reproject(narrow, 6)
    assert family.signature.inputs == 6
    task = jax.jit(family.sample)(data, KEYS[0])
    xs, ys = jax.jit(family.episode)(data, task, KEYS[1])
    own_xs, own_ys = jax.jit(narrow.episode)(data, task.task, KEYS[1])
    np.testing.assert_array_equal(ys, own_ys)
    np.testing.assert_allclose(xs, own_xs @ task.projection, rtol=1e-5, atol=1e-5)
    assert np.linalg.matrix_rank(np.asarray(xs), tol=1e-4) == 3

    def square(key):
        return jnp.square(family.episode(data, family.sample(data, key), key)[0]).mean()

    squares = jax.jit(jax.vmap(square))(KEYS)
    expected = float(jnp.square(data.inputs).mean())
    assert abs(float(squares.mean()) - expected) < 5 * float(squares.std()) / len(KEYS) ** 0.5


def test_numbered_tasks_are_reprojected_by_maps_of_their_own():
    family, data = reproject(unprojected(3, 5, ProjectedConfig(length=8))), _data(3, 0)
    unseen = jax.jit(lambda index: family.unseen(data, index).projection)
    first, again, other = (unseen(jnp.int32(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert family.seen is None
    assert reproject(projected(3, 5, ProjectedConfig(8, num_tasks=4))).seen is not None
    with pytest.raises(ValueError, match="width"):
        reproject(family, 0)
