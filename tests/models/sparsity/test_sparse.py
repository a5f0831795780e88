"""Sparse training held to its exact claims, with gradients that are given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.sparsity import (
    apply_masks,
    count_masks,
    erk,
    rigl,
    rigl_released,
    set_rule,
    sparse,
    sparse_with_masks,
    static,
)
from tests.models.sparsity import cases

pytestmark = pytest.mark.newer_loops


@pytest.fixture(scope="module")
def moved():
    return cases.run(rigl(end=14, every=3, alpha=0.5))


def test_the_number_of_connections_never_changes_and_what_is_off_is_exactly_zero(moved):
    (_, start), (params, states, _) = moved
    assert int(count_masks(start.masks)) == round(0.4 * (54 + 36)) and start.masks["bias"] is None
    for name in ("a", "b"):
        masks = np.asarray(states.masks[name])
        assert (masks.sum((1, 2)) == np.asarray(start.masks[name]).sum()).all()
        assert (np.asarray(params[name])[~masks] == 0).all()
    np.testing.assert_array_equal(states.changes, np.repeat([0, 1, 2, 3], 3))
    assert not np.asarray(states.skipped).any()


def _by_lists(w, g, mask, count):
    """RigL's change of one layer by sorting lists, without ties: what is kept and what grows."""
    on = sorted(np.flatnonzero(mask), key=lambda i: abs(w.ravel()[i]))
    kept = set(on[count:])
    off = sorted((i for i in range(w.size) if i not in kept), key=lambda i: -abs(g.ravel()[i]))
    return kept, set(off[:count])


def test_connections_drop_and_grow_as_by_brute_force(moved):
    """New connections start at zero, without momentum; the rest waits, so that growing leaves every output as it is."""
    _, (params, states, updates) = moved
    new = 0
    for t in (3, 6, 9):
        share = np.float32(0.5) * (1 + np.cos(np.float32(np.pi) * np.float32(t) / np.float32(14))) / 2
        for name in ("a", "b"):
            before, mask = (np.asarray(x[name][t - 1]) for x in (params, states.masks))
            kept, grown = _by_lists(before, np.asarray(cases.grads()[name][t]), mask, int(share * mask.sum()))
            assert set(np.flatnonzero(states.masks[name][t])) == kept | grown
            stays = np.isin(np.arange(mask.size), list(kept)).reshape(mask.shape)
            np.testing.assert_array_equal(params[name][t], np.where(stays, before, 0))
            old, now = (np.asarray(states.inner[0].trace[name][i]) for i in (t - 1, t))
            restarted = np.isin(np.arange(mask.size), list(grown)).reshape(mask.shape)
            np.testing.assert_array_equal(now, np.where(restarted, 0, old))
            new += len(grown - set(np.flatnonzero(mask)))
        assert not np.asarray(updates["bias"][t]).any()
    assert new > 3


