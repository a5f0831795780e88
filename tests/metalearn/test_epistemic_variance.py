"""The variance read from updates, against the posterior variance of a coin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metalearn.epistemic_variance import epistemic_variance, update_variance
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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: update_variance(jnp.ones((1, 2))), "got 1 rows"),
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
