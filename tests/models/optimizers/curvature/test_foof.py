"""FOOF against dense solves in float64, against its algorithm as a NumPy loop, and against Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn_models.optimizers.curvature import LayerStatistics, foof, scale_by_foof, value_grad_and_statistics
from metalearn_models.optimizers.curvature.layers import standard_layout
from tests.models.optimizers.curvature.small_network import draw, loss_fn, make_batch, make_params


def layer(a, e):
    """Statistics of one dense layer from its inputs [B, m] and the output gradients [B, n] of single examples."""
    gradient = a.T @ e / len(a)
    return gradient, LayerStatistics(a, e, gradient, None, standard_layout(gradient.shape))


def test_the_direction_is_the_least_squares_solution():
    """Eq. (5) with lambda, by `lstsq` on the augmented system, from the factors (n > B) and from the gradient."""
    for n in (3, 9):
        with jax.enable_x64(True):
            gradient, statistics = layer(a := draw(6, 4), e := draw(6, n, seed=1))
            tx = scale_by_foof(0.3)
            state = tx.init({"w": jnp.zeros((4, n))})
            found, _ = tx.update({"w": gradient}, state, statistics={"['w']": statistics})
            copied, _ = tx.update({"w": gradient + 0}, state, statistics={"['w']": statistics})
        rows = np.concatenate([np.asarray(a) / 6**0.5, 0.3**0.5 * np.eye(4)])
        goals = np.concatenate([np.asarray(e) / 6**0.5, np.zeros((4, n))])
        expected = np.linalg.lstsq(rows, goals, rcond=None)[0]
        np.testing.assert_allclose(found["w"], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(copied["w"], expected, rtol=1e-10, atol=1e-12)


def test_the_toy_of_the_paper():
    """Its appendix F: data (3, 1) -> 1 and (1, 0) -> -1 from zero weights; without damping the direction is (-1, 4)."""
    with jax.enable_x64(True):
        a, e = jnp.array([[3.0, 1.0], [1.0, 0.0]]), -jnp.array([[1.0], [-1.0]])
        gradient, statistics = layer(a, e)
        tx = foof(1.0, 1e-13)
        found, _ = tx.update(gradient, tx.init(jnp.zeros((2, 1))), statistics={"": statistics})
        np.testing.assert_allclose(found, [[-1], [4]], rtol=1e-8)
        large = scale_by_foof(1e9)
        found, _ = large.update(gradient, large.init(gradient), statistics={"": statistics})
        np.testing.assert_allclose(found * 1e9, gradient, rtol=1e-6)


@pytest.mark.parametrize("period, collect, burn_in", [(1, None, 0), (3, None, 0), (4, 2, 0), (3, 1, 2)])
def test_training_equals_the_algorithm_as_a_loop(period, collect, burn_in):
    """Algorithm 1 of the paper, its normalised average, and equal weights for the first estimate."""
    learning_rate, damping, decay, steps = 0.1, 0.2, 0.9, 9
    tx = foof(learning_rate, damping, decay=decay, period=period, collect=collect, burn_in=burn_in)

    def train(params, xs, ys):
        def step(carry, batch):
            params, state = carry
            _, grads, statistics = value_grad_and_statistics(loss_fn)(params, *batch)
            updates, state = tx.update(grads, state, params, statistics=statistics)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), (xs, ys))[0][0]

    with jax.enable_x64(True):
        xs, ys = (jnp.stack(z) for z in zip(*(make_batch(seed=t) for t in range(steps)), strict=True))
        found = jax.jit(train)(make_params(), xs, ys)
        w = jax.tree.map(np.asarray, make_params())
    (v, b), (u, c) = ((w[k]["kernel"], w[k]["bias"]) for k in ("first", "second"))
    sums, weight, inverses = [np.zeros((4, 4)), np.zeros((3, 3))], 0.0, None
    for t, (x, y) in enumerate(zip(np.asarray(xs), np.asarray(ys), strict=True)):
        h = np.tanh(x @ v + b)
        e = h @ u + c - y
        d = (e @ u.T) * (1 - h**2)
        since = max(t - burn_in, 0)
        if t < burn_in:
            sums, weight = [s + a.T @ a / 5 for s, a in zip(sums, (x, h), strict=True)], weight + 1
            continue
        if burn_in and t == burn_in:
            sums, weight = [s / weight for s in sums], 1.0
        if -since % period < (collect or period) or weight == 0:
            sums = [decay * s + (1 - decay) * a.T @ a / 5 for s, a in zip(sums, (x, h), strict=True)]
            weight = decay * weight + (1 - decay)
        if since % period == 0:
            inverses = [np.linalg.inv(s / weight + damping * np.eye(len(s))) for s in sums]
        v, u = v - learning_rate * inverses[0] @ x.T @ d / 5, u - learning_rate * inverses[1] @ h.T @ e / 5
        b, c = b - learning_rate * d.mean(0), c - learning_rate * e.mean(0)
    for got, kernel, bias in ((found["first"], v, b), (found["second"], u, c)):
        np.testing.assert_allclose(got["kernel"], kernel, rtol=1e-9)
        np.testing.assert_allclose(got["bias"], bias, rtol=1e-9)


def test_in_front_of_muon_it_is_newton_muon_and_muon_where_the_second_moment_is_the_identity():
    """Whitened inputs give K = I; others give Muon on `(K + damping I)^-1` times the gradient."""
    a, e = 2 * jnp.eye(4), draw(4, 3, seed=1).astype(jnp.float32)
    params = {"w": jnp.zeros((4, 3))}
    tx, muon = optax.chain(scale_by_foof(0.5), optax.contrib.muon(0.1)), optax.contrib.muon(0.1)

    def run(a):
        gradient, statistics = layer(a, e)
        found, _ = tx.update({"w": gradient}, tx.init(params), params, statistics={"['w']": statistics})
        direct = jnp.linalg.solve(a.T @ a / 4 + 0.5 * jnp.eye(4), gradient)
        results = [muon.update({"w": g}, muon.init(params), params)[0]["w"] for g in (gradient, direct)]
        return found["w"], *results

    with jax.numpy_dtype_promotion("standard"):
        found, plain, _ = jax.jit(run)(a)
        np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-6)
        found, plain, direct = jax.jit(run)(draw(4, 4, seed=2).astype(jnp.float32))
    np.testing.assert_allclose(found, direct, rtol=1e-4, atol=1e-6)
    assert np.abs(found - plain).max() > 1e-2
