"""Pieces that several agents share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.learner import Signature
from metalearn_models._settings import check_settings
from metalearn_models.epistemic.index import Examples, Knowledge
from metalearn_models.networks.mlp import mlp
from metalearn_models.networks.network import Network

CUT = 0.87962566
"""Standard deviation of a standard normal number that is cut at two. The released networks do not correct for it, ours
do; the scales of priors and teachers were chosen with theirs."""


def released_mlp(inputs: int, hidden: tuple[int, ...], outputs: int) -> Network:
    """A ReLU network with the initial weights of the released code: cut at two standard deviations, biases 0.

    Args:
        inputs: D.
        hidden: widths of the hidden layers.
        outputs: C.
    """
    network = mlp(inputs, hidden, outputs)

    def init(key: PRNGKeyArray) -> Any:
        return tuple({**layer, "weight": CUT * layer["weight"]} for layer in network.init(key))

    return Network(init, network.apply)


def check_agent(signature: Signature, config: Any) -> None:
    """Refuse an agent that cannot be built.

    Raises:
        ValueError: a field is out of its range, which is named; or a signature of regression.
    """
    check_settings(signature, config)
    if signature.regression:
        raise ValueError(
            f"agents predict classes, which have a joint probability; got the regression signature {signature}"
        )


def cross_entropy(logits: Float[Array, "N C"], examples: Examples) -> Float[Array, ""]:
    """The mean cross-entropy of the examples that count; 0 if none does."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), examples.ys)
    return jnp.sum(examples.weights * each) / jnp.maximum(examples.weights.sum(), 1.0)


def sum_of_squares(tree: Any) -> Float[Array, ""]:
    """Of all numbers in a tree; the testbed's weight decay, without a half."""
    return jnp.asarray(sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)), jnp.float32(0)))


def testbed_decay(signature: Signature, knowledge: Knowledge) -> Float[Array, ""]:
    """`sqrt(temperature) D / n`, by which most of the testbed's agents scale their weight decay."""
    return jnp.sqrt(knowledge.temperature) * signature.inputs / knowledge.examples


def adam(learning_rate: float) -> Callable[[Knowledge, PRNGKeyArray], optax.GradientTransformation]:
    """The optimizer of an agent that takes Adam and is told nothing."""
    return lambda knowledge, key: optax.adam(learning_rate)
