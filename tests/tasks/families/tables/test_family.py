"""Generated tables as a family of tasks: what a task does to its table, and which tables are held out."""

import jax
import numpy as np
import pytest

from metalearn_tasks.families.registry import family_entry
from metalearn_tasks.families.tables.family import TablesFamilyConfig, draw_pool, tables

CONFIG = TablesFamilyConfig(inputs=6, classes=5, length=12, pool=40)


@pytest.fixture(scope="module")
def source():
    return family_entry("tables").build(CONFIG, None)


def test_an_episode_shows_rows_of_its_table_with_other_names_and_columns(source):
    @jax.jit
    @jax.vmap
    def one(key):
        key_task, key_episode = jax.random.split(key)
        task = source.family.sample(source.data, key_task)
        return task, *source.family.episode(source.data, task, key_episode)

    tasks, xs, ys = jax.tree.map(np.asarray, one(jax.random.split(jax.random.key(0), 30)))
    assert xs.shape == (30, 12, 6) and ys.shape == (30, 12) and len(np.unique(tasks.table)) > 10
    pool = jax.tree.map(np.asarray, source.data)
    for i in range(30):
        table, back = tasks.table[i], np.argsort(tasks.order[i])
        original = (xs[i] * tasks.sign[i])[:, back]
        name_of = np.argsort(tasks.names[i])
        shown = set()
        for x, y in zip(original, ys[i], strict=True):
            same = (pool.xs[table] == x).all(1) & (pool.ys[table] == name_of[y])
            assert same.any()
            shown.add(x.tobytes())
        assert len(shown) <= len({row.tobytes() for row in pool.xs[table]})


def test_pools_are_scaled_and_held_out_tables_are_others(source):
    xs, ys, classes = jax.tree.map(np.asarray, source.data)
    assert xs.shape == (40, 24, 6) and np.isfinite(xs).all()
    assert ((ys.max(1) + 1) == classes).all() and classes.min() >= 2 and classes.max() <= 5
    used = (xs != 0).any(1).sum(1)
    # Rows of E|x|^2 = D; a constant column, a missing value or a clipped one has less.
    lengths = np.square(xs.astype(np.float64)).sum(2).mean(1)
    assert np.median(lengths) == pytest.approx(6, rel=1e-3) and lengths.max() < 6.01
    assert used.min() >= 1 and used.max() == 6 and len(np.unique(used)) > 3
    assert not any((np.asarray(source.test_data.xs) == table).all((1, 2)).any() for table in xs)
    again = draw_pool(CONFIG)
    np.testing.assert_array_equal(again.xs, xs)


def test_seen_and_unseen_tasks_differ(source):
    family = tables(TablesFamilyConfig(inputs=6, classes=5, length=12, pool=40, num_tasks=3))
    assert source.family.seen is None and family.seen is not None
    seen = [family.seen(source.data, i) for i in range(4)]
    assert all((a == b).all() for a, b in zip(seen[0], seen[3], strict=True))  # it wraps around
    assert any((a != b).any() for a, b in zip(seen[0], family.unseen(source.data, 0), strict=True))
