"""Dropout as an index: which hidden units are left out.

Gal and Ghahramani 2016, "Dropout as a Bayesian approximation" (arXiv 1506.02142). An index is one set of masks, which
holds for all inputs, so that a joint prediction is that of one thinned network at a time. (The released testbed draws
masks per row.) In training every example gets masks of its own. Constants are those of the neural testbed, where the
weight decay is scaled as that of the other agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Signature
from metalearn.ranges import NonEmpty, NonNegative, Positive, Size, Steps, Within
from metalearn_models.epistemic._common import (
    adam,
    check_agent,
    cross_entropy,
    released_mlp,
    sum_of_squares,
    testbed_decay,
)
from metalearn_models.epistemic.index import Agent, Examples, Knowledge, Params

__all__ = ["DropoutConfig", "dropout"]


@dataclass(frozen=True)
class DropoutConfig:
    """A multilayer perceptron whose hidden units are left out at random, in training and in prediction."""

    hidden: Annotated[tuple[Size, ...], NonEmpty()] = (100, 100)
    """Widths of the hidden layers; at least one."""
    rate: Annotated[float, Within(0.0, 1.0, above=True, below=True)] = 0.1
    """Probability that a hidden unit is left out."""
    decay: NonNegative = 1.0
    """Weight decay, times `sqrt(temperature) D / n`."""
    learning_rate: Positive = 1e-3
    """Of Adam."""
    steps: Steps = 1000
    """Training steps."""


def dropout(signature: Signature, config: DropoutConfig = DropoutConfig()) -> Agent:
    """A network with Monte Carlo dropout.

    Args:
        signature: shapes of the task.
        config: the network and its training.

    Raises:
        ValueError: a field is out of range, or the task is regression.
    """
    check_agent(signature, config)
    network = released_mlp(signature.inputs, config.hidden, signature.outputs)
    kept = 1.0 - config.rate

    def init(key: PRNGKeyArray, knowledge: Knowledge) -> Params:
        del knowledge
        return Params(network.init(key), ())

    def of_one(params: Params, x: Float[Array, "D"], masks: tuple[Array, ...]) -> Float[Array, "C"]:
        for layer, mask in zip(params.learned[:-1], masks, strict=True):
            x = mask * jax.nn.relu(x @ layer["weight"] + layer["bias"])
        return x @ params.learned[-1]["weight"] + params.learned[-1]["bias"]

    def apply(params: Params, xs: Float[Array, "N D"], z: tuple[Array, ...]) -> Float[Array, "N C"]:
        return jax.vmap(lambda x: of_one(params, x, z))(xs)

    def draw(key: PRNGKeyArray, count: int) -> tuple[Float[Array, "count _"], ...]:
        keys = jax.random.split(key, len(config.hidden))
        drawn = (jax.random.bernoulli(k, kept, (count, width)) for k, width in zip(keys, config.hidden, strict=True))
        return tuple(mask.astype(jnp.float32) / kept for mask in drawn)

    def loss(params: Params, examples: Examples, knowledge: Knowledge, key: PRNGKeyArray) -> Float[Array, ""]:
        logits = jax.vmap(lambda x, masks: of_one(params, x, masks))(examples.xs, draw(key, len(examples.xs)))
        decay = config.decay * testbed_decay(signature, knowledge)
        return cross_entropy(logits, examples) + decay * sum_of_squares(params.learned)

    return Agent(init, apply, draw, loss, adam(config.learning_rate), config.steps, signature)
