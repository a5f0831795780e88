"""States of exchanges and of local steps keep their forms, can be donated and saved, and are understood by optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

from metalearn_models.optimizers.distributed import (
    compressed_all_reduce,
    data_parallel,
    diloco,
    eight_bit,
    in_two_stages,
    low_rank,
    sign,
    top_k,
)
from tests.models.optimizers.conformance_cases import forms
from tests.models.optimizers.conformance_cases import params as all_params

AXIS = "devices"


def params(seed=0):
    """Those of the conformance tests, but for the leaf without entries, which optax's own states keep."""
    return {name: x for name, x in all_params(seed).items() if name != "empty"}


def exchange(compressor):
    return compressed_all_reduce(compressor, AXIS)


OPTIMIZERS = {
    "compressed": optax.chain(*map(exchange, (top_k(0.5), low_rank(2), eight_bit())), optax.sgd(0.1, 0.9)),
    "sign": optax.chain(exchange(sign()), optax.adam(0.1)),
    "local": diloco(optax.adam(0.1), 2, AXIS, exchange=exchange(in_two_stages(eight_bit()))),
}


def steps(count, grads, params, states):
    """So many steps of every optimizer with the same gradients."""

    def body(_, carry):
        params, states = carry
        for name, tx in OPTIMIZERS.items():
            with jax.numpy_dtype_promotion("standard"):
                updates, states[name] = tx.update(grads, states[name], params[name])
                params[name] = optax.apply_updates(params[name], updates)
        return params, states

    return jax.lax.fori_loop(0, count, body, (params, states))


@functools.cache
def program():
    """One program of any number of steps, which donates the states."""
    return jax.jit(steps, donate_argnums=3)


def start():
    with jax.numpy_dtype_promotion("standard"):
        return dict.fromkeys(OPTIMIZERS, params()), {name: tx.init(params()) for name, tx in OPTIMIZERS.items()}


def test_zero_gradients_move_nothing_for_a_thousand_steps():
    before, states = start()
    after, states = program()(1000, jax.tree.map(jnp.zeros_like, params()), before, states)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, before)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(states) if x.dtype != jnp.int32)


def test_forms_stay_and_a_donated_state_takes_nothing_with_it():
    given, states = start()
    before, grads = forms(states), params(1)
    assert all(x.size for x in jax.tree.leaves(states))
    for _ in range(2):
        moved, after = program()(3, grads, given, states)
        assert all(x.is_deleted() for x in jax.tree.leaves(states))
        states = after
    assert forms(after) == before and forms(moved) == forms(given)
    for name in OPTIMIZERS:
        pairs = zip(jax.tree.leaves(moved[name]), jax.tree.leaves(params()), strict=True)
        assert all(np.any(a != b) for a, b in pairs if a.size)
    jax.tree.map(np.testing.assert_array_equal, given, dict.fromkeys(OPTIMIZERS, params()))


def test_orbax_saves_every_state_and_training_continues_equally(tmp_path):
    grads = params(1)
    moved, states = program()(3, grads, *start())
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", jax.eval_shape(lambda: states))
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), restored)  # on no device in particular, as before
    ends = [program()(3, grads, moved, one)[0] for one in (states, restored)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_finds_the_parameters_in_a_state_and_wrappers_go_around_it(name):
    tx, tree = OPTIMIZERS[name], {"matrix": jnp.ones((7, 5)), "vector": jnp.ones(7)}
    with jax.numpy_dtype_promotion("standard"):
        state = jax.eval_shape(tx.init, tree)
        mapped = optax.tree_utils.tree_map_params(tx, lambda x: "parameter", state)
        for kind, x in zip(jax.tree.leaves(mapped), jax.tree.leaves(state), strict=True):
            assert (kind == "parameter") == (x.shape in ((7, 5), (7,))), (kind, x)
        for wrapped in (tx, optax.masked(tx, {"matrix": True, "vector": False}), optax.apply_if_finite(tx, 2)):
            two = lambda tree, tx=wrapped: tx.update(tree, tx.update(tree, tx.init(tree), tree)[1], tree)  # noqa: E731
            assert forms(jax.eval_shape(two, tree)[0]) == forms(tree)


@pytest.mark.parametrize(
    "tx", [exchange(sign()), exchange(low_rank(2)), OPTIMIZERS["local"]], ids=["sign", "rank", "local"]
)
def test_trees_without_anything_to_update_leave_nothing_of_size_zero(tx):
    for empty in ({}, {"a": None}, {"a": jnp.zeros((0, 3))}, {**all_params()}):
        updates, state = jax.eval_shape(lambda t: tx.update(t, tx.init(t), t), empty)
        assert forms(updates) == forms(empty) and all(x.size for x in jax.tree.leaves(state))


def test_64_bits_keep_64_bits():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        tree = {"narrow": np.ones((6, 6), np.float32), "wide": np.ones((6, 6))}
        tx = OPTIMIZERS["compressed"]
        updates, state = jax.eval_shape(lambda t: tx.update(t, tx.init(t), t), tree)
        assert forms(updates) == jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert forms(state[0].high) == forms(updates)


def test_parameters_of_the_caller_survive_data_parallel():
    mine = {"w": jnp.ones((4, 4))}
    init, step, read_params = data_parallel(lambda p, x: (x @ p["w"]).sum(), OPTIMIZERS["sign"])
    state, _ = step(init(mine), jnp.ones((2, 4)))
    assert not mine["w"].is_deleted() and read_params(state)["w"].shape == (4, 4)
