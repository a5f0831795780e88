"""Loops over blocks against the computation on the whole array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.learned.parts.blocks import fold_blocks, fold_entries, map_blocks


@pytest.mark.parametrize("length, width", [(9, 4), (20, 4), (3, 4), (4, 4), (5, 1)])
def test_a_fold_visits_every_row_once_and_in_order(length, width):
    """Along the second axis; an axis of length 1 belongs to every block."""
    x = jnp.arange(3.0 * length).reshape(3, length)
    bias = jnp.ones((3, 1))

    def body(block, carry):
        seen, visits = carry
        part = block.of(x, 1) + block.of(bias, 1)
        return block.put(seen, part, 1), 2 * visits + part[0, 0]  # the sum depends on the order

    seen, visits = fold_blocks(length, width, body, (jnp.zeros((3, length)), jnp.float32(0)))
    np.testing.assert_array_equal(seen, x + 1)
    expected = 0
    for start in range(0, length, width):
        expected = 2 * expected + start + 1
    assert visits == expected


@pytest.mark.parametrize("size, blocks", [(8, 1), (12, 2), (26, 4), (24, 3)])
def test_a_fold_over_entries_visits_each_once_in_blocks_of_equal_size_where_there_are_some(size, blocks):
    """At most 8 entries per block: 26 are no multiple of 5, 6, 7 or 8, so that the fourth block has two."""
    x = jnp.arange(1.0, size + 1)

    def body(block, carry):
        squares, count = carry
        return block.put(squares, jnp.square(block.of(x, 0)), 0), count + 1

    squares, count = fold_entries(x, 8, body, (jnp.zeros_like(x), 0))
    np.testing.assert_array_equal(squares, np.square(x))
    assert count == blocks


@pytest.mark.parametrize("blocks, width", [(1, 7), (3, 3), (4, 2)])
def test_a_map_over_blocks_is_the_function_of_the_whole(blocks, width):
    """Seven entries of two features each; what is padded has no effect on them, nor on their gradient."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.normal(size=(2, 7)), jnp.float32)
    start = jnp.asarray(rng.normal(size=blocks * width), jnp.float32)
    weight = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)

    def advance(memory, x):
        memory = memory + jnp.tanh(x[0]) * x[1]
        return memory, weight.T @ x + memory[None]

    memory, outputs = map_blocks(advance, start.reshape(blocks, width), inputs, blocks, width)
    whole, expected = advance(start[:7], inputs)
    np.testing.assert_allclose(memory.ravel()[:7], whole, rtol=1e-6)
    np.testing.assert_allclose(outputs, expected, rtol=1e-6)

    def loss(x):
        return jnp.square(map_blocks(advance, start.reshape(blocks, width), x, blocks, width)[1]).sum()

    slope = jax.grad(loss)(inputs)
    np.testing.assert_allclose(slope, jax.grad(lambda x: jnp.square(advance(start[:7], x)[1]).sum())(inputs), rtol=1e-5)
