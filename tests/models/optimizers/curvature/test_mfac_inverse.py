"""The inverse of the Fisher matrix of few gradients, against dense algebra and both recursions of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn_models.optimizers.curvature.mfac_inverse import invert_fisher, remove_jointly

CASES = [(8, 50, 1e-2), (32, 300, 1e-3), (40, 12, 1e-3)]
"""Gradients, weights, damping; in the last one there are more gradients than weights."""


def dense(gradients, damping):
    return damping * np.eye(gradients.shape[1]) + gradients.T @ gradients / len(gradients)


def static_recursion(gradients, damping, x):
    """The paper's first algorithm, one gradient after the other: `F^-1 x` and the diagonal of `F^-1`."""
    v, q, m = [], [], len(gradients)
    for g in gradients:
        row = g / damping - sum((vj * (vj @ g) / qj for vj, qj in zip(v, q, strict=True)), np.zeros_like(g))
        v.append(row)
        q.append(m + g @ row)
    v, q = np.array(v), np.array(q)
    return x / damping - (v @ x / q) @ v, 1 / damping - (v**2 / q[:, None]).sum(0)


def dynamic_recursion(gradients, damping, x):
    """The paper's second algorithm, from inner products of the gradients alone: `F^-1 x`."""
    m, rest = len(gradients), gradients @ gradients.T / damping + len(gradients) * np.eye(len(gradients))
    for i in range(m):  # the upper triangle of an LU factorisation without pivoting
        rest[i + 1 :] -= np.outer(rest[i + 1 :, i] / rest[i, i], rest[i])
    d = np.triu(rest) - m * np.eye(m)
    b = np.zeros((m, m))
    for i in range(m):
        b[i, i] = 1 / damping
        b[i] -= sum((d[j, i] / (m + d[j, j]) * b[j] for j in range(i)), np.zeros(m))
    p = gradients @ x / damping
    for i in range(m):
        p[i + 1 :] -= d[i, i + 1 :] * p[i] / (m + d[i, i])
    return x / damping - (p / (m + np.diag(d))) @ b @ gradients


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("m, d, damping", CASES)
def test_products_and_entries_are_those_of_the_dense_inverse_in_any_order_of_the_gradients(m, d, damping):
    rng = np.random.default_rng(m)
    gradients, x = rng.normal(size=(m, d)) / np.sqrt(d), rng.normal(size=d)
    inverse = np.linalg.inv(dense(gradients, damping))
    product, diagonal = static_recursion(gradients, damping, x)
    assert error(product, inverse @ x) < 1e-10 and error(diagonal, np.diag(inverse)) < 1e-10
    assert error(dynamic_recursion(gradients, damping, x), inverse @ x) < 1e-10
    rows, columns = np.divmod(np.arange(d * d), d)

    @jax.jit
    def queries(gradients, x):
        found = invert_fisher(gradients, damping)
        return found.multiply(x), found.diagonal(), found.entries(jnp.asarray(rows), jnp.asarray(columns))

    with jax.enable_x64(True):
        for order in (np.arange(m), rng.permutation(m)):
            product, diagonal, entries = queries(gradients[order], x)
            assert error(product, inverse @ x) < 1e-10
            assert error(diagonal, np.diag(inverse)) < 1e-10
            assert error(entries, inverse.ravel()) < 1e-10


@pytest.mark.parametrize("m, d, damping, scale, allowed", [
    (32, 1000, 1e-3, 1.0, 1e-5),
    (32, 1000, 1e-5, 1.0, 1e-3),
    (32, 1000, 1e-6, 1.0, 1e-2),
    (32, 1000, 1e-5, 1e-2, 2e-6),
])  # fmt: skip
def test_float32_is_as_exact_as_the_damping_allows(m, d, damping, scale, allowed):
    """With the tolerances that the paper's recursions were found to need; `scale` is the length of a gradient."""
    rng = np.random.default_rng(0)
    gradients, x = rng.normal(size=(m, d)) * scale / np.sqrt(d), rng.normal(size=d)
    found = invert_fisher(jnp.float32(gradients), damping).multiply(jnp.float32(x))
    gradients, x = np.float64(np.float32(gradients)), np.float64(np.float32(x))
    assert error(found, np.linalg.solve(dense(gradients, damping), x)) < allowed


def test_blocks_are_the_inverses_of_the_blocks_of_the_dense_matrix():
    """The last block is shorter than the others."""
    rng = np.random.default_rng(1)
    m, d, block = 6, 23, 5
    gradients, x = rng.normal(size=(m, d)), rng.normal(size=d)
    same = np.arange(d)[:, None] // block == np.arange(d)[None] // block
    inverse = np.linalg.inv(np.where(same, dense(gradients, 0.1), 0))
    rows, columns = np.divmod(np.arange(d * d), d)
    with jax.enable_x64(True):
        found = jax.jit(lambda g: invert_fisher(g, 0.1, block))(gradients)
        assert error(found.multiply(jnp.asarray(x)), inverse @ x) < 1e-12
        assert error(found.diagonal(), np.diag(inverse)) < 1e-12
        assert error(found.entries(jnp.asarray(rows), jnp.asarray(columns)), inverse.ravel()) < 1e-12
        whole = invert_fisher(jnp.asarray(gradients), 0.1, 100)
        assert error(whole.multiply(jnp.asarray(x)), np.linalg.solve(dense(gradients, 0.1), x)) < 1e-12


