"""Tasks whose best joint prediction is known exactly: a coin of unknown bias, and functions from a Gaussian process.

No learner can give the labels of such tasks a higher expected log-probability than Bayes' rule with the prior that drew
them. So the exact value is a floor of the joint loss, and a learner's distance to it is what it has left to learn.

- Coins: the bias is drawn from Beta(a, b). With h heads and t tails in the context, the probability of h' further heads
  and t' further tails in a given order is `B(a + h + h', b + t + t') / B(a + h, b + t)`.
- Gaussian process: labels are jointly normal. With the kernel `x . x'` it is Bayesian linear regression, the exact
  answer to the family `linear` of `regression.py` with noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Family, Signature

__all__ = ["coins", "exact_coin", "exact_gaussian_process", "linear_kernel"]


def coins(length: int, a: float = 1.0, b: float = 1.0) -> Family:
    """Sequences of tosses; a task is a coin, and the only input is the constant 1.

    Args:
        length: T, tosses per sequence.
        a: of the prior Beta(a, b) of the probability of label 1.
        b: of the same; a = b = 1 draws the bias uniformly.

    Raises:
        ValueError: a number is not positive.
    """
    if length < 1 or not (a > 0 and b > 0):
        raise ValueError(f"length, a and b must be positive, got {length}, {a} and {b}")

    def draw(data: Any, key: PRNGKeyArray) -> Float[Array, ""]:
        del data
        return jax.random.beta(key, a, b)

    def unseen(data: Any, index: Int[Array, ""] | int) -> Float[Array, ""]:
        return draw(data, jax.random.fold_in(jax.random.key(0), index))

    def episode(data: Any, task: Float[Array, ""], key: PRNGKeyArray) -> tuple[Array, Array]:
        del data
        tosses = jax.random.bernoulli(key, task, (length,))
        return jnp.ones((length, 1)), tosses.astype(jnp.int32)

    return Family(Signature(1, 2, length), draw, None, unseen, episode)


def exact_coin(a: float = 1.0, b: float = 1.0) -> Callable[..., Float[Array, ""]]:
    """Bayes' rule for `coins(length, a, b)`, as a `LogProb` of `metalearn.joint`.

    Args:
        a: of the prior.
        b: of the prior.
    """

    def log_prob(
        key: PRNGKeyArray, context_xs: Array, context_ys: Array, xs: Array, ys: Array, classes: Any = None
    ) -> Float[Array, ""]:
        del key, context_xs, xs, classes
        heads, more = (jnp.sum(labels).astype(jnp.float32) for labels in (context_ys, ys))
        tails, others = len(context_ys) - heads, len(ys) - more
        betaln = jax.scipy.special.betaln
        return betaln(a + heads + more, b + tails + others) - betaln(a + heads, b + tails)

    return log_prob


def linear_kernel(xs: Float[Array, "n D"], others: Float[Array, "m D"]) -> Float[Array, "n m"]:
    """`x . x'`, that of linear functions with standard normal weights."""
    return xs @ others.T


def exact_gaussian_process(kernel: Callable[[Array, Array], Array], noise: float) -> Callable[..., Float[Array, ""]]:
    """Bayes' rule for functions from a Gaussian process with Gaussian noise, as a `LogProb` of `metalearn.joint`.

    Args:
        kernel: `(xs[n, D], others[m, D]) -> covariances[n, m]`.
        noise: standard deviation of the noise on each label; positive, since repeated inputs have no density without.

    Returns:
        A `LogProb` of real labels: log-densities.

    Raises:
        ValueError: the noise is not positive.
    """
    if not noise > 0:
        raise ValueError(f"noise must be positive, got {noise}: without it repeated inputs have no density")

    def log_density(xs: Array, ys: Array) -> Float[Array, ""]:
        if not len(ys):
            return jnp.zeros(())
        covariance = kernel(xs, xs) + noise**2 * jnp.eye(len(ys))
        return jnp.asarray(jax.scipy.stats.multivariate_normal.logpdf(ys, jnp.zeros(len(ys)), covariance))

    def log_prob(
        key: PRNGKeyArray, context_xs: Array, context_ys: Array, xs: Array, ys: Array, classes: Any = None
    ) -> Float[Array, ""]:
        del key, classes
        both = jnp.concatenate([context_xs, xs]), jnp.concatenate([context_ys, ys])
        return log_density(*both) - log_density(context_xs, context_ys)

    return log_prob
