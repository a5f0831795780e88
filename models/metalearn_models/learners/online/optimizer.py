"""Networks trained online by a learned optimizer: one that is being meta-trained, or one that was.

The setting is that of `online.py`: a fresh network for every sequence, each example predicted before the one update
that is taken on it. What changes is what makes that update of the gradient. With the optimizer's meta-parameters as
theta, its meta-training is that of any in-context learner, on the same tasks, by the same estimators, and it is judged
by the same curves as a Transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Learner, Signature, prediction_loss
from metalearn_models.learners.online.online import online_with, trained_online
from metalearn_models.networks.mlp import mlp
from metalearn_models.networks.network import Network
from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_models.optimizers.library import load
from metalearn_models.optimizers.registry import make


@dataclass(frozen=True)
class OnlineOptimizerConfig:
    """A fresh multilayer perceptron a sequence, trained online by a learned optimizer that is meta-trained."""

    optimizer: str = "lstm-log"
    """Name of a learned optimizer; `metalearn list` has all. Recurrent ones are quickly meta-trained by
    backpropagation; the others compile faster by evolution strategies (--gradient.method nres --gradient.window 10)."""
    hidden: tuple[int, ...] = ()
    """Widths of the network's hidden layers; none at all is online softmax (or linear) regression."""


@dataclass(frozen=True)
class PretrainedOptimizerConfig:
    """A fresh multilayer perceptron a sequence, trained online by a meta-trained optimizer."""

    weights: str = "small-fc"
    """A meta-trained optimizer in the package, a file, or the folder of a run of `metalearn train-optimizer`."""
    hidden: tuple[int, ...] = ()
    """Widths of the network's hidden layers."""


def online_optimizer(signature: Signature, config: OnlineOptimizerConfig = OnlineOptimizerConfig()) -> Learner:
    """A multilayer perceptron trained online by a learned optimizer whose meta-parameters are theta.

    Args:
        signature: shapes of the task.
        config: network and optimizer. Second derivatives of the network are left out of meta-gradients.

    Raises:
        UnknownNameError: no such optimizer.
        ValueError: when a width is not positive.
    """
    network = mlp(signature.inputs, config.hidden, signature.outputs)
    return online_by_optimizer(signature, network, first_order(make(config.optimizer)))


def online_pretrained(signature: Signature, config: PretrainedOptimizerConfig = PretrainedOptimizerConfig()) -> Learner:
    """The same by a meta-trained optimizer; nothing is meta-learned any more.

    Args:
        signature: shapes of the task.
        config: network and weights.

    Raises:
        UnknownNameError, FileNotFoundError, RunError: as `metalearn_models.optimizers.load`.
        ValueError: when a width is not positive.
    """
    network = mlp(signature.inputs, config.hidden, signature.outputs)
    return online_with(signature, network, load(config.weights, signature.length))


def online_by_optimizer(signature: Signature, network: Network, optimizer: LearnedOptimizer) -> Learner:
    """Any network trained online by a learned optimizer, from a fresh draw of its parameters.

    Args:
        signature: shapes of the task; its length is the optimizer's `num_steps`.
        network: maps `x[D]` to `signature.outputs` values.
        optimizer: its meta-parameters are the learner's theta.

    Returns:
        A learner.
    """

    def initial(theta: Any, key: PRNGKeyArray) -> Any:
        del theta
        return network.init(key)

    def loss(theta: Any, outputs: Float[Array, "C"], y: Array) -> Float[Array, ""]:
        del theta
        return prediction_loss(outputs, y)

    def by(theta: Any) -> Any:
        return optimizer.transform(theta, signature.length)

    return trained_online(signature, network, by, optimizer.init, initial, loss)
