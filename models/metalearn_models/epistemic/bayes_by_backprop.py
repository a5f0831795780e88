"""Bayes by backprop: a normal distribution over each weight, fitted by its evidence lower bound.

Blundell, Cornebise, Kavukcuoglu and Wierstra 2015 (arXiv 1505.05424). A network is drawn as mean + deviation z, where z
is standard normal. Constants are those of the neural testbed: a standard normal prior (its mixture has one component),
whose divergence is exact, scaled by `sqrt(temperature) D / n`. The deviation that weights start with is our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Signature
from metalearn.ranges import Positive, Size, Steps
from metalearn_models.epistemic._common import adam, check_agent, cross_entropy, released_mlp, testbed_decay
from metalearn_models.epistemic.index import Agent, Examples, Knowledge, Params

__all__ = ["BayesByBackpropConfig", "bayes_by_backprop", "normal_divergence"]


@dataclass(frozen=True)
class BayesByBackpropConfig:
    """A multilayer perceptron with a normal distribution over each weight."""

    hidden: tuple[Size, ...] = (50, 50)
    """Widths of the hidden layers."""
    prior_deviation: Positive = 1.0
    """Standard deviation of the prior of each weight."""
    first_deviation: Positive = 0.05
    """Standard deviation of each weight before training; our choice."""
    draws: Size = 8
    """Networks drawn per training step."""
    learning_rate: Positive = 3e-3
    """Of Adam."""
    steps: Steps = 1000
    """Training steps."""


def bayes_by_backprop(signature: Signature, config: BayesByBackpropConfig = BayesByBackpropConfig()) -> Agent:
    """A network with a normal distribution over each weight.

    Args:
        signature: shapes of the task.
        config: the network and its training.

    Raises:
        ValueError: a field is out of range, or the task is regression.
    """
    check_agent(signature, config)
    network = released_mlp(signature.inputs, config.hidden, signature.outputs)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    first = math.log(math.expm1(config.first_deviation))  # softplus of it is the deviation

    def init(key: PRNGKeyArray, knowledge: Knowledge) -> Params:
        del knowledge
        mean = network.init(key)
        return Params({"mean": mean, "spread": jax.tree.map(lambda leaf: jnp.full_like(leaf, first), mean)}, ())

    def apply(params: Params, xs: Float[Array, "N D"], z: Any) -> Float[Array, "N C"]:
        mean, spread = params.learned["mean"], params.learned["spread"]
        drawn = jax.tree.map(lambda m, s, n: m + jax.nn.softplus(s) * n, mean, spread, z)
        return jax.vmap(lambda x: network.apply(drawn, x))(xs)

    def draw(key: PRNGKeyArray, count: int) -> Any:
        leaves, structure = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.normal(k, (count, *leaf.shape)) for k, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    def loss(params: Params, examples: Examples, knowledge: Knowledge, key: PRNGKeyArray) -> Float[Array, ""]:
        drawn = draw(key, config.draws)
        each = jax.vmap(lambda z: cross_entropy(apply(params, examples.xs, z), examples))(drawn)
        deviation = jax.tree.map(jax.nn.softplus, params.learned["spread"])
        divergence = normal_divergence(params.learned["mean"], deviation, config.prior_deviation)
        return each.mean() + testbed_decay(signature, knowledge) * divergence

    return Agent(init, apply, draw, loss, adam(config.learning_rate), config.steps, signature)


def normal_divergence(mean: Any, deviation: Any, prior: float) -> Float[Array, ""]:
    """The Kullback-Leibler divergence of independent normal weights from a normal prior with mean 0, in nats.

    Args:
        mean: of each weight, a tree of arrays.
        deviation: of each weight, positive, the same tree.
        prior: standard deviation of the prior.
    """

    def of_leaf(m: Array, s: Array) -> Array:
        return (jnp.log(prior / s) + (s**2 + m**2) / (2 * prior**2) - 0.5).sum()

    return jnp.asarray(sum(jax.tree.leaves(jax.tree.map(of_leaf, mean, deviation))))