def least_rise(fisher, weights, removed):
    """The best weights in which those of `removed` are 0, and the rise of the quadratic model, by least squares."""
    kept, move = ~removed, np.where(removed, -weights, 0)
    move[kept] = -np.linalg.solve(fisher[np.ix_(kept, kept)], fisher[np.ix_(kept, removed)] @ move[removed])
    return weights + move, move @ fisher @ move / 2


def test_saliency_and_update_of_one_weight_are_the_optimum_and_those_of_many_are_so_jointly():
    rng = np.random.default_rng(2)
    m, d, damping = 9, 14, 1e-2
    gradients, weights = rng.normal(size=(m, d)), rng.normal(size=d)
    fisher = dense(gradients, damping)
    with jax.enable_x64(True):
        g, w = jnp.asarray(gradients), jnp.asarray(weights)
        found = invert_fisher(g, damping)
        saliencies = found.saliencies(w)
        for k in range(d):
            removed = np.arange(d) == k
            expected, rise = least_rise(fisher, weights, removed)
            assert error(saliencies[k], rise) < 1e-10
            assert error(found.remove(w, jnp.asarray(removed)), expected) < 1e-10
        removed = np.arange(d) % 3 > 0
        expected, rise = least_rise(fisher, weights, removed)
        assert error(remove_jointly(g, damping, w, jnp.asarray(removed)), expected) < 1e-10
        apart = np.asarray(found.remove(w, jnp.asarray(removed)))
        inverse = np.linalg.inv(fisher)
        paper = weights + inverse @ np.where(removed, -weights / np.diag(inverse), 0)
        assert error(apart, np.where(removed, 0, paper)) < 1e-10
        assert (apart - weights) @ fisher @ (apart - weights) / 2 > rise  # the paper's update is not the joint optimum


def test_weights_that_are_removed_already_cost_nothing_and_move_nothing():
    rng = np.random.default_rng(3)
    gone = np.arange(12) < 5
    gradients, weights = (
        jnp.float32(np.where(gone, 0, rng.normal(size=(4, 12)))),
        np.where(gone, 0, rng.normal(size=12)),
    )
    weights = jnp.float32(weights)
    found = invert_fisher(gradients, 1e-3)
    assert not found.saliencies(weights)[:5].any() and (found.saliencies(weights)[5:] > 0).all()
    np.testing.assert_array_equal(found.remove(weights, jnp.asarray(gone)), weights)
    np.testing.assert_array_equal(remove_jointly(gradients, 1e-3, weights, jnp.asarray(gone)), weights)
    np.testing.assert_array_equal(found.remove(weights, jnp.asarray(~gone)), 0)


def test_rounding_makes_no_saliency_infinite_or_negative():
    """Equal gradients with a damping far below the precision of float32."""
    gradients = jnp.ones((16, 4), jnp.float32) * 1e3
    saliencies = invert_fisher(gradients, 1e-2).saliencies(jnp.ones(4, jnp.float32))
    assert (saliencies >= 0).all() and jnp.isfinite(saliencies).all()
    alone = invert_fisher(jnp.full((64, 1), 1e3, jnp.float32), 1e-2).diagonal()[0]
    assert alone >= (1 - 1e-6) / (1e6 + 1e-2)


def test_an_inverse_goes_through_jit_and_vmap():
    gradients = jnp.asarray(np.random.default_rng(4).normal(size=(3, 4, 10)), jnp.float32)
    x = jnp.ones(10, jnp.float32)
    together = jax.jit(jax.vmap(lambda g: invert_fisher(g, 0.1, 4)))(gradients)
    found = jax.vmap(lambda inverse: inverse.multiply(x))(together)
    for g, row in zip(gradients, found, strict=True):
        np.testing.assert_allclose(row, invert_fisher(g, 0.1, 4).multiply(x), rtol=1e-5)


def test_what_cannot_be_inverted_is_refused():
    gradients = jnp.ones((3, 4))
    for damping in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"damping must be greater than 0, .* got {damping}"):
            invert_fisher(gradients, damping)
        with pytest.raises(ValueError, match="damping must be greater than 0"):
            remove_jointly(gradients, damping, jnp.ones(4), jnp.ones(4, bool))
    with pytest.raises(ValueError, match=r"block must be at least 1 weight, .* got 0"):
        invert_fisher(gradients, 1.0, 0)
    with pytest.raises(ValueError, match=r"at least one gradient of at least one weight, got \(0, 4\)"):
        invert_fisher(gradients[:0], 1.0)
