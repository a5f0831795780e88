"""Stochastic gradient Langevin dynamics with momentum: the index is the number of a sample of the posterior.

Welling and Teh 2011 for the noise, Chen, Fox and Guestrin 2014 (arXiv 1402.4102) for the momentum. With gradient g of
the mean loss and its decay, step size a, momentum decay b and n examples,

    m <- b m + sqrt(a) g - sqrt(2 (1 - b) / n) noise,      w <- w - sqrt(a) m,

which is what the neural testbed runs, with b = .9. The testbed takes 500,000 steps of size 1e-4. Ours are longer and
fewer, which is our choice; a prediction is the mean over the snapshots that training keeps (`training.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Signature
from metalearn.ranges import Decay, Positive, Size, Steps
from metalearn_models.epistemic._common import (
    check_agent,
    cross_entropy,
    released_mlp,
    sum_of_squares,
    testbed_decay,
)
from metalearn_models.epistemic.index import Agent, Examples, Knowledge, Params

__all__ = ["LangevinState", "SGMCMCConfig", "langevin", "sgmcmc"]


@dataclass(frozen=True)
class SGMCMCConfig:
    """Samples of the posterior of a multilayer perceptron, by Langevin dynamics with momentum."""

    hidden: tuple[Size, ...] = (50, 50)
    """Widths of the hidden layers."""
    prior_variance: Positive = 0.1
    """Divides the weight decay `sqrt(temperature) D / n`."""
    learning_rate: Positive = 1e-3
    """Step size; the testbed's is ten times smaller."""
    momentum: Decay = 0.9
    """Momentum decay."""
    samples: Size = 100
    """Samples kept, at equal distances over the last four fifths of the steps; the testbed keeps 400."""
    steps: Steps = 20_000
    """Steps; the testbed takes 500,000."""


class LangevinState(NamedTuple):
    """Memory of the dynamics.

    Attributes:
        step: steps taken.
        key: of the noise.
        momentum: m, of every weight.
    """

    step: Int[Array, ""]
    key: PRNGKeyArray
    momentum: Any


def langevin(
    key: PRNGKeyArray, examples: Float[Array, ""] | float, learning_rate: float, momentum: float
) -> optax.GradientTransformation:
    """The dynamics as an optax transformation.

    Args:
        key: of the noise.
        examples: n; the noise is that of a posterior of so many.
        learning_rate: a.
        momentum: b.
    """

    def init(params: Any) -> LangevinState:
        return LangevinState(jnp.int32(0), key, jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        leaves, structure = jax.tree.flatten(state.momentum)
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), max(1, len(leaves)))
        noise = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=False)]
        loud, root = jnp.sqrt(2 * (1 - momentum) / jnp.asarray(examples)), learning_rate**0.5
        moved = jax.tree.map(
            lambda m, g, n: momentum * m + root * g - loud.astype(m.dtype) * n,
            state.momentum,
            updates,
            jax.tree.unflatten(structure, noise),
        )
        return jax.tree.map(lambda m: -root * m, moved), LangevinState(state.step + 1, state.key, moved)

    return optax.GradientTransformation(init, update)


def sgmcmc(signature: Signature, config: SGMCMCConfig = SGMCMCConfig()) -> Agent:
    """Samples of the posterior of a network.

    Args:
        signature: shapes of the task.
        config: the network and its chain.

    Raises:
        ValueError: a field is out of range, there are fewer than two samples or too few steps for them, or the task is
            regression.
    """
    check_agent(signature, config)
    if config.samples < 2 or config.steps < 2 * config.samples:
        raise ValueError(
            f"need at least 2 samples and 2 steps per sample: got {config.samples} samples in {config.steps} steps"
        )
    network = released_mlp(signature.inputs, config.hidden, signature.outputs)

    def init(key: PRNGKeyArray, knowledge: Knowledge) -> Params:
        del knowledge
        return Params(network.init(key), ())

    def apply(params: Params, xs: Float[Array, "N D"], z: Int[Array, ""]) -> Float[Array, "N C"]:
        sample = jax.tree.map(lambda leaf: leaf[z], params.learned)
        return jax.vmap(lambda x: network.apply(sample, x))(xs)

    def draw(key: PRNGKeyArray, count: int) -> Int[Array, "Z"]:
        del key, count
        return jnp.arange(config.samples)

    def loss(params: Params, examples: Examples, knowledge: Knowledge, key: PRNGKeyArray) -> Float[Array, ""]:
        del key
        logits = jax.vmap(lambda x: network.apply(params.learned, x))(examples.xs)
        decay = testbed_decay(signature, knowledge) / config.prior_variance
        return cross_entropy(logits, examples) + decay * sum_of_squares(params.learned)

    def optimizer(knowledge: Knowledge, key: PRNGKeyArray) -> optax.GradientTransformation:
        return langevin(key, knowledge.examples, config.learning_rate, config.momentum)

    return Agent(init, apply, draw, loss, optimizer, config.steps, signature, config.samples)
