"""The variance read from updates, against the posterior variance of a coin."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.epistemic_variance import epistemic_variance, step_variance, update_variance
from metalearn.learner import Learner, Signature

KEY = jax.random.key(2)


def counting(length):
    """Bayes' rule for a coin with a uniform prior: its state counts labels."""
    return Learner(
        lambda key: (),
        lambda theta, key: jnp.ones(2),
        lambda theta, state, x: jnp.log(state),
        lambda theta, state, x, y: state + jax.nn.one_hot(y, 2),
        None,
        2,
        Signature(1, 2, length),
    )


@pytest.mark.parametrize("heads", [30, 100, 180])
def test_the_variance_is_that_of_the_posterior_of_a_coin(heads):
    n = 200
    ys = jnp.asarray(np.arange(n) < heads, jnp.int32)
    found, variance = jax.jit(
        lambda ys: epistemic_variance(counting(n), (), jnp.ones((n, 1)), ys, jnp.ones((3, 1)), KEY, orders=32)
    )(ys)
    a, b = heads + 1, n - heads + 1
    np.testing.assert_allclose(found[:, 1], a / (a + b), rtol=1e-5)
    np.testing.assert_allclose(variance[:, 1], a * b / ((a + b) ** 2 * (a + b + 1)), rtol=0.1)
    np.testing.assert_allclose(variance[:, 0], variance[:, 1], rtol=1e-4)  # of two classes, one mirrors the other


def test_the_variance_of_a_path_is_the_sum_of_its_formula():
    path = np.random.default_rng(0).uniform(size=(5, 2, 3)).astype(np.float32)
    wanted = sum(k**2 * (path[k] - path[k - 1]) ** 2 for k in range(1, 5)) / 16
    np.testing.assert_allclose(update_variance(jnp.asarray(path)), wanted, rtol=1e-5)


def test_steps_of_several_examples_give_the_posterior_variance_of_a_coin_and_its_expectation_is_exact():
    """Over coins of a uniform bias the squared steps have the means that Bayes' rule gives them."""
    rng, counts, coins = np.random.default_rng(0), np.array([50, 75, 100, 150, 200]), 20_000
    bias = rng.uniform(size=coins)
    heads = np.cumsum([rng.binomial(m, bias) for m in np.diff(counts, prepend=0)], 0)
    a, n = heads[-1] + 1, counts[-1] + 2
    found = step_variance(((heads + 1) / (counts + 2)[:, None])[..., None], counts)[:, 0]
    # The mean posterior variance of a uniform bias after n tosses is 1 / (6 (n + 2)).
    exact = np.mean([(1 / (m + 2) - 1 / (k + 2)) / 6 / (1 / m - 1 / k) for m, k in itertools.pairwise(counts)])
    np.testing.assert_allclose(found.mean(), exact / 200, rtol=0.03)
    np.testing.assert_allclose(found.mean(), (a * (n - a) / (n**2 * (n + 1))).mean(), rtol=0.06)
    fair = np.abs(bias - 0.5) < 0.1  # and where probabilities are known to differ, so do the variances
    np.testing.assert_allclose(found[fair].mean(), (a * (n - a) / (n**2 * (n + 1)))[fair].mean(), rtol=0.06)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: update_variance(jnp.ones((1, 2))), "got 1 rows"),
        (lambda: step_variance(np.ones((2, 1)), np.array([3, 3])), r"got \[3, 3\] for 2 rows"),
        (lambda: step_variance(np.ones((2, 1)), np.array([0, 3])), r"from 1 on; got \[0, 3\]"),
        (
            lambda: epistemic_variance(counting(4), (), jnp.ones((5, 1)), jnp.zeros(5, int), jnp.ones((1, 1)), KEY),
            "need 1 to 4 examples.*got 5",
        ),
        (
            lambda: epistemic_variance(
                counting(4)._replace(signature=Signature(1, 1, 4, regression=True)),
                (), jnp.ones((2, 1)), jnp.zeros(2, int), jnp.ones((1, 1)), KEY,
            ),
            "has no probability",
        ),
    ],
)  # fmt: skip
def test_what_has_no_variance_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
