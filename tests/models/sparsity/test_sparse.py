"""Sparse training held to its exact claims, with gradients that are given."""

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
    sparse,
    sparse_with_masks,
    static,
)

STEPS = 12
INNER = optax.adam(0.05)


def _params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in {"a": (6, 9), "b": (9, 4), "bias": (9,)}.items()
    }


def _grads(seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=(STEPS, *p.shape)), jnp.float32), _params())


def _train(tx, params, grads):
    """Parameters, states and updates of every step."""
    with jax.numpy_dtype_promotion("standard"):
        state = tx.init(params)
    params = apply_masks(params, state.masks)

    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, state, updates)

    return (params, state), jax.lax.scan(step, (params, state), grads)[1]


def _run(rule, sparsity=0.6, inner=INNER):
    return jax.jit(lambda p, g: _train(sparse(inner, rule, erk, sparsity), p, g))(_params(), _grads())


@pytest.fixture(scope="module")
def moving():
    return _run(rigl(end=14, every=3, alpha=0.5))


def _nonzero_masks(tree):
    return {k: np.asarray(x) for k, x in tree.items() if x is not None}


def test_the_number_of_connections_never_changes_and_what_is_off_is_exactly_zero(moving):
    (_, start), (params, states, _) = moving
    assert int(count_masks(start.masks)) == round(0.4 * (54 + 36))
    for name, masks in _nonzero_masks(states.masks).items():
        counts = masks.sum(tuple(range(1, masks.ndim)))
        assert (counts == counts[0]).all() and counts[0] == np.asarray(start.masks[name]).sum()
        assert (np.asarray(params[name])[~masks] == 0).all()
    assert start.masks["bias"] is None and int(states.changes[-1]) == 3
    assert (np.asarray(states.masks["a"][0]) != np.asarray(states.masks["a"][-1])).any()


def _brute_force(w, g, mask, count):
    """RigL's change of one layer by sorting lists, without ties."""
    on = sorted(np.flatnonzero(mask), key=lambda i: abs(w.ravel()[i]))
    kept = set(on[count:])
    off = sorted((i for i in range(w.size) if i not in kept), key=lambda i: -abs(g.ravel()[i]))
    return kept, set(off[:count])


def test_connections_drop_and_grow_as_by_brute_force(moving):
    (_, first), (params, states, updates) = moving
    moved = 0
    for t in (3, 6, 9):
        share = np.float32(0.5) * (1 + np.cos(np.float32(np.pi) * np.float32(t) / np.float32(14))) / 2
        for name in ("a", "b"):
            before, mask = (np.asarray(x[name][t - 1]) for x in (params, states.masks))
            count = int(share * mask.sum())
            kept, grown = _brute_force(before, np.asarray(_grads()[name][t]), mask, count)
            assert set(np.flatnonzero(states.masks[name][t])) == kept | grown
            after = np.asarray(params[name][t]).ravel()
            np.testing.assert_array_equal(after[list(kept)], before.ravel()[list(kept)])  # the optimizer waits
            assert (after[list(grown)] == 0).all()
            memory = states.inner[0].mu[name]
            assert (np.asarray(memory[t]).ravel()[list(grown)] == 0).all()
            np.testing.assert_array_equal(
                np.asarray(memory[t]).ravel()[list(kept)], np.asarray(memory[t - 1]).ravel()[list(kept)]
            )
            moved += len(grown - set(np.flatnonzero(mask)))
        assert (np.asarray(updates["bias"][t]) == 0).all()
    assert moved > 3 and int(first.changes) == 0


def test_the_released_code_keeps_what_is_dropped_and_grown_at_once():
    """alpha = 1 drops everything, so that what grows again is plain to see."""
    _, (params, states, _) = _run(rigl_released(end=9, every=4, alpha=1.0))
    before, after = (np.asarray(x).ravel() for x in (params["a"][3], params["a"][4]))
    old, new = (np.asarray(x).ravel() for x in (states.masks["a"][3], states.masks["a"][4]))
    assert (old & new).sum() > 3
    np.testing.assert_array_equal(after[old & new], before[old & new])
    assert (after[new & ~old] == 0).all() and (np.asarray(states.changes) == [1] * 4 + [2] * 4 + [3] * 4).all()


@pytest.mark.parametrize("rule", [rigl(end=10, every=3, alpha=0.0), rigl(end=0, every=3)])
def test_rules_that_move_nothing_are_static_to_the_bit(rule):
    _, (params, states, updates) = _run(rule)
    _, (expected, static_states, static_updates) = _run(static())
    jax.tree.map(
        np.testing.assert_array_equal,
        (params, updates, states.inner, states.masks),
        (expected, static_updates, static_states.inner, static_states.masks),
    )


def test_sparsity_zero_is_the_inner_optimizer_to_the_bit():
    _, (params, states, _) = _run(rigl(end=10, every=3), sparsity=0.0)

    def dense(params, grads):
        def step(carry, g):
            updates, state = INNER.update(g, carry[1], carry[0])
            params = optax.apply_updates(carry[0], updates)
            return (params, state), (params, state)

        return jax.lax.scan(step, (params, INNER.init(params)), grads)[1]

    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(dense)(_params(), _grads())
    jax.tree.map(np.testing.assert_array_equal, (params, states.inner), expected)
    full = jax.tree.map(lambda x: jnp.ones(x.shape, bool) if x.ndim == 2 else None, _params())
    _, (same, *_) = jax.jit(lambda p, g: _train(sparse_with_masks(INNER, rigl(end=10, every=3), full), p, g))(
        _params(), _grads()
    )
    jax.tree.map(np.testing.assert_array_equal, same, params)
