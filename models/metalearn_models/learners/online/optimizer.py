"""Networks trained online by a learned optimizer: one that is being meta-trained, or one that was.

The setting is that of `network.py`: one update per example. The learned optimizer makes that update from the gradient.
Its meta-parameters are the learner's theta, so it is meta-trained like any in-context learner, on the same tasks and by
the same estimators, and is judged by the same curves as a Transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from metalearn.learner import Learner, Signature
from metalearn.ranges import Named, Place, Size
from metalearn_models.learners._common import check_settings
from metalearn_models.learners.online.network import (
    fresh_params,
    loss_of_predictions,
    online_learner,
    online_network,
)
from metalearn_models.networks.mlp import mlp
from metalearn_models.networks.network import Network
from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_models.optimizers.library import load, make
from metalearn_models.optimizers.registry import names

__all__ = [
    "OnlineOptimizerConfig",
    "PretrainedOptimizerConfig",
    "online_optimizer",
    "online_pretrained_optimizer",
    "online_with_optimizer",
]


@dataclass(frozen=True)
class OnlineOptimizerConfig:
    """A fresh multilayer perceptron per sequence, trained online by a learned optimizer that is meta-trained."""

    optimizer: Annotated[str, Named("learned optimizer", names)] = "lstm-log"
    """Name of a learned optimizer; `metalearn list` has all. Recurrent ones are quickly meta-trained by
    backpropagation; the others compile faster by evolution strategies (--gradient.method nres --gradient.window 10)."""
    hidden: tuple[Size, ...] = ()
    """Widths of the network's hidden layers. Without any it is online softmax (or linear) regression."""


@dataclass(frozen=True)
class PretrainedOptimizerConfig:
    """A fresh multilayer perceptron per sequence, trained online by a meta-trained optimizer."""

    weights: Annotated[str, Place()] = "small-fc-digits-500"
    """A meta-trained optimizer in the package, a file, or the folder of a run of `metalearn train-optimizer`."""
    hidden: tuple[Size, ...] = ()
    """Widths of the network's hidden layers."""


def online_optimizer(signature: Signature, config: OnlineOptimizerConfig = OnlineOptimizerConfig()) -> Learner:
    """A multilayer perceptron trained online by a learned optimizer whose meta-parameters are theta.

    Args:
        signature: shapes of the task.
        config: network and optimizer. Meta-gradients leave out second derivatives of the network.

    Raises:
        UnknownNameError: no such optimizer.
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)
    network = mlp(signature.inputs, config.hidden, signature.outputs)
    return online_with_optimizer(signature, network, first_order(make(config.optimizer)))


def online_pretrained_optimizer(
    signature: Signature, config: PretrainedOptimizerConfig = PretrainedOptimizerConfig()
) -> Learner:
    """The same by a meta-trained optimizer: nothing is left to meta-learn.

    Args:
        signature: shapes of the task.
        config: network and weights.

    Raises:
        UnknownNameError, FileNotFoundError, RunError: as `metalearn_models.optimizers.load`.
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)
    network = mlp(signature.inputs, config.hidden, signature.outputs)
    return online_network(signature, network, load(config.weights, signature.length))


def online_with_optimizer(signature: Signature, network: Network, optimizer: LearnedOptimizer) -> Learner:
    """Any network trained online by a learned optimizer, from a fresh draw of its parameters.

    Args:
        signature: shapes of the task; its length is the optimizer's `num_steps`.
        network: maps `x[D]` to `signature.outputs` values.
        optimizer: its meta-parameters are the learner's theta.

    Returns:
        A learner.
    """

    def transform(theta: Any) -> Any:
        return optimizer.transform(theta, signature.length)

    initial = fresh_params(network)
    return online_learner(
        signature, network, transform, optimizer.init, initial, loss_of_predictions, optimizer.differentiate
    )
