"""Mean and variance of every online estimator against closed forms, on a linear system with a quadratic loss."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.gradients import (
    dodge,
    full_es,
    gpes,
    nres,
    nres_a,
    pes,
    pes_a,
    rtrl,
    truncated_backprop,
    truncated_es,
)
from metalearn_tasks.systems import linear as exact

LENGTH, STATE, PARAMETERS = 12, 4, 5
TRAJECTORIES = 100_000
SIGMA = 0.3  # any: on a quadratic loss nothing depends on it


def setting(length=LENGTH):
    system = exact.linear_system(jax.random.key(3), STATE, PARAMETERS, length)
    theta = jax.random.normal(jax.random.key(4), (PARAMETERS,))
    return exact.linear(length), system, theta


def estimates(estimator, system, theta, windows, trajectories):
    """For each trajectory, the sum over its windows of what the estimator gives for one pair, [trajectories, P]."""

    def one(key):
        state = estimator.init(theta, system, key)

        def window(state, w):
            gradient, state, _ = estimator.grad(theta, state, system, jax.random.fold_in(key, w), w)
            return state, gradient

        return jax.lax.scan(window, state, jnp.arange(windows))[1].sum(0)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(11), trajectories)))


def z_scores(samples, mean, variance):
    """Of the sample mean in each coordinate, and of the trace of the sample covariance."""
    n = len(samples)
    error = samples - samples.mean(0)
    of_mean = (samples.mean(0) - mean) / (samples.std(0) / n**0.5)
    squares = (error**2).sum(-1)
    of_variance = (squares.mean() * n / (n - 1) - variance) / (squares.std() / n**0.5)
    return of_mean, of_variance


pairs_in_step = {"sigma": SIGMA, "pairs": 1, "stagger": False}
CASES = {
    "full_es": (LENGTH, partial(full_es, sigma=SIGMA, pairs=1), exact.nres_variance),
    "nres window 1": (1, partial(nres, window=1, **pairs_in_step), exact.nres_variance),
    "nres window 3": (3, partial(nres, window=3, **pairs_in_step), exact.nres_variance),
    "pes window 1": (1, partial(pes, window=1, **pairs_in_step), exact.pes_variance),
    "pes window 3": (3, partial(pes, window=3, **pairs_in_step), exact.pes_variance),
    "pes window 6": (6, partial(pes, window=6, **pairs_in_step), exact.pes_variance),
    "gpes window 1 noise 4": (
        1,
        partial(gpes, window=1, resample=4, **pairs_in_step),
        partial(exact.gpes_variance, windows=4),
    ),
    "gpes noise kept": (3, partial(gpes, window=3, resample=12, **pairs_in_step), exact.nres_variance),
    "pes_a window 3": (3, partial(pes_a, window=3, **pairs_in_step), exact.pes_analytic_variance),
    "nres_a window 3": (3, partial(nres_a, window=3, **pairs_in_step), exact.nres_analytic_variance),
    "dodge window 3": (3, partial(dodge, batch=1, window=3, stagger=False), exact.nres_variance),
}


@pytest.mark.parametrize("name", CASES)
def test_mean_and_variance_are_those_of_the_closed_form(name):
    window, make, variance = CASES[name]
    with jax.enable_x64(True):
        loop, system, theta = setting()
        g = exact.influence(system, theta, window)
        samples = estimates(make(loop), system, theta, LENGTH // window, TRAJECTORIES) * window
        of_mean, of_variance = z_scores(samples, np.asarray(exact.full_gradient(g)), float(variance(g)))
    assert np.abs(of_mean).max() < 4, of_mean
    assert abs(of_variance) < 4


def test_rtrl_is_the_full_gradient():
    with jax.enable_x64(True):
        loop, system, theta = setting()
        g = exact.influence(system, theta, 3)
        (sample,) = estimates(rtrl(loop, 1, 3, stagger=False), system, theta, 4, 1) * 3
        np.testing.assert_allclose(sample, exact.full_gradient(g), rtol=1e-10)


def test_truncated_estimators_give_the_diagonal_of_the_influence():
    with jax.enable_x64(True):
        loop, system, theta = setting()
        local = np.einsum("wwp->p", np.asarray(exact.influence(system, theta, 3)))
        (sample,) = estimates(truncated_backprop(loop, 1, 3, stagger=False), system, theta, 4, 1) * 3
        np.testing.assert_allclose(sample, local, rtol=1e-10)
        samples = estimates(truncated_es(loop, window=3, **pairs_in_step), system, theta, 4, 20_000) * 3
        # its windows are independent: the variance of each is (P + 1) times its squared gradient
        each = np.einsum("wwp->wp", np.asarray(exact.influence(system, theta, 3)))
        of_mean, of_variance = z_scores(samples, local, (PARAMETERS + 1) * (each**2).sum())
        assert np.abs(of_mean).max() < 4
        assert abs(of_variance) < 4


def test_a_single_window_of_nres_never_varies_more_than_that_of_pes():
    with jax.enable_x64(True):
        loop, system, theta = setting()
        g = exact.influence(system, theta, 3)

        def second_moments(estimator):
            def one(key):
                state = estimator.init(theta, system, key)

                def window(state, w):
                    gradient, state, _ = estimator.grad(theta, state, system, jax.random.fold_in(key, w), w)
                    return state, jnp.square(gradient * 3).sum()

                return jax.lax.scan(window, state, jnp.arange(4))[1]

            return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 50_000)))

        for make, formula in ((pes, exact.pes_second_moment), (nres, exact.nres_second_moment)):
            moments = second_moments(make(loop, window=3, **pairs_in_step))
            z = (moments.mean(0) - np.asarray(formula(g))) / (moments.std(0) / len(moments) ** 0.5)
            assert np.abs(z).max() < 4, (make.__name__, z)
        assert (np.asarray(exact.nres_second_moment(g)) <= np.asarray(exact.pes_second_moment(g)) + 1e-12).all()


def test_the_pairs_of_a_batch_are_averaged():
    with jax.enable_x64(True):
        loop, system, theta = setting()
        g = exact.influence(system, theta, 3)
        for make, formula in ((pes, exact.pes_variance), (nres, exact.nres_variance)):
            samples = estimates(make(loop, SIGMA, 8, 3, stagger=False), system, theta, 4, 10_000) * 3
            of_mean, of_variance = z_scores(samples, np.asarray(exact.full_gradient(g)), float(formula(g)) / 8)
            assert np.abs(of_mean).max() < 4
            assert abs(of_variance) < 4
