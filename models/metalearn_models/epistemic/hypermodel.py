"""A linear hypermodel: a map from a short index to the weights of a network.

Dwaracherla, Lu, Ibrahimi, Osband, Wen and Van Roy 2020, "Hypermodels for exploration" (arXiv 2006.07464). Each layer's
weights are `offset + directions z`, where every layer reads its own part of the index z; a smaller network of the same
form, drawn once and never trained, is added as a prior. Constants are those of the neural testbed. How the directions
are drawn is our choice: as the offset is, one network per element of the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Signature
from metalearn.ranges import NonNegative, Positive, Size, Steps
from metalearn_models.epistemic._common import (
    adam,
    check_agent,
    cross_entropy,
    released_mlp,
    sum_of_squares,
    testbed_decay,
)
from metalearn_models.epistemic.index import Agent, Examples, Knowledge, Params
from metalearn_models.networks.network import Network

__all__ = ["HypermodelConfig", "hypermodel"]


@dataclass(frozen=True)
class HypermodelConfig:
    """A multilayer perceptron whose weights are a linear function of an index."""

    hidden: tuple[Size, ...] = (50, 50)
    """Widths of the hidden layers."""
    index: Size = 6
    """D_z, the width of the index, which is normal with an expected squared length of 1."""
    prior_hidden: tuple[Size, ...] = (10,)
    """Widths of the prior network."""
    prior_scale: NonNegative = 1.0
    """What multiplies the prior network, over the square root of the temperature."""
    draws: Size = 16
    """Indices drawn per training step."""
    decay: NonNegative = 1.0
    """Weight decay, times `sqrt(temperature) D / n`."""
    learning_rate: Positive = 1e-3
    """Of Adam."""
    steps: Steps = 2000
    """Training steps."""


def hypermodel(signature: Signature, config: HypermodelConfig = HypermodelConfig()) -> Agent:
    """A linear hypermodel with an additive prior.

    Args:
        signature: shapes of the task.
        config: the network, its prior and its training.

    Raises:
        ValueError: a field is out of range, or the task is regression.
    """
    check_agent(signature, config)
    network = released_mlp(signature.inputs, config.hidden, signature.outputs)
    prior = released_mlp(signature.inputs, config.prior_hidden, signature.outputs)
    width = config.index

    def init(key: PRNGKeyArray, knowledge: Knowledge) -> Params:
        key_learned, key_prior = jax.random.split(key)
        scale = config.prior_scale / jnp.sqrt(knowledge.temperature)
        return Params(_draw(network, key_learned, width), {"scale": scale, "weights": _draw(prior, key_prior, width)})

    def apply(params: Params, xs: Float[Array, "N D"], z: Float[Array, "Z"]) -> Float[Array, "N C"]:
        fixed = jax.lax.stop_gradient(params.fixed)
        learned, added = _weights(params.learned, z), _weights(fixed["weights"], z)
        return jax.vmap(lambda x: network.apply(learned, x) + fixed["scale"] * prior.apply(added, x))(xs)

    def draw(key: PRNGKeyArray, count: int) -> Float[Array, "count Z"]:
        return jax.random.normal(key, (count, width)) / jnp.sqrt(width)

    def loss(params: Params, examples: Examples, knowledge: Knowledge, key: PRNGKeyArray) -> Float[Array, ""]:
        each = jax.vmap(lambda z: cross_entropy(apply(params, examples.xs, z), examples))(draw(key, config.draws))
        return each.mean() + config.decay * testbed_decay(signature, knowledge) * sum_of_squares(params.learned)

    return Agent(init, apply, draw, loss, adam(config.learning_rate), config.steps, signature)


def _draw(network: Network, key: PRNGKeyArray, width: int) -> dict[str, Any]:
    key_offset, key_directions = jax.random.split(key)
    directions = jax.vmap(network.init)(jax.random.split(key_directions, width))
    return {"offset": network.init(key_offset), "directions": directions}


def _weights(hyper: dict[str, Any], z: Float[Array, "Z"]) -> Any:
    """The network of an index: layer i of L reads elements i, i + L, ... of it, or all if there are too few."""
    offset, directions = hyper["offset"], hyper["directions"]
    layers, found = len(offset), []
    for i, (start, along) in enumerate(zip(offset, directions, strict=True)):
        own = jnp.arange(len(z)) % layers == i if len(z) >= layers else jnp.ones(len(z), bool)
        part = jnp.where(own, z, 0.0)
        found.append({name: start[name] + jnp.tensordot(part, along[name], 1) for name in start})
    return tuple(found)
