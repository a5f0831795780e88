"""Networks trained online, with one update per example.

The backpropagation baselines of Kirsch, Harrison, Sohl-Dickstein and Metz 2022 (arXiv 2212.04458): every sequence gets
a fresh network. It predicts each example, then takes one optimizer step on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, prediction_loss
from metalearn.ranges import Positive, Size
from metalearn_models.learners._common import check_settings, no_theta
from metalearn_models.networks.mlp import mlp
from metalearn_models.networks.network import Network
from metalearn_models.optimizers.contract import Differentiate, loss_and_gradient
from metalearn_models.optimizers.curvature import mark_logits, mark_means

__all__ = ["OnlineConfig", "OnlineState", "online_learner", "online_mlp", "online_network"]

Optimizer = Literal["adam", "sgd"]


class OnlineState(NamedTuple):
    """A network in training.

    Attributes:
        params: its parameters.
        memory: the state of its optimizer.
    """

    params: Any
    memory: Any


@dataclass(frozen=True)
class OnlineConfig:
    """A fresh multilayer perceptron per sequence, one optimizer step per example."""

    hidden: tuple[Size, ...] = ()
    """Widths of the hidden layers. Without any it is softmax (or linear) regression trained online, the best of this
    kind here as in the paper, whose code starts from 128 128 with a step size of 0.001."""
    optimizer: Optimizer = "adam"
    """Takes the step on each example."""
    learning_rate: Positive = 0.1
    """Its step size. The default is our choice, tuned for Adam without hidden layers on randomly projected digits (16
    inputs of unit variance); the best falls as 1.6 / inputs (0.01 with 196). With 128 128: 0.005."""


def online_mlp(signature: Signature, config: OnlineConfig = OnlineConfig()) -> Learner:
    """A fresh multilayer perceptron trained online; nothing is meta-learned.

    Args:
        signature: shapes of the task.
        config: network and optimizer.

    Returns:
        A learner without meta-parameters. Labels are classes (cross-entropy) or real (squared error).

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named.
    """
    check_settings(signature, config)
    tx = named_optimizer(config.optimizer, config.learning_rate)
    return online_network(signature, mlp(signature.inputs, config.hidden, signature.outputs), tx)


def online_network(
    signature: Signature,
    network: Network,
    tx: optax.GradientTransformation,
    differentiate: Differentiate = loss_and_gradient,
) -> Learner:
    """Any network trained online by any optimizer, from a fresh draw of its parameters.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation, hand-designed or learned; it is given the loss as `value`.
        differentiate: what it reads of the loss, such as `curvature.loss_and_statistics`; a batch has one example.

    Returns:
        A learner without meta-parameters: `init` returns `()`.
    """
    initial = fresh_params(network)
    return online_learner(signature, network, lambda theta: tx, no_theta, initial, loss_of_predictions, differentiate)


def online_learner(
    signature: Signature,
    network: Network,
    optimizer: Callable[[Any], optax.GradientTransformation],
    init: Callable[[PRNGKeyArray], Any],
    initial: Callable[[Any, PRNGKeyArray], Any],
    loss: Callable[[Any, Float[Array, "C"], Array], Float[Array, ""]],
    differentiate: Differentiate = loss_and_gradient,
) -> Learner:
    """One update per example: what all learners in this folder have in common.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        optimizer: `(theta) -> transformation` of optax; it is given the loss as `value`.
        init: `(key) -> theta`, what is meta-learned.
        initial: `(theta, key) -> params`, where the network starts.
        loss: `(theta, outputs[C], y) -> scalar`, what each update descends.
        differentiate: what the optimizer reads of this loss; it gets no key.

    Returns:
        A learner.
    """

    def transform(theta: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optimizer(theta))

    def start(theta: Any, key: PRNGKeyArray) -> OnlineState:
        params = initial(theta, key)
        return OnlineState(params, transform(theta).init(params))

    def predict(theta: Any, state: OnlineState, x: Float[Array, "D"]) -> Float[Array, "C"]:
        del theta
        return network.apply(state.params, x)

    def observe(theta: Any, state: OnlineState, x: Float[Array, "D"], y: Labels) -> OnlineState:
        loss_of_params = lambda params: loss(theta, network.apply(params, x), y)  # noqa: E731
        value, grads, extra = differentiate(loss_of_params)(state.params, None)
        updates, memory = transform(theta).update(grads, state.memory, state.params, value=value, **extra)
        return OnlineState(optax.apply_updates(state.params, updates), memory)

    shapes = jax.eval_shape(lambda key: start(init(key), key), jax.random.key(0))
    floats = sum(leaf.size for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return Learner(init, start, predict, observe, None, floats, signature)


def fresh_params(network: Network) -> Callable[[Any, PRNGKeyArray], Any]:
    """The `initial` of a network that starts from a fresh draw, whatever theta is."""

    def initial(theta: Any, key: PRNGKeyArray) -> Any:
        del theta
        return network.init(key)

    return initial


def loss_of_predictions(theta: Any, outputs: Float[Array, "C"], y: Labels) -> Float[Array, ""]:
    """The `loss` that meta-training minimises too: cross-entropy of classes, squared error of real labels."""
    del theta
    squared = jnp.issubdtype(y.dtype, jnp.floating)
    return prediction_loss(mark_means(outputs, 2.0) if squared else mark_logits(outputs), y)


def named_optimizer(name: Optimizer, learning_rate: float, epsilon_root: float = 0.0) -> optax.GradientTransformation:
    """Adam or SGD by name."""
    return optax.sgd(learning_rate) if name == "sgd" else optax.adam(learning_rate, eps_root=epsilon_root)
