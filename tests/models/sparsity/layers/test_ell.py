"""Truly sparse products equal masked dense ones, in value and in both gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.sparsity.layers.convert import from_dense, from_mask, to_dense, to_mask
from metalearn_models.sparsity.layers.ell import ell_product
from metalearn_models.sparsity.layers.topology import connect, draw_connections, draw_values

INPUTS, OUTPUTS, FAN_IN, BATCH = 13, 10, 9, 6  # the fan-in is no multiple of the unrolling

TRACES = []


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    mask = np.zeros((INPUTS, OUTPUTS), bool)
    for o in range(OUTPUTS):
        mask[rng.choice(INPUTS, FAN_IN - (o % 3) * 2, replace=False), o] = True  # outputs of different fan-in
    mask[:, 4] = False  # and one without any
    kernel = rng.normal(size=mask.shape).astype(np.float32)
    x, g = rng.normal(size=(INPUTS, BATCH)).astype(np.float32), rng.normal(size=(OUTPUTS, BATCH)).astype(np.float32)
    values, connections = from_mask(jnp.asarray(kernel), jnp.asarray(mask))
    return kernel, mask, jnp.asarray(x), jnp.asarray(g), values, connections


@jax.jit
def value_and_gradients(values, connections, x, g):
    TRACES.append(1)
    y, back = jax.vjp(lambda v, x: ell_product(v, connections, x), values, x)
    return y, *back(g)


def test_value_and_gradients_equal_masked_dense(case):
    kernel, mask, x, g, values, connections = case
    y, d_values, d_x = value_and_gradients(values, connections, x, g)
    exact, x, g = (kernel * mask).astype(np.float64), np.asarray(x), np.asarray(g)
    np.testing.assert_allclose(y, exact.T @ x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(d_x, exact @ g, rtol=0, atol=1e-6)
    np.testing.assert_allclose(to_dense(d_values, connections), (x.astype(np.float64) @ g.T) * mask, rtol=0, atol=1e-6)
    assert (np.asarray(d_values)[np.asarray(connections.indices) == INPUTS] == 0).all()


def test_what_stands_at_an_absent_connection_counts_as_zero(case):
    _, _, x, g, values, connections = case
    full = jnp.where(connections.indices == INPUTS, 7.0, values)
    for got, right in zip(
        value_and_gradients(full, connections, x, g), value_and_gradients(values, connections, x, g), strict=True
    ):
        np.testing.assert_array_equal(got, right)


def test_another_topology_needs_no_compilation(case):
    _, _, x, g, values, connections = case
    value_and_gradients(values, connections, x, g)
    before = len(TRACES)
    inputs, rolled = INPUTS, connections.indices
    rolled = jnp.where(rolled < inputs, (rolled + 1) % inputs, inputs)
    y, _, d_x = value_and_gradients(values, connect(rolled, inputs, connections.positions.shape[0]), x, g)
    assert len(TRACES) == before
    old_y, _, old_d_x = value_and_gradients(values, connections, jnp.roll(x, -1, 0), g)
    np.testing.assert_allclose(y, old_y, rtol=1e-6)
    np.testing.assert_allclose(d_x, np.roll(old_d_x, 1, 0), rtol=1e-6)


def test_the_gradient_of_values_is_whole_over_several_blocks(case, monkeypatch):
    """With blocks of three outputs, which do not divide ten."""
    _, mask, x, g, values, connections = case
    right = (np.asarray(x, np.float64) @ np.asarray(g).T) * mask
    monkeypatch.setattr("metalearn_models.sparsity.layers.ell.BLOCK", 3 * values.shape[0] * BATCH)
    d_values = jax.vjp(lambda v: ell_product(v, connections, x), values)[1](g)[0]
    np.testing.assert_allclose(to_dense(d_values, connections), right, rtol=0, atol=1e-6)


def test_populations_of_values_and_second_derivatives(case):
    kernel, mask, x, _, values, connections = case

    def loss(values, x):
        return (ell_product(values, connections, x) ** 3).sum()

    def dense_loss(kernel, x):
        return ((kernel.T @ x) ** 3).sum()

    def curvature(loss):
        return jax.jit(lambda v, x: jax.grad(lambda x: jax.grad(loss)(v, x).sum())(x))

    exact = jnp.asarray(kernel * mask)
    # The sum of a gradient at connections only is that of the dense gradient under the mask.
    right = jax.grad(lambda x: (jax.grad(dense_loss)(exact, x) * jnp.asarray(mask, jnp.float32)).sum())(x)
    np.testing.assert_allclose(curvature(loss)(values, x), right, rtol=1e-4, atol=1e-3)
    many = jnp.stack([values, 2 * values])
    both = jax.jit(jax.vmap(lambda v: jax.grad(loss)(v, x)))(many)
    np.testing.assert_allclose(both[1], 4 * both[0], rtol=1e-4, atol=1e-4)


def test_bfloat16_is_summed_in_float32():
    """The sum of 512 times 1 in bfloat16 would stop at 256, and 257 times 512 would be rounded."""
    connections = draw_connections(jax.random.key(0), 512, 2, 512)
    x = jnp.ones((512, 257), jnp.bfloat16)
    y, back = jax.vjp(lambda v, x: ell_product(v, connections, x), jnp.ones((512, 2), jnp.float32), x)
    assert y.dtype == jnp.bfloat16 and (y == 512).all()
    d_values, d_x = back(y)
    assert d_values.dtype == jnp.float32 and d_x.dtype == jnp.bfloat16
    assert (d_values == 257 * 512).all() and (d_x == 1024).all()


def test_float64_stays_float64(case):
    kernel, mask, x, g, _, connections = case
    with jax.enable_x64(True):
        values = jnp.take_along_axis(jnp.asarray(kernel, jnp.float64), jnp.minimum(connections.indices, INPUTS - 1), 0)
        x, g = (np.asarray(a, np.float64) for a in (x, g))
        y, d_values, d_x = value_and_gradients(values, connections, jnp.asarray(x), jnp.asarray(g))
        exact = (kernel * mask).astype(np.float64)
        np.testing.assert_allclose(y, exact.T @ x, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(d_x, exact @ g, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(to_dense(d_values, connections), (x @ g.T) * mask, rtol=1e-12, atol=1e-12)
        assert d_x.dtype == d_values.dtype == jnp.float64


def test_dense_and_back(case):
    kernel, mask, _, _, values, connections = case
    np.testing.assert_array_equal(to_dense(values, connections), kernel * mask)
    np.testing.assert_array_equal(to_mask(connections), mask)
    kept, top = from_dense(jnp.asarray(kernel), 3)
    dense = np.asarray(to_dense(kept, top))
    for column, weights in zip(dense.T, kernel.T, strict=True):
        largest = np.sort(np.argsort(-abs(weights))[:3])
        np.testing.assert_array_equal(np.flatnonzero(column), largest)
        np.testing.assert_array_equal(column[largest], weights[largest])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda k: from_dense(k, 14), "fan_in must be between 1 and the number of inputs, 13; got 14"),
        (lambda k: from_mask(k, jnp.zeros(k.shape, bool)), "the mask keeps no connection"),
        (lambda k: connect(jnp.full((2, 3), 14), 13), "between 0 and 13, got 14 to 14"),
        (lambda k: connect(jnp.ones((2, 3), jnp.int32), 13), "reads one input twice"),
        (lambda k: connect(jnp.ones((1, 3), jnp.int32), 13, 2), "an input has 3 outputs, more than capacity=2"),
        (lambda k: draw_connections(jax.random.key(0), 4, 0, 1), "at least 1, got 4 and 0"),
        (lambda k: draw_connections(jax.random.key(0), 4, 3, 5), "number of inputs, 4; got 5"),
        (lambda k: draw_connections(jax.random.key(0), 2**16, 2**16, 2**15), "fewer than 2,147,483,648 connections"),
        (lambda k: draw_connections(jax.random.key(0), 4, 8, 2, 3), "at least 4 to hold 16 connections, got 3"),
        (lambda k: draw_connections(jax.random.key(0), 12, 9, 8, 6), "capacity=6 is too near to the mean fan-out, 6"),
    ],
)
def test_errors_say_what_was_got(case, make, words):
    with pytest.raises(ValueError, match=words):
        make(jnp.asarray(case[0]))


def test_values_are_drawn_within_their_bound():
    values = draw_values(jax.random.key(0), 6, 400)
    assert 0.98 < np.abs(values).max() <= 1 and abs(float((values**2).mean()) - 1 / 3) < 0.02
    assert np.abs(draw_values(jax.random.key(0), 6, 400, 0.1)).max() <= 0.1
