"""A single network, a deep ensemble, and an ensemble with prior functions.

- Deep ensemble: Lakshminarayanan, Pritzel and Blundell 2017 (arXiv 1612.01474), without adversarial training.
- Prior functions: Osband, Aslanides and Cassirer 2018 (arXiv 1806.03335). To each member a network is added that is
  drawn once and never trained, so that members agree where there are examples and keep their doubts elsewhere.

The index is the number of the member. All members see the same minibatches. Constants are those of the neural testbed,
but for the number of members, of which it has 100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

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

__all__ = ["EnsembleConfig", "PriorEnsembleConfig", "SingleConfig", "ensemble", "prior_ensemble", "single"]


@dataclass(frozen=True)
class SingleConfig:
    """One multilayer perceptron, which has no index: its joint prediction is the product of its marginals."""

    hidden: tuple[Size, ...] = (50, 50)
    """Widths of the hidden layers."""
    decay: NonNegative = 1.0
    """Weight decay, times `sqrt(temperature) D / n`."""
    learning_rate: Positive = 1e-3
    """Of Adam."""
    steps: Steps = 1000
    """Training steps."""


@dataclass(frozen=True)
class EnsembleConfig(SingleConfig):
    """A deep ensemble: networks that differ in their initial weights."""

    members: Size = 30
    """Networks."""


@dataclass(frozen=True)
class PriorEnsembleConfig(EnsembleConfig):
    """An ensemble of networks to each of which a random network is added."""

    prior_scale: NonNegative = 3.0
    """What multiplies the prior functions, over the square root of the temperature."""


def single(signature: Signature, config: SingleConfig = SingleConfig()) -> Agent:
    """One network.

    Args:
        signature: shapes of the task.
        config: the network and its training.

    Raises:
        ValueError: a field is out of range, or the task is regression.
    """
    check_agent(signature, config)
    return _ensemble(signature, config, 1, 0.0)


def ensemble(signature: Signature, config: EnsembleConfig = EnsembleConfig()) -> Agent:
    """A deep ensemble. Arguments and errors as of `single`; an ensemble has at least two members."""
    check_agent(signature, config)
    return _ensemble(signature, config, _several(config.members), 0.0)


def prior_ensemble(signature: Signature, config: PriorEnsembleConfig = PriorEnsembleConfig()) -> Agent:
    """An ensemble with prior functions. Arguments and errors as of `ensemble`."""
    check_agent(signature, config)
    return _ensemble(signature, config, _several(config.members), config.prior_scale)


def _several(members: int) -> int:
    if members < 2:
        raise ValueError(f"members must be at least 2, since a joint prediction is a mean over them; got {members}")
    return members


def _ensemble(signature: Signature, config: SingleConfig, members: int, prior_scale: float) -> Agent:
    network = released_mlp(signature.inputs, config.hidden, signature.outputs)
    has_prior = prior_scale > 0

    def init(key: PRNGKeyArray, knowledge: Knowledge) -> Params:
        keys, prior_keys = jax.random.split(key, (2, members))
        learned = jax.vmap(network.init)(keys)
        if not has_prior:
            return Params(learned, ())
        scale = prior_scale / jnp.sqrt(knowledge.temperature)
        return Params(learned, {"scale": scale, "networks": jax.vmap(network.init)(prior_keys)})

    def of_member(params: Params, xs: Float[Array, "N D"], learned: Any, prior: Any) -> Float[Array, "N C"]:
        logits = jax.vmap(lambda x: network.apply(learned, x))(xs)
        if not has_prior:
            return logits
        fixed = jax.lax.stop_gradient(jax.vmap(lambda x: network.apply(prior, x))(xs))
        return logits + params.fixed["scale"] * fixed

    def priors(params: Params) -> Any:
        return params.fixed["networks"] if has_prior else params.learned

    def apply(params: Params, xs: Float[Array, "N D"], z: Int[Array, ""]) -> Float[Array, "N C"]:
        z = z % members  # the only member of a single network has several indices
        return of_member(params, xs, *jax.tree.map(lambda leaf: leaf[z], (params.learned, priors(params))))

    def draw(key: PRNGKeyArray, count: int) -> Int[Array, "Z"]:
        del key, count
        return jnp.arange(max(members, 2))

    def loss(params: Params, examples: Examples, knowledge: Knowledge, key: PRNGKeyArray) -> Float[Array, ""]:
        del key

        def of_one(learned: Any, prior: Any) -> Float[Array, ""]:
            return cross_entropy(of_member(params, examples.xs, learned, prior), examples)

        each = jax.vmap(of_one)(params.learned, priors(params))
        # The sum over members, not the mean: Adam then steps each of them as if it were alone.
        return each.sum() + config.decay * testbed_decay(signature, knowledge) * sum_of_squares(params.learned)

    return Agent(init, apply, draw, loss, adam(config.learning_rate), config.steps, signature)
