"""Topologies: no input twice, the fan-out bounded, drops counted per sign, growth uniform, positions the transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.sparsity.layers.topology import (
    connect,
    default_capacity,
    draw_connections,
    draw_values,
    evolve,
    forget,
)

INPUTS, OUTPUTS, FAN_IN = 12, 30, 5
TRACES = []


@jax.jit
def turn(key, values, connections, fraction):
    TRACES.append(values.shape)
    return evolve(key, values, connections, fraction)


def check(connections, inputs):
    """Compare with a loop over inputs and outputs."""
    indices, positions = np.asarray(connections.indices), np.asarray(connections.positions)
    for column in indices.T:
        there = column[column < inputs]
        assert len(set(there)) == len(there)
    for i in range(inputs):
        held = positions[:, i][positions[:, i] < indices.size]
        np.testing.assert_array_equal(np.sort(held), np.flatnonzero(indices.reshape(-1) == i))


@pytest.fixture(scope="module")
def layer():
    connections = draw_connections(jax.random.key(0), INPUTS, OUTPUTS, FAN_IN)
    return draw_values(jax.random.key(1), FAN_IN, OUTPUTS), connections


def test_drawn_topologies_are_right(layer):
    check(layer[1], INPUTS)
    assert layer[1].positions.shape == (default_capacity(INPUTS, OUTPUTS, FAN_IN), INPUTS) == (25, INPUTS)
    full = draw_connections(jax.random.key(2), FAN_IN, OUTPUTS, FAN_IN)
    np.testing.assert_array_equal(np.sort(full.indices, 0), np.tile(np.arange(FAN_IN)[:, None], OUTPUTS))


def test_set_drops_the_nearest_to_zero_of_either_sign_and_grows_as_many(layer):
    values, connections = layer
    values = values.at[2, 3].set(0.0).at[1, 7].set(jnp.nan)
    for seed in range(20):
        new = turn(jax.random.key(seed), values, connections, 0.3)
        check(new.connections, INPUTS)
        moved = np.asarray(new.moved)
        flat = np.asarray(values)
        right = flat == 0
        for sign in (1, -1):
            mine = np.sort(np.abs(flat[sign * flat > 0]))
            count = int(0.3 * len(mine))
            right |= (sign * flat > 0) & (np.abs(flat) <= mine[count - 1])
            assert (moved & (sign * flat > 0)).sum() == count
        np.testing.assert_array_equal(moved, right)
        np.testing.assert_array_equal(np.asarray(new.values)[~moved], flat[~moved])
        np.testing.assert_array_equal(
            np.asarray(new.connections.indices)[~moved], np.asarray(connections.indices)[~moved]
        )
        assert (np.abs(np.asarray(new.values)[moved]) <= np.sqrt(6 / INPUTS)).all()
        values, connections = jnp.where(jnp.isnan(values), values, new.values), new.connections
        values = values.at[2, 3].set(0.0)
    assert TRACES.count(values.shape) == 1


def test_growth_is_uniform_over_inputs_that_the_output_does_not_have():
    """One connection of each output moves, and each of the free inputs is drawn equally often."""
    indices = jnp.tile(jnp.asarray([[0], [2], [5]], jnp.int32), 2000)
    connections = connect(indices, 7, 2000)
    values = jnp.tile(jnp.asarray([[1.0], [0.0], [1.0]]), 2000)
    new = turn(jax.random.key(0), values, connections, 0.0)
    np.testing.assert_array_equal(new.moved, np.tile([[False], [True], [False]], 2000))
    counts = np.bincount(np.asarray(new.connections.indices)[1], minlength=7)
    assert counts[[0, 5]].sum() == 0
    np.testing.assert_allclose(counts[[1, 2, 3, 4, 6]], 400, atol=4 * np.sqrt(400 * 0.8))


def test_full_inputs_take_no_more():
    """Room for 14 outputs per input, 12.5 on average: growth that did not look would overflow in every seed."""
    connections = draw_connections(jax.random.key(4), INPUTS, OUTPUTS, FAN_IN, 14)
    values = draw_values(jax.random.key(1), FAN_IN, OUTPUTS)
    moved = 0
    for seed in range(5):
        new = turn(jax.random.key(seed), values, connections, 0.3)
        check(new.connections, INPUTS)  # would miss a position if an input had more than fits
        assert np.bincount(np.asarray(new.connections.indices).ravel()).max() <= 14
        moved += int(new.moved.sum())
    assert moved > 0


def test_a_layer_stays_as_it_is_if_no_place_is_found():
    """Input 1 has two outputs in a table for one each: without the connection that is dropped, every input is full."""
    connections = connect(jnp.asarray([[0, 1], [1, 2]], jnp.int32), 3)
    full = connections._replace(positions=connections.positions[:1])
    values = jnp.asarray([[1.0, 1.0], [0.0, 1.0]])
    new = turn(jax.random.key(0), values, full, 0.0)
    assert not new.moved.any()
    np.testing.assert_array_equal(new.values, values)
    np.testing.assert_array_equal(new.connections.indices, connections.indices)


def test_absent_connections_stay_absent(layer):
    values, connections = layer
    indices = connections.indices.at[1:4, 5].set(INPUTS)
    some = connect(indices, INPUTS, 25)
    new = turn(jax.random.key(0), values.at[1:4, 5].set(0.0), some, 0.4)
    np.testing.assert_array_equal(new.connections.indices == INPUTS, indices == INPUTS)
    assert not new.moved[1:4, 5].any()


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_a_fraction_outside_is_refused(layer, fraction):
    with pytest.raises(ValueError, match=rf"fraction must be in \[0, 1\), got {fraction}"):
        evolve(jax.random.key(0), *layer, fraction)


def test_an_optimizer_forgets_moved_connections_only(layer):
    values, _ = layer
    params = {"values": values, "bias": jnp.ones(OUTPUTS)}
    optimizer = optax.adamw(1e-3)
    with jax.numpy_dtype_promotion("standard"):
        _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    moved = {"values": jnp.zeros(values.shape, bool).at[0].set(True), "bias": jnp.zeros(OUTPUTS, bool)}
    after = forget(optimizer, state, moved)
    for name in ("mu", "nu"):
        old, new = (optax.tree_utils.tree_get(s, name) for s in (state, after))
        assert (new["values"][0] == 0).all() and (old["values"][0] != 0).all()
        np.testing.assert_array_equal(new["values"][1:], old["values"][1:])
        np.testing.assert_array_equal(new["bias"], old["bias"])
    assert optax.tree_utils.tree_get(after, "count") == 1