def test_between_changes_the_inner_optimizer_sees_masked_gradients(moved):
    """Heavy-ball by hand, up to the first change."""
    (params, start), (found, states, _) = moved
    w, velocity, mask = np.asarray(params["a"]), 0.0, np.asarray(start.masks["a"])
    for t in range(3):
        velocity = np.where(mask, cases.grads()["a"][t], 0) + 0.9 * velocity
        w = w - 0.05 * velocity
        np.testing.assert_allclose(found["a"][t], w, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(states.inner[0].trace["a"][t], velocity, rtol=1e-5, atol=1e-7)


def test_the_released_code_keeps_what_is_dropped_and_grown_at_once():
    """alpha = 1 drops everything, so much of it grows again."""
    _, (params, states, _) = cases.run(rigl_released(end=9, every=4, alpha=1.0))
    before, after = (np.asarray(params["a"][t]) for t in (3, 4))
    old, new = (np.asarray(states.masks["a"][t]) for t in (3, 4))
    assert (old & new).sum() > 3
    np.testing.assert_array_equal(after[old & new], before[old & new])
    assert (after[new & ~old] == 0).all()
    np.testing.assert_array_equal(states.changes, np.repeat([1, 2, 3], 4))  # the first change is at step 0


@pytest.fixture(scope="module")
def standing():
    return cases.run(static())


@pytest.mark.parametrize("rule", [rigl(end=10, every=3, alpha=0.0), rigl(end=0, every=3)])
def test_a_rule_that_moves_nothing_is_static_to_the_bit(standing, rule):
    _, (params, states, updates) = cases.run(rule)
    _, (expected, others, expected_updates) = standing
    found = (params, updates, states.inner, states.masks)
    jax.tree.map(np.testing.assert_array_equal, found, (expected, expected_updates, others.inner, others.masks))


def _train_in_rounds(tx, params, grads):
    """The end of `cases.train`, by a program that changes connections at steps 3, 6 and 9 without a condition."""
    state = tx.init(params)
    carry = (apply_masks(params, state.masks), state)

    def step(carry, g, due):
        updates, state = tx.update(g, carry[1], carry[0], due=due)
        return optax.apply_updates(carry[0], updates), state

    def rest(carry, rounds):
        return jax.lax.scan(lambda c, g: (step(c, g, False), None), carry, rounds)[0]

    rounds = jax.tree.map(lambda g: g.reshape(4, 3, *g.shape[1:]), grads)
    first, others = (jax.tree.map(lambda g, part=part: g[part], rounds) for part in (0, slice(1, None)))

    def change_first(carry, given):
        changed = step(carry, jax.tree.map(lambda g: g[0], given), True)
        return rest(changed, jax.tree.map(lambda g: g[1:], given)), None

    return jax.lax.scan(change_first, rest(carry, first), others)[0]


@pytest.mark.parametrize("rule", [rigl, set_rule])
def test_a_loop_that_knows_when_connections_change_ends_at_the_same_bits(rule):
    tx = sparse(cases.INNER, rule(end=14, every=3, alpha=0.5), erk, 0.6)
    known, (params, states, _) = jax.jit(lambda p, g: (_train_in_rounds(tx, p, g), cases.train(tx, p, g)[1]))(
        cases.params(), cases.grads()
    )
    jax.tree.map(np.testing.assert_array_equal, known, jax.tree.map(lambda x: x[-1], (params, states)))
    assert int(known[1].changes) == 3


def test_a_loop_that_is_wrong_about_a_change_is_told():
    """With words outside a program; in one, what is off is NaN, and the masks bring the parameters back."""
    tx = sparse(cases.INNER, rigl(end=14, every=3, alpha=0.5), erk, 0.6)
    params, grads = cases.params(), jax.tree.map(lambda g: g[0], cases.grads())
    state: Any = tx.init(params)
    params, late = apply_masks(params, state.masks), state._replace(step=jnp.int32(3))

    @jax.jit
    def steps(state, late):
        return [tx.update(grads, s, params, due=due) for s in (state, late) for due in (False, True)]

    claims: Any = zip((state, state, late, late), (False, True) * 2, steps(state, late), strict=True)
    for before, due, (updates, after) in claims:
        right = due == (int(before.step) == 3)
        for name in ("a", "b"):
            off = ~np.asarray(before.masks[name])
            assert np.isnan(updates[name][off]).all() if not right else np.isfinite(updates[name]).all(), (name, due)
        again = apply_masks(optax.apply_updates(params, updates), before.masks)
        assert due or all(np.isfinite(x).all() for x in jax.tree.leaves((again, after.inner)))
    with pytest.raises(ValueError, match=r"got due=False, and the rule rigl says True of step 3: leave due out"):
        tx.update(grads, late, params, due=False)
    with pytest.raises(ValueError, match=r"got due=True, and the rule static says False of step 0"):
        standing = sparse(cases.INNER, static(), erk, 0.6)
        standing.update(grads, standing.init(params), params, due=True)
    with pytest.raises(TypeError, match="got ArrayImpl"):
        tx.update(grads, late, params, due=late.step == 3)


def test_sparsity_zero_is_the_inner_optimizer_to_the_bit():
    _, (params, states, _) = cases.run(rigl(end=10, every=3), sparsity=0.0)

    def dense(params, grads):
        def step(carry, g):
            updates, state = cases.INNER.update(g, carry[1], carry[0])
            params = optax.apply_updates(carry[0], updates)
            return (params, state), (params, state)

        return jax.lax.scan(step, (params, cases.INNER.init(params)), grads)[1]

    expected = jax.jit(dense)(cases.params(), cases.grads())
    jax.tree.map(np.testing.assert_array_equal, (params, states.inner), expected)


def test_hidden_units_have_no_order():
    """Units in another order, with their masks and gradients, train to the same units in that order."""
    order = np.random.default_rng(0).permutation(9)
    masks = {
        "a": jax.random.bernoulli(jax.random.key(1), 0.4, (6, 9)),
        "b": jax.random.bernoulli(jax.random.key(2), 0.4, (9, 4)),
        "bias": None,
    }

    def permute(tree):
        axes = {"a": -1, "b": -2, "bias": -1}
        return {k: None if x is None else jnp.take(x, order, axes[k]) for k, x in tree.items()}

    @jax.jit
    def train(params, grads, masks):
        return cases.train(sparse_with_masks(cases.INNER, rigl(end=14, every=3), masks), params, grads)[1][0]

    found = train(permute(cases.params()), permute(cases.grads()), permute(masks))
    expected = permute(train(cases.params(), cases.grads(), masks))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_trainings_side_by_side_have_their_own_masks_and_keys():
    def one(key, params, grads):
        return cases.train(sparse(cases.INNER, rigl(end=14, every=3), key=key, sparsity=0.6), params, grads)[1]

    keys = jax.random.split(jax.random.key(5), 2)
    together = jax.jit(jax.vmap(one, (0, None, None)))(keys, cases.params(), cases.grads())
    alone = jax.jit(one)(keys[1], cases.params(), cases.grads())
    np.testing.assert_array_equal(together[1].masks["a"][1], alone[1].masks["a"])
    np.testing.assert_allclose(together[0]["a"][1], alone[0]["a"], rtol=1e-6, atol=1e-7)
    assert (np.asarray(together[1].masks["a"][0]) != np.asarray(together[1].masks["a"][1])).any()
