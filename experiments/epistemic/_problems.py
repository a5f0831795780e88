"""Problems of the neural testbed: training data, and queries whose probability under the teacher is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.epistemic.index import Knowledge
from metalearn_tasks.families.testbed import Teacher, draw_teacher, teacher_logits

KAPPA = 2
"""Places per polyad, as in the testbed."""


class Polyads(NamedTuple):
    """Queries at few places, with fresh labels that are drawn several times.

    Attributes:
        anchors: the places of each polyad.
        places: which of them each query is at.
        labels: of each query, per draw.
        counts: how often each class is drawn at each place, per draw of the labels.
        truth: log-probability of these labels in their order under the teacher.
    """

    anchors: Float[Array, "P K D"]
    places: Int[Array, "P tau"]
    labels: Int[Array, "P L tau"]
    counts: Float[Array, "P L K C"]
    truth: Float[Array, "P L"]


class Problem(NamedTuple):
    """One task of the testbed with everything that agents are trained and scored on."""

    teacher: Teacher
    xs: Float[Array, "N D"]
    ys: Int[Array, "N"]
    knowledge: Knowledge
    polyads: tuple[Polyads, ...]


def draw_polyads(key: PRNGKeyArray, teacher: Teacher, inputs: int, tau: int, polyads: int, draws: int) -> Polyads:
    """Draw queries of one teacher."""
    key_anchors, key_places, key_labels = jax.random.split(key, 3)
    anchors = jax.random.normal(key_anchors, (polyads, KAPPA, inputs))
    places = jax.random.randint(key_places, (polyads, tau), 0, KAPPA)
    logits = teacher_logits(teacher, anchors)  # [P, K, C]
    classes = logits.shape[-1]
    asked = jnp.take_along_axis(logits, places[..., None], 1)  # [P, tau, C]
    labels = jax.random.categorical(key_labels, asked[:, None], shape=(polyads, draws, tau))
    at, which = jax.nn.one_hot(places, KAPPA), jax.nn.one_hot(labels, classes)
    counts = jnp.einsum("ptk,pltc->plkc", at, which)
    return Polyads(anchors, places, labels, counts, joint_of_one(jax.nn.log_softmax(logits), counts))


def joint_of_one(log_probs: Float[Array, "P K C"], counts: Float[Array, "P L K C"]) -> Float[Array, "P L"]:
    """The log-probability of counted labels when the places are independent; a class not drawn costs nothing."""
    each = jnp.where(counts > 0, counts * log_probs[:, None], 0.0)
    return each.sum((-1, -2))


def joint_each(
    logits: Callable[[Float[Array, "N D"], Any], Float[Array, "N C"]], indices: Any, polyads: Polyads, chunk: int = 50
) -> Float[Array, "Z P L"]:
    """The log-probability of the queries under each index, asked once per place.

    Args:
        logits: `(xs, z) -> logits`.
        indices: with an axis of indices in front.
        polyads: the queries.
        chunk: indices computed at a time.
    """
    rows = rearrange(polyads.anchors, "p k d -> (p k) d")

    def of_one(z: Any) -> Array:
        log_probs = jax.nn.log_softmax(logits(rows, z).astype(jnp.float32))
        return joint_of_one(rearrange(log_probs, "(p k) c -> p k c", k=KAPPA), polyads.counts)

    return jax.lax.map(of_one, indices, batch_size=chunk)


def joint_of_indices(
    logits: Callable[[Float[Array, "N D"], Any], Float[Array, "N C"]], indices: Any, polyads: Polyads, chunk: int = 50
) -> Float[Array, "P L"]:
    """The joint log-probability under a network with an index, as `metalearn.joint.mean_over_indices` has it.

    Args:
        logits: `(xs, z) -> logits`.
        indices: with an axis of indices in front.
        polyads: the queries.
        chunk: indices computed at a time.
    """
    each = joint_each(logits, indices, polyads, chunk)
    return jax.scipy.special.logsumexp(each, 0) - jnp.log(len(each))


def draw_problem(
    key: PRNGKeyArray,
    temperature: Float[Array, ""],
    inputs: int,
    count: int,
    taus: tuple[int, ...],
    polyads: int,
    draws: int,
) -> Problem:
    """Draw a teacher of two classes, its training data, and queries for each tau."""
    key_teacher, key_xs, key_ys, key_queries = jax.random.split(key, 4)
    teacher = draw_teacher(key_teacher, inputs, 2, temperature)
    xs = jax.random.normal(key_xs, (count, inputs))
    ys = jax.random.categorical(key_ys, teacher_logits(teacher, xs)).astype(jnp.int32)
    queries = tuple(
        draw_polyads(jax.random.fold_in(key_queries, tau), teacher, inputs, tau, polyads, draws) for tau in taus
    )
    return Problem(teacher, xs, ys, Knowledge(jnp.float32(count), temperature), queries)
