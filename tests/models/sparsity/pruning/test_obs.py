"""Optimal brain surgeon and damage against dense matrices in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.sparsity.pruning import batch_gradients, optimal_brain_damage, optimal_brain_surgeon

M, DAMPING = 5, 1e-2


@pytest.fixture
def problem():
    """Weights of two layers and a bias, and gradients for each round, in float64."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = {"a": {"w": jnp.asarray(rng.normal(size=(3, 2)))}, "b": {"w": jnp.asarray(rng.normal(size=(2, 3)))}}
        params["a"]["bias"] = jnp.asarray(rng.normal(size=2))
        rows = [rng.normal(size=(M, 14)) for _ in range(8)]
        yield params, rows


def as_tree(rows):
    rows = jnp.asarray(rows)
    return {
        "a": {"w": rows[:, :6].reshape(-1, 3, 2), "bias": rows[:, 12:]},
        "b": {"w": rows[:, 6:12].reshape(-1, 2, 3)},
    }


def flat(params):
    return np.concatenate([np.ravel(params["a"]["w"]), np.ravel(params["b"]["w"])])


def dense_surgeon(w, rows, counts, block=None):
    """One removal rule after the other, with a dense inverse over the weights that are left."""
    alive = np.ones(len(w), bool)
    for count, g in zip(counts, rows, strict=False):
        g = np.where(alive, g[:, : len(w)], 0)
        fisher = DAMPING * np.eye(len(w)) + g.T @ g / M
        if block is not None:
            number = np.arange(len(w)) // block
            fisher = np.where(number[:, None] == number, fisher, 0)
        inverse = np.linalg.inv(fisher)
        cost = np.where(alive, w**2 / (2 * np.diag(inverse)), np.inf)
        removed = np.argsort(cost)[: int(alive.sum()) - count]
        move = np.zeros(len(w))
        move[removed] = -w[removed] / np.diag(inverse)[removed]
        alive[removed] = False
        w = np.where(alive, w + inverse @ move, 0)
    return w, alive


@pytest.mark.parametrize(("rounds", "block"), [(1, None), (4, None), (4, 5)])
def test_the_surgeon_is_that_of_dense_matrices(problem, rounds, block):
    params, rows = problem
    share = 1 / 3
    got = optimal_brain_surgeon(
        params, lambda p, n: as_tree(rows[n]), share, rounds=rounds, damping=DAMPING, block=block
    )
    counts = [round(12 * share ** ((n + 1) / rounds)) for n in range(rounds)]
    w, alive = dense_surgeon(flat(params), rows, counts, block)
    assert alive.sum() == 4
    np.testing.assert_allclose(flat(got.params), w, rtol=1e-10, atol=1e-12)
    assert (flat(got.masks) == alive).all()
    assert got.masks["a"]["bias"] is None
    assert (got.params["a"]["bias"] == params["a"]["bias"]).all()


def test_one_removal_is_the_least_rise_of_the_quadratic_model(problem):
    """Brute force: remove each weight in turn and minimise the quadratic model over all others."""
    params, rows = problem
    w, g = flat(params), rows[0][:, :12]
    fisher = DAMPING * np.eye(12) + g.T @ g / M
    rises, moves = [], []
    for k in range(12):
        others = np.delete(np.arange(12), k)
        z = np.zeros(12)
        z[k] = -w[k]
        z[others] = -np.linalg.solve(fisher[np.ix_(others, others)], fisher[others, k] * z[k])
        rises.append(z @ fisher @ z / 2)
        moves.append(z)
    best = int(np.argmin(rises))
    got = optimal_brain_surgeon(params, lambda p, n: as_tree(rows[0]), 11 / 12, damping=DAMPING)
    assert np.flatnonzero(~flat(got.masks)).tolist() == [best]
    np.testing.assert_allclose(flat(got.params), w + moves[best], rtol=1e-9, atol=1e-12)


def test_damage_is_the_diagonal_and_moves_nothing(problem):
    params, rows = problem
    got = optimal_brain_damage(params, lambda p, n: as_tree(rows[n]), 1 / 3, rounds=2, damping=DAMPING)
    w, alive = flat(params), np.ones(12, bool)
    for count, g in zip([round(12 * 3**-0.5), 4], rows, strict=False):
        cost = np.where(alive, w**2 * (DAMPING + (g[:, :12] ** 2).mean(0)), np.inf)
        alive[np.argsort(cost)[: int(alive.sum()) - count]] = False
    assert (flat(got.masks) == alive).all()
    assert (flat(got.params) == np.where(alive, w, 0)).all()


def test_each_round_sees_the_parameters_that_the_one_before_left(problem):
    params, rows = problem
    zeros = []

    def gradients(p, n):
        zeros.append(int((flat(p) == 0).sum()))
        return as_tree(rows[n])

    optimal_brain_surgeon(params, gradients, 1 / 4, rounds=2, damping=DAMPING)
    assert zeros == [0, 6]


def test_batch_gradients_are_those_of_each_batch():
    def loss(p, batch):
        return ((batch[0] @ p["w"] - batch[1]) ** 2).mean()

    rng = np.random.default_rng(1)
    x, y, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 4, 2), (3, 4), (2,)))
    got = batch_gradients(loss, {"w": w}, (x, y))["w"]
    want = [2 * x[i].T @ (x[i] @ w - y[i]) / 4 for i in range(3)]
    np.testing.assert_allclose(got, np.stack(want), rtol=1e-5)


def test_what_cannot_be_is_refused(problem):
    params, rows = problem
    bad = rows[0].copy()
    bad[2, 7] = np.nan
    for prune in (optimal_brain_surgeon, optimal_brain_damage):
        with pytest.raises(ValueError, match="gradients of round 0 are NaN or infinite"):
            prune(params, lambda p, n: as_tree(bad), 0.5)
        with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
            prune(params, lambda p, n: as_tree(rows[0]), 0.5, rounds=0)
        with pytest.raises(ValueError, match="damping must be greater than 0"):
            prune(params, lambda p, n: as_tree(rows[0]), 0.5, damping=0.0)
        with pytest.raises(ValueError, match=r"in \(0, 1\], got 1\.5"):
            prune(params, lambda p, n: as_tree(rows[0]), 1.5)


def test_parameters_keep_their_dtype_and_their_holes():
    params = {"w": jnp.arange(1.0, 7.0).reshape(2, 3).astype(jnp.bfloat16), "scale": jnp.float32(2.0), "none": None}
    grads = {"w": jnp.ones((2, 2, 3), jnp.bfloat16), "scale": jnp.ones(2), "none": None}
    for prune in (optimal_brain_surgeon, optimal_brain_damage):
        got = prune(params, lambda p, n: grads, 0.5, rounds=2)
        assert got.params["w"].dtype == jnp.bfloat16
        assert int(got.masks["w"].sum()) == 3
        assert (got.params["w"] == 0).tolist() == (~got.masks["w"]).tolist()
        assert got.params["scale"] == 2
        assert got.params["none"] is None
