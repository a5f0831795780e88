"""SET, SNFS and gradual pruning against NumPy."""

from typing import Any

import jax
import numpy as np
import pytest

from metalearn_models.sparsity import gradual_pruning, rigl, set_rule, snfs, sparse_with_masks, static
from tests.models.sparsity import cases

pytestmark = pytest.mark.newer_loops


def test_set_steps_first_then_drops_the_smallest_and_grows_at_random():
    _, (params, states, _) = cases.run(set_rule(end=8, every=4, alpha=1.0))
    free = cases.run(static())[1][0]  # the same until the change
    t, new_ones = 4, 0
    for name in ("a", "b"):
        old, new = (np.asarray(states.masks[name][i]) for i in (t - 1, t))
        stepped = np.where(old, np.asarray(free[name][t]), 0)
        count = int(np.float32((1 + np.cos(np.float32(np.pi / 2))) / 2) * old.sum())
        on = sorted(np.flatnonzero(old), key=lambda i: abs(stepped.ravel()[i]))
        kept = on[count:]
        np.testing.assert_array_equal(np.asarray(params[name][t]).ravel()[kept], stepped.ravel()[kept])
        assert new.ravel()[kept].all() and new.sum() == old.sum()
        grown = np.setdiff1d(np.flatnonzero(new), kept)
        assert len(grown) == count and not np.asarray(params[name][t]).ravel()[grown].any()
        assert not np.asarray(states.inner[0].trace[name][t]).ravel()[grown].any()
        new_ones += len(np.setdiff1d(grown, np.flatnonzero(old)))
    assert new_ones > 0
    assert np.asarray(params["bias"][t] != params["bias"][t - 1]).all()  # nothing waits


def test_set_grows_anywhere_with_equal_probability():
    """Of 8 entries that can grow, 4 do: each in half of the draws, 4 standard errors of 400 draws wide."""
    masks = {"a": np.zeros((2, 4), bool)}
    masks["a"][0, :] = True
    params = {"a": np.ones((2, 4), np.float32)}

    def grown(key):
        tx: Any = sparse_with_masks(cases.INNER, set_rule(end=9, every=1, alpha=1.0, start=0), masks, key=key)
        return tx.update(jax.tree.map(np.zeros_like, params), tx.init(params), params)[1].masks["a"]

    found = np.asarray(jax.jit(jax.vmap(grown))(jax.random.split(jax.random.key(0), 400)))
    assert (found.sum((1, 2)) == 4).all()
    np.testing.assert_allclose(found.mean(0), 0.5, atol=4 * 0.5 / 20)


def test_snfs_grows_where_the_running_mean_of_the_dense_gradient_is_largest():
    given = cases.grads()
    given["a"] = given["a"].at[1, 0, 0].set(np.nan)  # is left out of the mean
    _, (_, states, _) = cases.run(snfs(end=8, every=4, alpha=1.0, decay=0.8), given=given)
    mean = np.zeros((6, 9), np.float32)
    for t in range(5):
        g = np.asarray(given["a"][t])
        mean = np.where(np.isnan(g), mean, np.float32(0.8) * mean + np.float32(0.2) * g)
    np.testing.assert_allclose(states.rule["snfs"]["a"][4], mean, rtol=1e-5, atol=1e-7)
    old, new = (np.asarray(states.masks["a"][i]) for i in (3, 4))
    count = int(np.float32((1 + np.cos(np.float32(np.pi / 2))) / 2) * old.sum())
    stays = np.flatnonzero(np.asarray(states.masks["a"][4]) & (np.asarray(states.inner[0].trace["a"][4]) != 0))
    off = np.setdiff1d(np.arange(54), stays)
    expected = off[np.argsort(-np.abs(mean.ravel()[off]), kind="stable")[:count]]
    assert set(np.flatnonzero(new)) == set(stays) | set(expected)


def test_pruning_follows_its_cubic_curve_and_takes_the_smallest():
    (_, start), (params, states, _) = cases.run(gradual_pruning(end=9, every=3))
    assert np.asarray(start.masks["a"]).all() and start.masks["bias"] is None
    target = np.asarray(states.masks["a"][-1]).sum()
    assert target + np.asarray(states.masks["b"][-1]).sum() == round(0.4 * 90)
    for t in range(12):
        last = t - t % 3
        wanted = target + int(np.float32(1 - min(last / 9, 1)) ** 3 * (54 - target))
        mask = np.asarray(states.masks["a"][t])
        assert mask.sum() == wanted and not np.asarray(params["a"][t])[~mask].any()
        if t:
            assert not (mask & ~np.asarray(states.masks["a"][t - 1])).any()  # what is pruned stays pruned
    before, after = (np.asarray(states.masks["a"][t]) for t in (2, 3))
    stepped = np.abs(np.asarray(params["a"][3]))  # the step came first
    assert after.sum() < before.sum() and stepped[after].min() > 0


def test_layers_whose_scores_are_not_finite_keep_their_connections_and_are_counted():
    """RigL makes no step when it changes connections, so that a batch that is NaN then leaves no trace in weights."""
    given = cases.grads()
    given["a"] = given["a"].at[3, 2, 3].set(np.nan)
    _, (params, states, _) = cases.run(rigl(end=14, every=3, alpha=0.5), given=given)
    np.testing.assert_array_equal(states.skipped, [0] * 3 + [1] * 9)
    changed = [(np.asarray(states.masks[k][3]) != np.asarray(states.masks[k][2])).any() for k in ("a", "b")]
    assert changed == [False, True]
    assert all(np.isfinite(np.asarray(x)).all() for x in params.values())
    given["a"] = cases.grads()["a"].at[4, 2, 3].set(np.nan)
    pruned = cases.run(gradual_pruning(end=8, every=4), given=given)[1][1]
    assert int(pruned.skipped[3]) == 0 and int(pruned.skipped[4]) == 1
    np.testing.assert_array_equal(pruned.masks["a"][4], pruned.masks["a"][3])
