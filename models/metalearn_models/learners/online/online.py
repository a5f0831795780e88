"""Networks trained online, one update an example; and MAML, whose initial weights are meta-learned.

The backpropagation baselines of Kirsch, Harrison, Sohl-Dickstein and Metz 2022 (arXiv 2212.04458): a fresh network
for every sequence, each example predicted before the one optimizer step that is taken on it. MAML is Finn, Abbeel
and Levine 2017 (arXiv 1703.03400) in that setting: the same learner, started from weights that are `theta` and are
meta-learned by backpropagation through all its updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.learner import Learner, Signature, prediction_loss
from metalearn_models.networks.mlp import mlp
from metalearn_models.networks.network import Network

Optimizer = Literal["adam", "sgd"]


class OnlineState(NamedTuple):
    """A network in training: its weights and what its optimizer remembers."""

    params: Any
    memory: Any


@dataclass(frozen=True)
class OnlineConfig:
    """A fresh multilayer perceptron a sequence, one optimizer step an example."""

    hidden: tuple[int, ...] = ()
    """Widths of the hidden layers. None at all is softmax (or linear) regression trained online, the best of this kind
    here as in the paper, whose code starts from 128 128 with a step size of 0.001."""
    optimizer: Optimizer = "adam"
    """Takes the step on each example."""
    learning_rate: float = 0.1
    """Its step size. The default is our choice, tuned for Adam without hidden layer on randomly projected digits (16
    inputs of unit variance); the best falls as 1.6 / inputs (0.01 with 196). With 128 128: 0.005."""


@dataclass(frozen=True)
class MAMLConfig:
    """A multilayer perceptron whose initial weights are meta-learned, one optimizer step an example."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers."""
    optimizer: Optimizer = "adam"
    """Takes the step on each example."""
    learning_rate: float = 1e-3
    """Its step size."""
    epsilon_root: float = 1e-8
    """Adam's constant inside the square root. Zero makes the meta-gradient NaN at a weight whose gradients were
    all exactly 0 (a dead ReLU): the square root has no slope there."""


def online(signature: Signature, config: OnlineConfig = OnlineConfig()) -> Learner:
    """A fresh multilayer perceptron trained online; nothing is meta-learned.

    Args:
        signature: shapes of the task.
        config: network and optimizer.

    Returns:
        A learner without meta-parameters. Labels are classes (cross-entropy) or real (squared error).

    Raises:
        ValueError: for an unknown optimizer, a step size or a width that is not positive.
    """
    tx = _optimizer(config.optimizer, config.learning_rate, epsilon_root=0.0)
    return online_with(signature, mlp(signature.inputs, config.hidden, signature.outputs), tx)


def maml(signature: Signature, config: MAMLConfig = MAMLConfig()) -> Learner:
    """The same multilayer perceptron, started from meta-learned weights.

    Args:
        signature: shapes of the task.
        config: network and inner optimizer.

    Returns:
        A learner whose `theta` is the network's initial parameters.

    Raises:
        ValueError: for an unknown optimizer, a step size or a width that is not positive.
    """
    tx = _optimizer(config.optimizer, config.learning_rate, config.epsilon_root)
    return maml_with(signature, mlp(signature.inputs, config.hidden, signature.outputs), tx)


def online_with(signature: Signature, network: Network, tx: optax.GradientTransformation) -> Learner:
    """Any network trained online by any optimizer, from a fresh draw of its parameters.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        tx: any optax transformation, hand-designed or learned; it is given the loss as `value`.

    Returns:
        A learner without meta-parameters: `init` returns `()`.
    """

    def init(key: PRNGKeyArray) -> tuple[()]:
        del key  # nothing is meta-learned
        return ()

    def initial(theta: tuple[()], key: PRNGKeyArray) -> Any:
        del theta
        return network.init(key)

    return trained_online(signature, network, lambda theta: tx, init, initial, _prediction_loss)


def maml_with(signature: Signature, network: Network, tx: optax.GradientTransformation) -> Learner:
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
        return theta

    return trained_online(signature, network, lambda theta: tx, network.init, initial, _prediction_loss)


def trained_online(
    signature: Signature,
    network: Network,
    optimizer: Callable[[Any], optax.GradientTransformation],
    init: Callable[[PRNGKeyArray], Any],
    initial: Callable[[Any, PRNGKeyArray], Any],
    loss: Callable[[Any, Float[Array, "C"], Array], Float[Array, ""]],
) -> Learner:
    """One update an example: what all learners of this kind have in common.

    Args:
        signature: shapes of the task.
        network: maps `x[D]` to `signature.outputs` values.
        optimizer: `(theta) -> transformation` of optax; it is given the loss as `value`.
        init: `(key) -> theta`, what is meta-learned.
        initial: `(theta, key) -> params`, where the network starts.
        loss: `(theta, outputs[C], y) -> scalar`, what each update descends.

    Returns:
        A learner.
    """

    def transform(theta: Any) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(optimizer(theta))

    def start(theta: Any, key: PRNGKeyArray) -> OnlineState:
        params = initial(theta, key)
        return OnlineState(params, transform(theta).init(params))

    def predict(theta: Any, state: OnlineState, x: Array) -> Array:
        del theta
        return network.apply(state.params, x)

    def observe(theta: Any, state: OnlineState, x: Array, y: Array) -> OnlineState:
        value, grads = jax.value_and_grad(lambda params: loss(theta, network.apply(params, x), y))(state.params)
        updates, memory = transform(theta).update(grads, state.memory, state.params, value=value)
        return OnlineState(optax.apply_updates(state.params, updates), memory)

    shapes = jax.eval_shape(lambda key: start(init(key), key), jax.random.key(0))
    floats = sum(leaf.size for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return Learner(init, start, predict, observe, None, floats, signature)


def _prediction_loss(theta: Any, outputs: Float[Array, "C"], y: Array) -> Float[Array, ""]:
    del theta  # fixed by the kind of task
    return prediction_loss(outputs, y)


def _optimizer(name: Optimizer, learning_rate: float, epsilon_root: float) -> optax.GradientTransformation:
    if learning_rate <= 0:
        raise ValueError(f"the step size must be positive, got {learning_rate}")
    match name:
        case "adam":
            return optax.adam(learning_rate, eps_root=epsilon_root)
        case "sgd":
            return optax.sgd(learning_rate)
    raise unknown_name("optimizer", name, get_args(Optimizer))
