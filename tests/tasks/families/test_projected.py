"""Projected classification against the paper's definitions (Kirsch et al. 2022, arXiv 2212.04458)."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_tasks.families.projected import (
    ProjectedConfig,
    anneal,
    draw_without_replacement,
    projected,
    projected_data,
    unprojected,
)

INPUTS, CLASSES = 64, 10


def examples(count=200, seed=0):
    rng = np.random.default_rng(seed)
    return projected_data(rng.normal(size=(count, INPUTS)), np.arange(count) % CLASSES)


@partial(jax.jit, static_argnums=(0, 2, 3))
def tasks(family, data, count, which="unseen"):
    return jax.vmap(lambda i: getattr(family, which)(data, i))(jnp.arange(count))


@partial(jax.jit, static_argnums=0)
def sampled(family, data, keys):
    return jax.vmap(lambda key: family.sample(data, key))(keys)


@partial(jax.jit, static_argnums=0)
def unseen_episode(family, data, index, key):
    task = family.unseen(data, index)
    return task, *family.episode(data, task, key)


def test_projections_have_variance_one_over_the_inputs():
    family, data = projected(INPUTS, CLASSES, ProjectedConfig(project_to=32)), examples()
    entries = np.asarray(tasks(family, data, 200).projection)
    assert entries.shape == (200, INPUTS, 32)
    count = entries.size
    assert abs(entries.mean()) < 4 / np.sqrt(INPUTS * count)
    # The variance of a sample variance of a normal is 2 sigma^4 / n.
    assert abs(entries.var() * INPUTS - 1) < 4 * np.sqrt(2 / count)


def test_an_episode_is_the_projected_examples_with_permuted_labels():
    family, data = projected(INPUTS, CLASSES, ProjectedConfig(length=30)), examples()
    task, xs, ys = unseen_episode(family, data, 3, jax.random.key(1))
    projection, permutation = np.asarray(task.projection), np.asarray(task.permutation)
    assert sorted(permutation) == list(range(CLASSES))
    pool, labels = np.asarray(data.inputs) @ projection, permutation[np.asarray(data.labels)]
    rows = [int(np.argmin(np.square(pool - x).sum(1))) for x in np.asarray(xs)]
    np.testing.assert_allclose(xs, pool[rows], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ys, labels[rows])
    assert len(set(rows)) == 30  # a repeated example would be a gift to the nearest neighbour
    assert xs.dtype == jnp.float32 and ys.dtype == jnp.int32


def test_tasks_are_regenerated_from_their_number_and_unseen_ones_differ():
    config, data = ProjectedConfig(num_tasks=8), examples()
    family = projected(INPUTS, CLASSES, config)
    seen, unseen = tasks(family, data, 8, "seen"), tasks(family, data, 8)
    again = tasks(projected(INPUTS, CLASSES, config), data, 8, "seen")
    np.testing.assert_array_equal(seen.projection, again.projection)
    both = np.concatenate([seen.projection, unseen.projection]).reshape(16, -1)
    assert len({row.tobytes() for row in both}) == 16
    other = tasks(projected(INPUTS, CLASSES, dataclasses.replace(config, seed=1)), data, 8, "seen")
    assert not np.any(np.asarray(other.projection) == np.asarray(seen.projection))


def test_a_number_of_tasks_and_a_seed_in_the_data_are_those_of_the_configuration():
    configured = projected(INPUTS, CLASSES, ProjectedConfig(num_tasks=5, seed=3, permute_prob=0.5))
    given = projected(INPUTS, CLASSES, ProjectedConfig(num_tasks=9, seed=8, permute_prob=0.5))
    plain = examples()._replace(permute_prob=jnp.float32(0.5))
    data = plain._replace(num_tasks=jnp.int32(5), seed=jnp.uint32(3))
    for which in ("seen", "unseen"):  # more of them than there are, so that seen ones wrap around
        expected, found = tasks(configured, plain, 12, which), tasks(given, data, 12, which)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    keys = jax.random.split(jax.random.key(0), 40)
    expected, found = sampled(configured, plain, keys), sampled(given, data, keys)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    fresh, fresh_given = (projected(INPUTS, CLASSES, ProjectedConfig(seed=seed)) for seed in (3, 8))
    expected, found = sampled(fresh, plain, keys), sampled(fresh_given, data._replace(num_tasks=None), keys)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    same, same_given = (unprojected(INPUTS, CLASSES, ProjectedConfig(seed=seed)) for seed in (3, 8))
    jax.tree.map(np.testing.assert_array_equal, tasks(same_given, data, 12), tasks(same, plain, 12))


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32 - 1, 2**40 + 7])
def test_seeds_in_the_data_have_32_bits_as_those_of_jax(seed):
    configured, given = (projected(INPUTS, CLASSES, ProjectedConfig(seed=s)) for s in (seed, 0))
    expected = tasks(configured, examples(), 1)
    found = tasks(given, examples()._replace(seed=jnp.uint32(seed % 2**32)), 1)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_meta_training_draws_exactly_the_seen_tasks():
    family, data = projected(INPUTS, CLASSES, ProjectedConfig(num_tasks=5)), examples()
    drawn = sampled(family, data, jax.random.split(jax.random.key(0), 300)).projection[:, 0, 0]
    seen = tasks(family, data, 5, "seen").projection[:, 0, 0]
    assert set(np.asarray(drawn).tolist()) == set(np.asarray(seen).tolist())


def test_fresh_tasks_do_not_repeat_and_have_no_seen_ones():
    family, data = projected(INPUTS, CLASSES, ProjectedConfig()), examples()
    drawn = sampled(family, data, jax.random.split(jax.random.key(0), 500)).projection[:, 0, 0]
    assert len(set(np.asarray(drawn).tolist())) == 500
    assert family.seen is None


def test_the_coin_of_a_task_makes_a_fixed_share_of_permuted_tasks():
    family = projected(INPUTS, CLASSES, ProjectedConfig(permute_prob=0.1))

    def unpermuted(prob):
        drawn = tasks(family, examples()._replace(permute_prob=jnp.float32(prob)), 2000)
        return (np.asarray(drawn.permutation) == np.arange(CLASSES)).all(1)

    identity = unpermuted(0.1)
    assert abs(identity.mean() - 0.9) < 4 * np.sqrt(0.09 / 2000)
    assert not np.any(unpermuted(0.5) & ~identity)  # a task once permuted stays so as the bias is annealed away
    assert unpermuted(0.0).all()


def test_annealing_follows_the_official_schedule():
    schedule, data = anneal(ProjectedConfig(permute_prob=0.1, anneal_steps=100)), examples()
    found = [float(schedule(data, jnp.int32(t)).permute_prob) for t in (0, 100, 250, 1000, 5000)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.25, 1.0, 1.0], rtol=1e-6)
    constant = anneal(ProjectedConfig(permute_prob=0.3))
    assert float(constant(data, jnp.int32(10**6)).permute_prob) == pytest.approx(0.3)


def test_the_identity_task_leaves_inputs_as_they_are():
    family, data = unprojected(INPUTS, CLASSES, ProjectedConfig(length=20)), examples()
    _, xs, ys = unseen_episode(family, data, 0, jax.random.key(0))
    rows = [int(np.argmin(np.square(np.asarray(data.inputs) - x).sum(1))) for x in np.asarray(xs)]
    np.testing.assert_array_equal(xs, np.asarray(data.inputs)[rows])
    plain = data._replace(permute_prob=jnp.float32(0))
    *_, ys = unseen_episode(family, plain, 0, jax.random.key(0))
    np.testing.assert_array_equal(ys, np.asarray(data.labels)[rows])


def test_draws_without_replacement_are_uniform_over_ordered_choices():
    draws = jax.jit(jax.vmap(lambda k: draw_without_replacement(k, 5, 3)))(jax.random.split(jax.random.key(0), 12_000))
    codes, counts = np.unique(np.asarray(draws) @ np.array([25, 5, 1]), return_counts=True)
    assert len(codes) == 5 * 4 * 3
    expected = 12_000 / 60
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 59 + 4 * np.sqrt(2 * 59)
    whole = jax.jit(lambda key: draw_without_replacement(key, 40, 40))(jax.random.key(1))
    assert sorted(np.asarray(whole).tolist()) == list(range(40))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tasks": 0}, "num_tasks must be between 1 and"),
        ({"project_to": 0}, "project_to must be at least 1, got 0"),
        ({"permute_prob": 1.5}, "permute_prob must be a probability, between 0 and 1, got 1.5"),
        ({"length": 0}, "length >= 1"),
    ],
)
def test_numbers_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        projected(INPUTS, CLASSES, ProjectedConfig(**change))


def test_a_sequence_longer_than_the_data_is_refused():
    family, data = projected(INPUTS, CLASSES, ProjectedConfig(length=50)), examples(40)
    with pytest.raises(ValueError, match="at most the number of examples, 40, got 50"):
        unseen_episode(family, data, 0, jax.random.key(0))
