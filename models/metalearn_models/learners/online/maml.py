"""MAML (Finn, Abbeel and Levine 2017, arXiv 1703.03400): a network trained online from meta-learned initial weights.

The setting is that of `network.py`: one update per example. The initial weights are `theta` and are meta-learned by
backpropagation through all updates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from metalearn.learner import Learner, Signature
from metalearn.ranges import NonNegative, Positive, Size
from metalearn_models.learners._common import check_settings
from metalearn_models.learners.online.network import Optimizer, loss_of_predictions, named_optimizer, online_learner
from metalearn_models.networks.mlp import mlp
from metalearn_models.networks.network import Network

__all__ = ["MAMLConfig", "maml", "maml_network"]


@dataclass(frozen=True)
class MAMLConfig:
    """A multilayer perceptron whose initial weights are meta-learned, one optimizer step per example."""

    hidden: tuple[Size, ...] = (128, 128)
    """Widths of the hidden layers."""
    optimizer: Optimizer = "adam"
    """Takes the step on each example."""
    learning_rate: Positive = 1e-3
    """Its step size."""
    epsilon_root: NonNegative = 1e-8
    """Adam's constant inside the square root. Zero makes the meta-gradient NaN at a weight whose gradients were
    all exactly 0 (a dead ReLU): the square root has no slope there."""


def maml(signature: Signature, config: MAMLConfig = MAMLConfig()) -> Learner:
    """A multilayer perceptron trained online from meta-learned weights.

    Args:
        signature: shapes of the task.
        config: network and inner optimizer.

    Returns:
        A learner whose `theta` is the network's initial parameters.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)
    tx = named_optimizer(config.optimizer, config.learning_rate, config.epsilon_root)
    return maml_network(signature, mlp(signature.inputs, config.hidden, signature.outputs), tx)


def maml_network(signature: Signature, network: Network, tx: optax.GradientTransformation) -> Learner:
    """Any network trained online by any optimizer, from initial parameters that are `theta`.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation that can be differentiated through; it is given the loss as `value`.

    Returns:
        A learner whose `theta` has the structure of `network.init(key)`.
    """

    def initial(theta: Any, key: PRNGKeyArray) -> Any:
        del key  # every sequence starts from the same weights
        # A copy: who donates the state would otherwise lose theta.
        return jax.tree.map(jnp.copy, theta)

    return online_learner(signature, network, lambda theta: tx, network.init, initial, loss_of_predictions)
