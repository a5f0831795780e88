"""Learners that compare: the nearest neighbour (Cover and Hart 1967) and the nearest class mean.

The 1-nearest-neighbour rule remembers everything and generalises only by distance. The nearest class mean is what
prototypical networks (Snell, Swersky and Zemel 2017, arXiv 1703.05175) compute in their feature space. Neither has
meta-parameters. They are the first curves that an in-context learner must beat. Distances are Euclidean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature, batch_run
from metalearn.ranges import Positive
from metalearn_models.learners._common import check_settings, dot, no_theta

__all__ = ["UNSEEN", "NearestCentroidConfig", "NearestNeighbourConfig", "nearest_centroid", "nearest_neighbour"]

UNSEEN = -1e9
"""Logit of a class without an example yet, once another class has one."""


class _Memory(NamedTuple):
    """The examples so far; rows `stored` and later are empty."""

    xs: Float[Array, "T D"]
    ys: Labels
    stored: Int[Array, ""]


class _ClassMeans(NamedTuple):
    """Sums and numbers of the examples of each class."""

    sums: Float[Array, "C D"]
    counts: Float[Array, "C"]


@dataclass(frozen=True)
class NearestNeighbourConfig:
    """Predicts the label of the nearest example so far."""

    temperature: Positive = 1.0
    """Divides the squared distances, minus which are the logits. It changes the loss, never the predicted class."""


@dataclass(frozen=True)
class NearestCentroidConfig:
    """Predicts the class with the nearest mean."""

    temperature: Positive = 1.0
    """Divides the squared distances, minus which are the logits. It changes the loss, never the predicted class."""


def nearest_neighbour(
    signature: Signature,
    config: NearestNeighbourConfig = NearestNeighbourConfig(),
) -> Learner:
    """1-nearest neighbour; of equally near examples, the one that was stored first.

    The logit of a class is minus the squared distance to its nearest example (`UNSEEN` without one). In regression the
    prediction is the neighbour's value. Before any example, all outputs are 0. The memory holds `signature.length`
    examples; later ones are not stored.

    Args:
        signature: shapes of the task.
        config: scale of the logits.

    Returns:
        A learner without meta-parameters, with a parallel `run` that costs one Gram matrix.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named. `run`
            raises it for a sequence longer than the memory.
    """
    check_settings(signature, config)
    length, outputs = signature.length, signature.outputs

    def start(theta: Any, key: PRNGKeyArray) -> _Memory:
        del theta, key
        ys = jnp.zeros(length, jnp.float32 if signature.regression else jnp.int32)
        return _Memory(jnp.zeros((length, signature.inputs), jnp.float32), ys, jnp.int32(0))

    def predict(theta: Any, state: _Memory, x: Float[Array, "D"]) -> Float[Array, "C"]:
        del theta
        squared = jnp.square(state.xs - x[None]).sum(1)
        return answer(squared, jnp.arange(length) < state.stored, state.ys)

    def observe(theta: Any, state: _Memory, x: Float[Array, "D"], y: Labels) -> _Memory:
        del theta
        xs = state.xs.at[state.stored].set(x, mode="drop")
        ys = state.ys.at[state.stored].set(y.astype(state.ys.dtype), mode="drop")
        return _Memory(xs, ys, state.stored + 1)

    def run(theta: Any, xs: Float[Array, "T D"], ys: Labels) -> Float[Array, "T C"]:
        del theta
        if xs.shape[0] > length:
            raise ValueError(f"the memory holds {length} examples, got a sequence of {xs.shape[0]}")
        gram = _gram(xs)
        norms = jnp.diagonal(gram)
        squared = norms[:, None] + norms[None, :] - 2 * gram
        before = jnp.tril(jnp.ones(gram.shape, bool), -1)
        return jax.vmap(answer, (0, 0, None))(squared, before, ys)

    def answer(squared: Float[Array, "T"], known: Bool[Array, "T"], ys: Labels) -> Float[Array, "C"]:
        """The output for one input: its squared distances to all examples, which of them are known, their labels."""
        squared = jnp.where(known, squared, jnp.inf)
        nearest = ys[jnp.argmin(squared)]
        if signature.regression:
            return jnp.where(known.any(), nearest, 0.0)[None]
        classes = jnp.arange(outputs)
        per_class = jnp.where(ys[:, None] == classes[None, :], squared[:, None], jnp.inf).min(0)
        logits = jnp.where(jnp.isfinite(per_class), -per_class / config.temperature, UNSEEN)
        # argmax takes the lowest class of a tie, but the rule takes the example stored first: lower the others a bit.
        logits = jnp.where(classes == nearest, logits, logits - 1e-6 * (1 + jnp.abs(logits)))
        return jnp.where(known.any(), logits, 0.0)

    return Learner(no_theta, start, predict, observe, batch_run(run), length * (signature.inputs + 1), signature)


def nearest_centroid(
    signature: Signature,
    config: NearestCentroidConfig = NearestCentroidConfig(),
) -> Learner:
    """The class whose examples so far have the nearest mean.

    The logit of a class is minus the squared distance to its mean (`UNSEEN` without an example). Before any
    example, all logits are 0.

    Args:
        signature: shapes of the task; classification.
        config: scale of the logits.

    Returns:
        A learner without meta-parameters, with a parallel `run` that costs one Gram matrix.

    Raises:
        ValueError: a field of `config` or of `signature` is out of range, which is named;
            a regression signature.
    """
    if signature.regression:
        raise ValueError(f"the nearest centroid predicts classes, got the regression signature {signature}")
    check_settings(signature, config)
    outputs = signature.outputs

    def start(theta: Any, key: PRNGKeyArray) -> _ClassMeans:
        del theta, key
        return _ClassMeans(jnp.zeros((outputs, signature.inputs), jnp.float32), jnp.zeros(outputs, jnp.float32))

    def predict(theta: Any, state: _ClassMeans, x: Float[Array, "D"]) -> Float[Array, "C"]:
        del theta
        means = state.sums / jnp.maximum(state.counts, 1)[:, None]
        return answer(jnp.square(means - x[None]).sum(1), state.counts)

    def observe(theta: Any, state: _ClassMeans, x: Float[Array, "D"], y: Labels) -> _ClassMeans:
        del theta
        return _ClassMeans(state.sums.at[y].add(x), state.counts.at[y].add(1.0))

    def run(theta: Any, xs: Float[Array, "T D"], ys: Labels) -> Float[Array, "T C"]:
        del theta
        # With s_c the sum of class c before step t, |x - s_c/n|^2 needs only x.s_c and |s_c|^2: rows of the Gram
        # matrix summed by class, and a running sum. So no [T, C, D] array of sums is needed.
        gram = _gram(xs)
        norms = jnp.diagonal(gram)[:, None]
        one_hot = jax.nn.one_hot(ys, outputs, dtype=jnp.float32)
        products = dot(jnp.tril(gram, -1), one_hot)
        growth = one_hot * (2 * products + norms)
        sum_norms = jnp.cumsum(growth, 0) - growth
        counts = jnp.cumsum(one_hot, 0) - one_hot
        n = jnp.maximum(counts, 1)
        return jax.vmap(answer)(norms - 2 * products / n + sum_norms / n**2, counts)

    def answer(squared: Float[Array, "C"], counts: Float[Array, "C"]) -> Float[Array, "C"]:
        logits = jnp.where(counts > 0, -squared / config.temperature, UNSEEN)
        return jnp.where(counts.sum() > 0, logits, 0.0)

    return Learner(no_theta, start, predict, observe, batch_run(run), outputs * (signature.inputs + 1), signature)


def _gram(xs: Float[Array, "T D"]) -> Float[Array, "T T"]:
    # Distances do not depend on the origin, but their rounding does. The first example is near the others, and known to
    # all of them.
    xs = xs - xs[:1]
    return dot(xs, xs.T)  # differences of these products need full float32
