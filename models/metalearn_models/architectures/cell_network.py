"""The contract of a searched network, and its training as a `Search`: one program for every architecture of a space.

Plain SGD on minibatches. A step of an architecture then changes its own weights only, as training with shared weights
needs (Li and Talwalkar 2019, arXiv 1902.07638); momentum would go on moving the weights of others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped

from metalearn.inner import InnerLoop
from metalearn.search.population import Search
from metalearn_models.architectures.space import Space

__all__ = [
    "Candidate",
    "CellNetwork",
    "Examples",
    "SearchData",
    "classification_search",
    "scored_by_loss",
    "sequence_search",
    "sgd_step",
]


class CellNetwork(NamedTuple):
    """A network for every architecture of a space.

    Attributes:
        space: of the architectures.
        init: `(key) -> params`, of the same form for all architectures.
        apply: `(code, params, x[B, ...]) -> logits[B, ..., K]`; `code` is an integer array that may be traced.
    """

    space: Space
    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Int[Array, "C"], Any, Shaped[Array, "B ..."]], Float[Array, "B ... K"]]


class Candidate(NamedTuple):
    """What is searched: an architecture and the learning rate that it is trained with.

    Attributes:
        code: of the architecture.
        rate: learning rate of SGD.
    """

    code: Int[Array, "*n C"]
    rate: Float[Array, "*n"]


class Examples(NamedTuple):
    """Labelled examples: N inputs of any shape and N labels, or N sequences and as many of labels."""

    inputs: Shaped[Array, "N ..."]
    labels: Int[Array, "N ..."]


class SearchData(NamedTuple):
    """What candidates learn from and what they are scored on.

    Attributes:
        train: minibatches are drawn from it.
        valid: the score is that of these.
    """

    train: Examples
    valid: Examples


def sgd_step(grads: Any, params: Any, rate: Float[Array, ""], clip: float) -> Any:
    """`params - rate * grads`, where the norm of all gradients together is at most `clip`."""
    norm = optax.tree.norm(grads)
    factor = rate * jnp.minimum(1, clip / jnp.maximum(norm, 1e-12)).astype(rate.dtype)
    return jax.tree.map(lambda p, g: p - factor.astype(p.dtype) * g, params, grads)


def classification_search(network: CellNetwork, batch: int = 32, clip: float = float("inf")) -> Search:
    """Train the network of a `Candidate` by SGD on cross-entropy; the score is the error on the validation examples.

    Args:
        network: the network.
        batch: examples per step, drawn with replacement; all candidates of a population meet the same.
        clip: largest norm of a gradient.

    Returns:
        The search; its `data` is a `SearchData`.
    """

    def error(logits: Float[Array, "B ... K"], labels: Int[Array, "B ..."]) -> Float[Array, ""]:
        wrong = jnp.mean(jnp.argmax(logits, -1) != labels, dtype=logits.dtype)
        return jnp.where(jnp.isfinite(logits).all(), wrong, jnp.inf)

    return _search(network, batch, clip, error)


def scored_by_loss(search: Search, network: CellNetwork) -> Search:
    """The same training, scored by the cross-entropy on the validation examples in place of the error.

    Few validation examples have few different errors, so many candidates share one; their losses differ.

    Args:
        search: of `classification_search`.
        network: its network.
    """

    def loss(theta: Candidate, params: Any, data: SearchData) -> Float[Array, ""]:
        logits = network.apply(theta.code, params, data.valid.inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, data.valid.labels).mean()

    return Search(search.loop, loss)


def sequence_search(network: CellNetwork, batch: int = 16, clip: float = 0.25) -> Search:
    """Train the network of a `Candidate` by SGD on the next symbol; the score is the bits per validation symbol.

    Args:
        network: the network, whose `apply` gives logits for each place.
        batch: sequences per step.
        clip: largest norm of a gradient; the default is that of DARTS for recurrent cells.

    Returns:
        The search; its `data` is a `SearchData` of sequences `[N, T]`.
    """

    def bits(logits: Float[Array, "B ... K"], labels: Int[Array, "B ..."]) -> Float[Array, ""]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean() / math.log(2)

    return _search(network, batch, clip, bits)


def _search(network: CellNetwork, batch: int, clip: float, measure: Callable[[Array, Array], Array]) -> Search:
    def init(theta: Candidate, data: SearchData, key: PRNGKeyArray) -> Any:
        del theta, data
        return network.init(key)

    def loss_of(params: Any, theta: Candidate, examples: Examples) -> Float[Array, ""]:
        logits = network.apply(theta.code, params, examples.inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels).mean()

    def step(
        theta: Candidate, params: Any, t: Int[Array, ""], key: PRNGKeyArray, data: SearchData
    ) -> tuple[Any, Float[Array, ""], dict[str, Array]]:
        del t
        rows = jax.random.randint(key, (batch,), 0, len(data.train.labels))
        examples = Examples(jnp.asarray(data.train.inputs)[rows], jnp.asarray(data.train.labels)[rows])
        loss, grads = jax.value_and_grad(loss_of)(params, theta, examples)
        return sgd_step(grads, params, theta.rate, clip), loss, {}

    def score(theta: Candidate, params: Any, data: SearchData) -> Float[Array, ""]:
        return measure(network.apply(theta.code, params, data.valid.inputs), data.valid.labels)

    return Search(InnerLoop(init, step), score)
