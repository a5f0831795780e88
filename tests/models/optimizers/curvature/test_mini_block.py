"""Mini-block Fisher against the dense empirical Fisher matrix of single examples, with zeros between blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn.errors import NotEnoughMemoryError, UnknownNameError
from metalearn_models.optimizers.curvature import mini_block, value_grad_and_statistics
from metalearn_models.optimizers.curvature.layers import KernelLayout
from metalearn_models.optimizers.curvature.mini_block import block_size, mini_block_fisher, scale_by_mini_blocks
from tests.models.optimizers.curvature.small_network import draw

DAMPING = 0.1
DENSE, CONV, POINTWISE, ONE = (4, 3), (3, 2, 2, 3), (1, 1, 3, 2), (5, 1)
"""Shapes of kernels: dense, convolutional, convolutional with one weight per block, dense with one output."""


def loss_fn(kernel, x, y):
    if kernel.ndim == 2:
        out = x @ kernel
    else:
        out = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        out = jnp.tanh(out).sum((1, 2))
    return jnp.square(out - y).sum(-1).mean()


def batch(shape, examples=6):
    x = draw(examples, shape[0]) if len(shape) == 2 else draw(examples, 4, 3, shape[2])
    return x, draw(examples, shape[-1], seed=1)


def block_of(shape):
    """The number of the block of each weight."""
    grid = np.indices(shape)
    return (grid[-1] if len(shape) == 2 else grid[-2] * shape[-1] + grid[-1]).ravel()


@pytest.mark.parametrize("shape", [DENSE, CONV, POINTWISE, ONE])
def test_directions_solve_with_the_masked_empirical_fisher_matrix(shape):
    with jax.enable_x64(True):
        kernel, (x, y) = draw(*shape, seed=2), batch(shape)

        @jax.jit
        def directions(kernel, x, y):
            _, grads, statistics = value_grad_and_statistics(loss_fn)(kernel, x, y)
            found = []
            for blocks in ("each", "mean"):
                tx = scale_by_mini_blocks(DAMPING, blocks)
                found.append(tx.update(grads, tx.init(kernel), statistics=statistics)[0])
            single = jax.vmap(lambda a, b: jax.grad(loss_fn)(kernel, a[None], b[None]))(x, y)
            return found, single, grads

        (each, mean), single, gradient = directions(kernel, x, y)
    rows, number = np.asarray(single).reshape(len(x), -1), block_of(shape)
    fisher = np.where(number[:, None] == number[None], rows.T @ rows / len(x), 0)
    expected = np.linalg.solve(fisher + DAMPING * np.eye(len(number)), np.ravel(gradient))
    np.testing.assert_allclose(np.ravel(each), expected, rtol=1e-10, atol=1e-13)
    if len(set(number)) == 1:
        assert np.count_nonzero(fisher) == fisher.size  # one output: the whole matrix
    members = [np.flatnonzero(number == i) for i in sorted(set(number))]
    average = np.mean([fisher[np.ix_(m, m)] for m in members], 0) + DAMPING * np.eye(len(members[0]))
    for m in members:
        np.testing.assert_allclose(np.ravel(mean)[m], np.linalg.solve(average, np.ravel(gradient)[m]), rtol=1e-10)


def test_the_optimizer_is_momentum_then_blocks_then_decay():
    """Three steps of a NumPy loop with an average over batches, whose weights are those of a decaying mean."""
    rate, decay, shrink, mu = 0.1, 0.8, 0.05, 0.7
    tx = mini_block_fisher(rate, DAMPING, mu, shrink, decay=decay)
    rng = np.random.default_rng(0)
    data, start = [(rng.normal(size=(5, 4)), rng.normal(size=(5, 3))) for _ in range(3)], rng.normal(size=DENSE)
    w, v, average = start, np.zeros(DENSE), np.zeros((3, 4, 4))
    for t, (x, y) in enumerate(data):
        e = 2 * (x @ w - y)
        average = decay * average + (1 - decay) * np.einsum("bo,bi,bj->oij", e**2, x, x) / len(x)
        v = mu * v + x.T @ e / len(x)
        inverses = np.linalg.inv(average / (1 - decay ** (t + 1)) + DAMPING * np.eye(4))
        w = w - rate * (np.einsum("oij,jo->io", inverses, v) + shrink * w)
    with jax.enable_x64(True):
        data = jax.tree.map(lambda *x: np.stack(x), *data)

        @jax.jit
        def train(kernel, data):
            def step(carry, given):
                kernel, state = carry
                _, grads, statistics = value_grad_and_statistics(loss_fn)(kernel, *given)
                updates, state = tx.update(grads, state, kernel, statistics=statistics)
                return (optax.apply_updates(kernel, updates), state), None

            return jax.lax.scan(step, (kernel, tx.init(kernel)), data)[0][0]

        np.testing.assert_allclose(train(start, data), w, rtol=1e-10)


def test_layers_without_gradient_and_batches_of_one_are_solved():
    """Singular blocks: nothing, and a single example. A gradient of 0 then gives 0."""

    @jax.jit
    def one_step(x, y):
        kernel, tx = jnp.zeros(DENSE, jnp.float32), scale_by_mini_blocks(DAMPING)
        _, grads, statistics = value_grad_and_statistics(loss_fn)(kernel, x, y)
        return tx.update(grads, tx.init(kernel), statistics=statistics)

    x, y = map(jnp.float32, batch(DENSE, 1))
    for scale in (0.0, 1.0):
        updates, state = one_step(x, scale * y)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, state)))
        assert bool(updates.any()) == (scale > 0)


def test_blocks_are_those_of_neurons_and_of_kernels_between_channels():
    assert block_size(KernelLayout((7, 3), (0,))) == 7
    assert block_size(KernelLayout((3, 3, 4, 8), (0, 1, 2))) == 9
    assert block_size(KernelLayout((7, 2, 5), (0,))) == 7  # heads: two axes of outputs


@pytest.mark.unchecked_types
def test_what_cannot_work_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="damping must be positive and finite, got 0"):
        mini_block_fisher(0.1, 0)
    with pytest.raises(UnknownNameError, match="mean"):
        scale_by_mini_blocks(blocks="men")
    monkeypatch.setattr(mini_block, "available_bytes", lambda: 1_000_000)
    text = (
        r"the 100 blocks of 100 weights of a kernel of shape \[100, 100\] .* need 8.0 MB, 1.0 MB are free: .* 80.0 kB"
    )
    with pytest.raises(NotEnoughMemoryError, match=text):
        scale_by_mini_blocks().init(jnp.ones((100, 100)))
    scale_by_mini_blocks(blocks="mean").init(jnp.ones((100, 100)))
