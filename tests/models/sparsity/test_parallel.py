"""WASSP: set arithmetic of retained updates, the average against NumPy, and training on a mesh of eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.sparsity.layers import (
    Connections,
    connect,
    draw_connections,
    draw_values,
    evolve,
    to_dense,
    to_mask,
)
from metalearn_models.sparsity.parallel import average, parallel_training, retain_valid, warm_up

INPUTS, OUTPUTS, FAN_IN = 9, 7, 4


@pytest.fixture(scope="module")
def networks():
    """Three networks that evolved apart from one."""
    values, connections = (
        draw_values(jax.random.key(0), FAN_IN, OUTPUTS),
        draw_connections(jax.random.key(1), INPUTS, OUTPUTS, FAN_IN),
    )
    change = jax.jit(evolve)
    return [change(jax.random.key(seed), values, connections, 0.5)[:2] for seed in range(3)]


def test_retained_updates_are_those_of_the_intersection(networks):
    (_, old), (_, new), _ = networks
    updates = draw_values(jax.random.key(5), FAN_IN, OUTPUTS)
    got = np.asarray(to_dense(retain_valid(updates, old, new), new))
    both = np.asarray(to_mask(old)) & np.asarray(to_mask(new))
    assert 0 < both.sum() < FAN_IN * OUTPUTS
    np.testing.assert_array_equal(got, np.where(both, to_dense(updates, old), 0))


def test_the_average_is_the_mean_over_the_union_pruned_by_size(networks):
    values = jnp.stack([v for v, _ in networks])
    connections = jax.tree.map(lambda *a: jnp.stack(a), *(c for _, c in networks))
    got = np.asarray(to_dense(*average(values, connections)))
    mean = np.mean([to_dense(v, c) for v, c in networks], 0)
    for column, full in zip(got.T, mean.T, strict=True):
        kept = np.argsort(-abs(full))[:FAN_IN]
        assert (full != 0).sum() > FAN_IN
        np.testing.assert_array_equal(np.flatnonzero(column), np.sort(kept))
        np.testing.assert_allclose(column[kept], full[kept], rtol=1e-6)


def test_the_average_of_identical_networks_is_the_network(networks):
    values, connections = networks[0]
    absent = connect(connections.indices.at[2, 3].set(INPUTS), INPUTS, connections.positions.shape[0])
    values = values.at[2, 3].set(0.0)
    same = jax.tree.map(lambda a: jnp.stack([a] * 4), (values, absent))
    got, topology = average(*same)
    np.testing.assert_array_equal(to_dense(got, topology), to_dense(values, absent))
    np.testing.assert_array_equal(to_mask(topology), to_mask(absent))


def test_the_warm_up_ends_at_the_rate_times_the_workers():
    schedule = warm_up(0.1, 4, 10)
    np.testing.assert_allclose([schedule(0), schedule(25), schedule(50), schedule(99)], [0.1, 0.25, 0.4, 0.4])
    with pytest.raises(ValueError, match="at least 1, got 0, 10, 5"):
        warm_up(0.1, 0, 10)


def test_a_mesh_of_two_axes_is_refused():
    mesh = jax.make_mesh((1, 1), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2)
    with pytest.raises(ValueError, match="one axis, got"):
        parallel_training(lambda p, t, b: jnp.zeros(()), optax.sgd(0.1), mesh)


MESH = """
import jax, jax.numpy as jnp, numpy as np, optax
from metalearn_models.sparsity.layers import sparse_mlp, to_dense
from metalearn_models.sparsity.parallel import parallel_training
mesh = jax.make_mesh((2,), ("workers",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
network = sparse_mlp(6, (8,), 3, eps=2.0)
params, topologies = network.init(jax.random.key(0))
optimizer = optax.sgd(0.1, 0.9)

def loss(params, topologies, batch):
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, topologies, x), y).mean()

rng = np.random.default_rng(0)
x, y = jnp.asarray(rng.normal(size=(3, 4, 6)), jnp.float32), jnp.asarray(rng.integers(0, 3, (3, 4)))
train = parallel_training(loss, optimizer, mesh)
got, state, _ = train.together(params, topologies, optimizer.init(params), (x, y))
right, memory = params, optimizer.init(params)
for batch in zip(x, y):
    updates, memory = optimizer.update(jax.grad(loss)(right, topologies, batch), memory, right)
    right = optax.apply_updates(right, updates)
pairs = zip(jax.tree.leaves((got, state)), jax.tree.leaves((right, memory)))
print(max(float(abs(a - b).max()) for a, b in pairs) < 1e-6)

twice = lambda tree: jax.tree.map(lambda a: jnp.stack([a, a]), tree)
one, same, held = train.merge(*twice((got, topologies, state)))
pairs = [(one[0]["values"], got[0]["values"]), (held[0].trace[0]["values"], state[0].trace[0]["values"])]
print(all(bool((to_dense(a, same[0]) == to_dense(b, topologies[0])).all()) for a, b in pairs))
print(bool((one[1]["kernel"] == got[1]["kernel"]).all()))

halves = (jnp.stack([x[:, :2], x[:, 2:]]), jnp.stack([y[:, :2], y[:, 2:]]))
apart = train.apart(jax.random.key(1), *twice((got, topologies, state)), halves, 0.3)
indices = np.asarray(apart[1][0].indices)
print(bool((indices[0] != indices[1]).any()), apart[3].shape == (2,))
merged, topology, memory = train.merge(*apart[:3])
dense = [to_dense(merged[0]["values"], topology[0]), to_dense(jnp.ones_like(merged[0]["values"]), topology[0])]
print(bool(jnp.isfinite(dense[0]).all()), dense[1].sum() == indices[0].size, bool((dense[1] <= 1).all()))
"""


def test_training_together_is_training_on_the_whole_batch_and_apart_differs(on_eight_devices):
    assert set(on_eight_devices(MESH).split()) == {"True"}


def test_averages_may_need_a_larger_transpose():
    """Both networks have room for one output per input; the mean keeps the larger weights, which share an input."""
    one, two = (connect(jnp.asarray(i, jnp.int32), 2, 1) for i in ([[0, 1]], [[1, 0]]))
    values = jnp.asarray([[[9.0, 1.0]], [[1.0, 9.0]]])
    stacked: Connections = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)
    got, topology = average(values, stacked)
    np.testing.assert_array_equal(to_dense(got, topology), [[4.5, 4.5], [0.0, 0.0]])
    assert topology.positions.shape == (2, 2)
