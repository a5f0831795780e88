"""All-ReLU, modules, block-sparse products, importance pruning and SET-MLP against their dense counterparts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from metalearn_models.sparsity.layers import (
    BlockDense,
    Connections,
    SparseDense,
    all_relu,
    block_product,
    block_to_dense,
    connect,
    draw_blocks,
    draw_connections,
    ell_product,
    erdos_renyi_fan_in,
    evolve_layers,
    from_linear,
    prune_neurons,
    remove_neurons,
    sparse_mlp,
    to_dense,
    to_linear,
    to_mask,
)

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 12)), jnp.float32)


def test_all_relu_is_relu_at_zero_and_alternates():
    x = jnp.asarray([-2.0, -0.0, 3.0])
    np.testing.assert_array_equal(all_relu(x, 1, 0.0), jax.nn.relu(x))
    np.testing.assert_allclose(all_relu(x, 1, 0.6), [1.2, 0.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(all_relu(x, 2, 0.6), [-1.2, 0.0, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(all_relu(x, 3, 0.6), all_relu(x, 1, 0.6))
    with pytest.raises(ValueError, match="numbered from 1, got layer=0"):
        all_relu(x, 0)


@pytest.fixture(scope="module")
def layer():
    return SparseDense(12, 9, 4, rngs=nnx.Rngs(0))


def test_a_sparse_module_stands_where_linear_stood(layer):
    layer.bias[...] = jnp.arange(9.0)
    linear = to_linear(layer)
    np.testing.assert_allclose(layer(X), linear(X), atol=1e-5)

    def loss(module, x):
        return (module(x) ** 2).mean()

    sparse, dense = (nnx.grad(loss)(module, X) for module in (layer, linear))
    np.testing.assert_allclose(
        to_dense(sparse["values"][...], layer.connections),
        dense["kernel"][...] * to_mask(layer.connections).astype(jnp.float32),
        atol=1e-5,
    )
    np.testing.assert_allclose(sparse["bias"][...], dense["bias"][...], atol=1e-5)
    assert set(sparse) == {"values", "bias"}
    back = from_linear(linear, 4)
    np.testing.assert_array_equal(to_mask(back.connections), to_mask(layer.connections))
    np.testing.assert_allclose(back(X), layer(X), atol=1e-5)
    with pytest.raises(ValueError, match="this layer has 12 inputs, got an array whose last axis is 3"):
        layer(jnp.ones((2, 3)))


def test_a_module_changes_its_topology_in_place(layer):
    before, values = np.asarray(layer.indices[...]), np.asarray(layer.values[...])
    moved = np.asarray(layer.evolve(jax.random.key(3)))
    assert 0 < moved.sum() == sum(int(0.3 * (sign * values > 0).sum()) for sign in (1, -1))
    np.testing.assert_array_equal(np.asarray(layer.indices[...])[~moved], before[~moved])
    np.testing.assert_allclose(layer(X), to_linear(layer)(X), atol=1e-5)


def test_blocks_equal_masked_dense():
    connections = draw_connections(jax.random.key(0), 4, 5, 2)
    connections = connect(connections.indices.at[1, 2].set(4), 4)  # one block is absent
    values = draw_blocks(jax.random.key(1), 2, 5, (3, 2)).at[1, 2].set(0.0)
    rng = np.random.default_rng(1)
    x, g = (jnp.asarray(rng.normal(size=(n, 7)), jnp.float32) for n in (12, 10))
    y, back = jax.jit(lambda v, x: jax.vjp(lambda v, x: block_product(v, connections, x), v, x))(values, x)
    d_values, d_x = back(g)
    dense = np.asarray(block_to_dense(values, connections))
    mask = np.asarray(block_to_dense(jnp.ones_like(values), connections))
    exact, wide_x, wide_g = (np.asarray(a, np.float64) for a in (dense, x, g))
    np.testing.assert_allclose(y, exact.T @ wide_x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(d_x, exact @ wide_g, rtol=0, atol=1e-6)
    np.testing.assert_allclose(block_to_dense(d_values, connections), wide_x @ wide_g.T * mask, rtol=0, atol=1e-6)
    assert (d_values[1, 2] == 0).all() and mask.sum() == 9 * 6
    with pytest.raises(ValueError, match="4 blocks of 3 inputs need 12 features, got 10"):
        block_product(values, connections, g)


def test_a_module_of_blocks_is_a_dense_layer_with_zeros():
    layer = BlockDense(12, 10, 2, (3, 2), rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(10, dtype=jnp.float32)
    kernel = np.asarray(block_to_dense(layer.values[...], layer.connections))
    np.testing.assert_allclose(layer(X), np.asarray(X) @ kernel + np.arange(10), atol=1e-5)
    assert (kernel != 0).sum() == 2 * 5 * 6
    with pytest.raises(ValueError, match=r"blocks of \(5, 2\) do not divide 12 inputs and 10 outputs"):
        BlockDense(12, 10, 2, (5, 2), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def network():
    """12 inputs, two hidden layers, a dense output; and one step of both forms."""
    network = sparse_mlp(12, (10, 8), 3, eps=2.0)
    return network, *jax.jit(network.init)(jax.random.key(0))


def dense_apply(params, topologies, x):
    for number, (layer, connections) in enumerate(zip(params, topologies, strict=True), 1):
        kernel = layer["kernel"] if connections is None else to_dense(layer["values"], connections)
        x = x @ kernel + layer["bias"][None]
        x = all_relu(x, number) if number < len(params) else x
    return x


@pytest.fixture(scope="module")
def prune():
    return jax.jit(prune_neurons, static_argnums=2)


def test_pruned_neurons_lose_their_incoming_connections_and_no_other(network, prune):
    _, params, topologies = network
    values, connections = params[0]["values"], topologies[0]
    new, left = prune(values, connections, 30.0)
    dense, after = np.asarray(to_dense(values, connections)), np.asarray(to_dense(new, left))
    sizes = np.abs(dense).sum(0)
    pruned = sizes <= np.percentile(sizes, 30)
    assert 0 < pruned.sum() < len(pruned)
    np.testing.assert_array_equal(after, np.where(pruned, 0, dense))
    right = connect(left.indices, 12, left.positions.shape[0])
    np.testing.assert_array_equal(np.sort(left.positions, 0), np.sort(right.positions, 0))
    again, _ = prune(new, left, 30.0)
    assert (np.asarray(again) != 0).any(0).sum() < (~pruned).sum()
    with pytest.raises(ValueError, match="between 0 and 100, got 101"):
        prune_neurons(values, connections, 101.0)


def test_removing_pruned_neurons_leaves_the_outputs_alone(network, prune):
    model, params, topologies = network
    first, second, last = params
    first = {"values": first["values"], "bias": jnp.linspace(-1.0, 1.0, 10)}
    values, connections = prune(first["values"], topologies[0], 30.0)
    apply = jax.jit(model.apply)
    before = apply(({**first, "values": values}, second, last), (connections, *topologies[1:]), X[0])

    def activation(b):
        return all_relu(b, 1)

    small = remove_neurons(
        values, first["bias"], connections, second["values"], second["bias"], topologies[1], activation
    )
    assert small.values.shape[1] == small.kept.sum() < 10
    after = apply(
        ({"values": small.values, "bias": small.bias}, {**second, "bias": small.next_bias}, last),
        (small.connections, small.next_connections, None),
        X[0],
    )
    np.testing.assert_allclose(after, before, atol=1e-6)
    nothing = Connections(jnp.full_like(connections.indices, 12), jnp.full_like(connections.positions, values.size))
    with pytest.raises(ValueError, match="no neuron has incoming connections left"):
        remove_neurons(values, first["bias"], nothing, second["values"], second["bias"], topologies[1], activation)


def test_training_equals_masked_training_and_the_output_layer_never_evolves(network):
    model, params, topologies = network
    assert topologies[2] is None and params[2]["kernel"].shape == (8, 3)
    assert params[0]["values"].shape == (erdos_renyi_fan_in(12, 10, 2.0), 10) == (4, 10)
    labels = jnp.asarray([0, 1, 2])
    optimizer = optax.sgd(0.1, 0.9)

    @jax.jit
    def step(params, state, topologies):
        def losses(params):
            sparse, dense = model.apply(params, topologies, X[0]), dense_apply(params, topologies, X[0])
            cost = optax.softmax_cross_entropy_with_integer_labels
            return cost(sparse, labels).mean() + cost(dense, labels).mean(), (sparse, dense)

        grads, both = jax.grad(losses, has_aux=True)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, both

    change = jax.jit(evolve_layers)
    state = optimizer.init(params)
    for seed in range(3):
        params, state, (sparse, dense) = step(params, state, topologies)
        np.testing.assert_allclose(sparse, dense, atol=1e-5)
        kernel = params[2]["kernel"]
        params, topologies, moved = change(jax.random.key(seed), params, topologies)
        np.testing.assert_array_equal(params[2]["kernel"], kernel)
        assert moved[0]["values"].any() and moved[1]["values"].any() and not moved[2]["kernel"].any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: erdos_renyi_fan_in(4, 4, 0.0), "eps must be positive, got 0.0"),
        (lambda: sparse_mlp(4, (0,), 2), r"at least one unit, got the widths \(4, 0, 2\)"),
        (lambda: SparseDense(4, 4, 5, rngs=nnx.Rngs(0)), "number of inputs, 4; got 5"),
        (lambda: from_linear(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), 0), "number of inputs, 4; got 0"),
    ],
)
def test_errors_say_what_was_got(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_erdos_renyi_fan_in_is_that_of_the_paper():
    """784-1000-1000-10 with eps = 20: 35,680 and 40,000 connections expected; the output layer would have too many."""
    assert erdos_renyi_fan_in(784, 1000) == 36 and erdos_renyi_fan_in(1000, 1000) == 40
    assert erdos_renyi_fan_in(1000, 10) == 1000


def test_a_batch_product_under_vmap_is_right(layer):
    x = X.reshape(12, 12).T
    y = ell_product(layer.values[...], layer.connections, x)
    single = jax.vmap(lambda c: ell_product(layer.values[...], layer.connections, c[:, None])[:, 0], 1, 1)(x)
    np.testing.assert_allclose(single, y, atol=1e-6)
