"""The Transformer for tables: what must not matter does not, and its two ways to compute agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.encoding import CATEGORY_CODES, encode, measure_columns
from metalearn_models.tabular.transformer.learner import network
from metalearn_models.tabular.transformer.network import Context

CONFIG = TableTransformerConfig(
    width=16, layers=2, cell_layers=1, key_size=8, hidden=16, frequencies=2, codes=4, votes=2
)
S, N, F, C = 12, 5, 4, 3


@pytest.fixture(scope="module")
def theta():
    """Weights that are large enough for every part to matter."""
    leaves, tree = jax.tree.flatten(jax.jit(network(CONFIG).init)(jax.random.key(0)))
    rng = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [x + 0.1 * rng.normal(size=x.shape).astype(np.float32) for x in leaves])


@pytest.fixture(scope="module")
def table():
    """Training rows with missing values and a categorical column, and test rows."""
    rng = np.random.default_rng(0)
    xs = rng.standard_normal((1, S + N, F)).astype(np.float32)
    xs[:, :, 1] = rng.integers(4, size=S + N)
    xs[0, 2, 0] = xs[0, S + 1, 2] = np.nan
    ys = np.concatenate([np.arange(C), rng.integers(C, size=S - C)])[None].astype(np.int32)
    spin = rng.integers(32, size=(1, F, 2)).astype(np.int32)
    names = np.array([[False, True, False, False]])
    context = Context(xs[:, :S], ys, names, np.ones((1, F), np.float32), spin, np.eye(4, dtype=np.float32)[None, :C])
    return context, xs[:, S:]


@pytest.fixture(scope="module")
def run():
    """The compiled one-pass answer."""
    return jax.jit(network(CONFIG).run)


def test_order_of_rows_does_not_matter(theta, table, run):
    context, xs = table
    order = np.random.default_rng(1).permutation(S)
    moved = context._replace(xs=context.xs[:, order], ys=context.ys[:, order])
    np.testing.assert_allclose(run(theta, moved, xs), run(theta, context, xs), atol=1e-5)


def test_order_of_columns_does_not_matter(theta, table, run):
    context, xs = table
    order = np.array([2, 0, 3, 1])
    moved = context._replace(
        xs=context.xs[..., order], categorical=context.categorical[:, order], spin=context.spin[:, order]
    )
    np.testing.assert_allclose(run(theta, moved, xs[..., order]), run(theta, context, xs), atol=1e-5)


def test_answers_follow_the_names_of_the_classes(theta, table, run):
    context, xs = table
    names = np.array([2, 0, 1])  # class k is now called names[k]
    moved = context._replace(ys=names[context.ys].astype(np.int32), codes=context.codes[:, np.argsort(names)])
    plain = run(theta, context, xs)
    np.testing.assert_allclose(run(theta, moved, xs)[..., names], plain, atol=1e-5)
    # Codes do say which class is which: without them moving along, answers change.
    other = run(theta, context._replace(codes=context.codes[:, np.argsort(names)]), xs)
    assert np.abs(other - plain).max() > 1e-4


def test_test_rows_do_not_see_each_other(theta, table, run):
    context, xs = table
    plain = run(theta, context, xs)
    changed = xs.copy()
    changed[0, 1:] = 7.0
    np.testing.assert_array_equal(run(theta, context, changed)[0, 0], plain[0, 0])
    assert np.abs(run(theta, context, changed)[0, 1] - plain[0, 1]).max() > 1e-3


def test_chunks_padding_and_the_one_pass_agree(theta, table, run):
    context, xs = table
    learner = network(CONFIG)

    @jax.jit
    def two_parts(theta, context, xs):
        return learner.answer(theta, learner.read(theta, context, 8), xs)

    padded = Context(
        np.pad(context.xs, ((0, 0), (0, 4), (0, 2)), constant_values=3.0),
        np.pad(context.ys, ((0, 0), (0, 4)), constant_values=-1),
        np.pad(context.categorical, ((0, 0), (0, 2))),
        np.pad(context.columns, ((0, 0), (0, 2))),
        np.pad(context.spin, ((0, 0), (0, 2), (0, 0))),
        np.pad(context.codes, ((0, 0), (0, 2), (0, 0)), constant_values=1.0),
    )
    answers = two_parts(theta, padded, np.pad(xs, ((0, 0), (0, 0), (0, 2)), constant_values=5.0))
    np.testing.assert_allclose(answers[..., :C], run(theta, context, xs), atol=1e-5)
    assert np.isneginf(answers[..., C:]).all()


def test_answers_are_log_probabilities_and_gradients_are_finite(theta, table):
    context, xs = table
    context = context._replace(codes=np.eye(4, dtype=np.float32)[None])  # class 3 has no row

    def loss(theta, xs):
        answers = network(CONFIG).run(theta, context, xs)
        return -answers[0, :, 0].sum(), answers

    (_, answers), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(theta, xs)
    np.testing.assert_allclose(np.exp(answers).sum(-1), 1, atol=1e-5)
    assert np.isneginf(answers[..., 3]).all()
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(gradient))


def test_one_training_row(theta):
    context = Context(
        np.full((1, 1, 2), 3.0, np.float32),
        np.zeros((1, 1), np.int32),
        np.zeros((1, 2), bool),
        np.ones((1, 2), np.float32),
        np.zeros((1, 2, 2), np.int32),
        np.eye(4, dtype=np.float32)[None, :1],
    )
    answers = jax.jit(network(CONFIG).run)(theta, context, np.array([[[1.0, np.nan], [1e30, -5.0]]], np.float32))
    np.testing.assert_allclose(answers, 0, atol=1e-6)  # there is one class only


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_precisions(theta, table, run, dtype):
    context, xs = table
    plain = np.asarray(run(theta, context, xs))
    with jax.enable_x64(dtype == "float64"):
        cast = lambda x: jnp.asarray(x, dtype)  # noqa: E731
        moved = context._replace(xs=cast(context.xs), columns=cast(context.columns), codes=cast(context.codes))
        answers = jax.jit(network(CONFIG).run)(theta, moved, cast(xs))
        assert answers.dtype == dtype
        np.testing.assert_allclose(answers.astype("float32"), plain, atol=1e-4 if dtype == "float64" else 0.3)


def test_encoding_against_loops():
    rng = np.random.default_rng(3)
    xs = rng.integers(6, size=(1, 9, 2)).astype(np.float32)
    xs[0, 4, 0] = np.nan
    new = np.array([[[2.0, 9.0], [np.nan, 1.5], [-1.0, xs[0, 0, 1]]]], np.float32)
    rows, spin = np.ones((1, 9), np.float32), np.array([[[0, 0], [5, 7]]], np.int32)
    measured = measure_columns(*(jnp.asarray(a) for a in (xs, rows, np.array([[False, True]]), spin)))
    cells, rank, there = jax.jit(encode)(measured, jnp.asarray(new))
    for j in range(2):
        known = xs[0, np.isfinite(xs[0, :, j]), j]
        for i in range(3):
            x, cell = new[0, i, j], np.asarray(cells[0, i, j])
            if np.isnan(x):
                np.testing.assert_array_equal(cell, [0, 0, 1, j] + [0] * 16)
                assert not there[0, i, j]
                continue
            middle = ((known < x).sum() + (known <= x).sum()) / 2 / len(known)
            np.testing.assert_allclose(rank[0, i, j], middle, rtol=1e-6)
            np.testing.assert_allclose(cell[0], np.arcsinh((x - known.mean()) / known.std()), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(cell[1:4], [(middle - 0.5) * 12**0.5, 0, j], rtol=1e-5, atol=1e-6)
            number = (len(np.unique(known[known < x])) * (2 * spin[0, j, 0] + 1) + spin[0, j, 1]) % 32
            expected = CATEGORY_CODES[number] if j == 1 and x in known else np.zeros(16)
            np.testing.assert_allclose(cell[4:], expected)
