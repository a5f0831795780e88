"""A prior over synthetic classification tasks, on which an in-context classifier for tables is trained.

It follows the idea of TabPFN (Hollmann, Mueller, Eggensperger & Hutter 2022, arXiv 2207.01848), where a network learns
to classify from generated data alone. The prior itself is ours, made for short sequences and cheap sampling, without
their structural causal models; every constant is our choice. A task has C' of C classes, and inputs

    x = (centre[cluster] + spread[class] * z) @ mixing,   z Gaussian, heavy-tailed or uniform, of unit variance,

scaled so that E[x] = 0 and E|x|^2 = D: the global standard deviation is 1, and each input has a scale of its own. With
the teacher "clusters", the class is that of the cluster. With the other teachers there is one cluster, and the class is
a function of x: the largest output of a linear map or small network ("argmax"), the interval that contains its first
output ("score"), or the leaf of an axis-aligned tree ("tree"). Every teacher is computed for every task and one is
kept: they are cheap, and under `vmap` a switch would compute them all anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.learner import Family, Signature
from metalearn.ranges import NonEmpty, Seed, Share, Size, Steps, Within
from metalearn_tasks.families._task_numbers import numbered_tasks
from metalearn_tasks.families._teachers import (
    REFERENCE_POINTS,
    Network,
    Tree,
    below,
    draw_network,
    draw_tree,
    network_outputs,
    normals,
    tree_leaf,
)

__all__ = [
    "TEACHERS",
    "Inputs",
    "Network",
    "SyntheticConfig",
    "SyntheticTask",
    "Teacher",
    "Tree",
    "draw_examples",
    "draw_task",
    "synthetic",
]

Teacher = Literal["clusters", "argmax", "score", "tree"]
"""What labels the examples of a task; see the head of this file."""

TEACHERS: tuple[Teacher, ...] = ("clusters", "argmax", "score", "tree")
"""What can label the examples of a task."""
CLUSTERS_PER_CLASS = 3
TAIL = 0.8


@dataclass(frozen=True)
class SyntheticConfig:
    """The prior of synthetic classification tasks."""

    inputs: Size = 16
    """D, the width of one input."""
    classes: Annotated[int, Within(2, 2**16)] = 10
    """C, the largest number of classes; every task has 2 to C."""
    length: Size = 50
    """T, examples per sequence."""
    num_tasks: Steps | None = None
    """Number of meta-training tasks, at least 1. None: a new task every time."""
    label_noise: Share = 0.2
    """Largest probability that a label is replaced by a random one; half of the tasks have no noise."""
    teachers: Annotated[tuple[Teacher, ...], NonEmpty()] = TEACHERS
    """What labels the examples: one of these per task, with equal probability."""
    seed: Seed = 0
    """Names the tasks: task i of one seed is the same whenever it is drawn."""


class Inputs(NamedTuple):
    """How x is made; K is `CLUSTERS_PER_CLASS`. Unless the teacher is "clusters", centres are 0 and spreads 1."""

    shape: Int[Array, ""]  # of z: 0 Gaussian, 1 heavy-tailed, 2 uniform
    centres: Float[Array, "C K D"]
    spreads: Float[Array, "C D"]
    clusters: Int[Array, ""]  # number of a class's K clusters in use, with equal probability
    mixing: Float[Array, "D D"]


class SyntheticTask(NamedTuple):
    """The parameters of one task; classes from `num_classes` on are not used."""

    teacher: Int[Array, ""]  # index into TEACHERS
    num_classes: Int[Array, ""]
    proportions: Float[Array, " C"]  # of the classes; exact for "clusters", approximate for "score"
    names: Int[Array, " C"]  # the label of each class
    noise: Float[Array, ""]  # probability that a label is replaced
    inputs: Inputs
    network: Network
    tree: Tree


def synthetic(config: SyntheticConfig) -> Family:
    """Make the family of synthetic classification tasks; its `data` is `()`, labels are below `config.classes`.

    Raises:
        UnknownNameError: an unknown teacher.
        ValueError: a size or a probability out of range.
    """
    if config.inputs < 1 or config.length < 1 or not 2 <= config.classes <= 1024:
        raise ValueError(
            "need inputs >= 1, length >= 1 and 2 to 1024 classes, "
            f"got {config.inputs}, {config.length} and {config.classes}"
        )
    if not 0.0 <= config.label_noise <= 1.0:
        raise ValueError(f"label_noise must be a probability, between 0 and 1, got {config.label_noise}")
    if not config.teachers:
        raise ValueError(f"teachers must have at least one of {', '.join(TEACHERS)}, got none")
    for teacher in config.teachers:
        if teacher not in TEACHERS:
            raise unknown_name("teacher", teacher, TEACHERS)
    sample, seen, unseen = numbered_tasks(lambda data, key: draw_task(config, key), config.num_tasks, config.seed)

    def episode(data: Any, task: SyntheticTask, key: PRNGKeyArray) -> tuple[Array, Array]:
        del data
        key_examples, key_noise = jax.random.split(key)
        xs, classes = draw_examples(task, key_examples, config.length)
        u_replaced, u_other = jax.random.uniform(key_noise, (2, config.length), jnp.float32)
        classes = jnp.where(u_replaced < task.noise, below(u_other, task.num_classes), classes)
        return xs, task.names[classes]

    return Family(Signature(config.inputs, config.classes, config.length), sample, seen, unseen, episode)


def draw_task(config: SyntheticConfig, key: PRNGKeyArray) -> SyntheticTask:
    """Draw one task of the prior."""
    d, c = config.inputs, config.classes
    keys = jax.random.split(key, 8)
    which, count, imbalance, noisy, informative = jax.random.uniform(keys[0], (5,), jnp.float32)
    teacher = jnp.array([TEACHERS.index(t) for t in config.teachers], jnp.int32)[below(which, len(config.teachers))]
    num_classes = 2 + below(count, c - 1)
    # Classes range from balanced to several times as frequent as others.
    weights = jnp.exp(imbalance * jax.random.normal(keys[1], (c,), jnp.float32))
    weights = jnp.where(jnp.arange(c) < num_classes, weights, 0.0)
    proportions = weights / weights.sum()
    informative = 1 + below(informative, d)
    order = jax.random.permutation(keys[2], d)  # The class depends on the first `informative` of these.
    relevant = jnp.zeros(d, bool).at[order].set(jnp.arange(d) < informative)

    inputs = _draw_inputs(keys[3], proportions, relevant, teacher == 0)
    points, _ = _mix(inputs, proportions, keys[4], REFERENCE_POINTS)
    return SyntheticTask(
        teacher=teacher,
        num_classes=num_classes,
        proportions=proportions,
        names=jax.random.permutation(keys[5], c).astype(jnp.int32),
        noise=config.label_noise * jnp.maximum(2.0 * noisy - 1.0, 0.0),
        inputs=inputs,
        network=draw_network(keys[6], proportions, relevant, inputs.mixing, points),
        tree=draw_tree(keys[7], num_classes, c, order, informative, points),
    )


def draw_examples(task: SyntheticTask, key: PRNGKeyArray, length: int) -> tuple[Float[Array, "T D"], Int[Array, " T"]]:
    """Draw inputs and their classes, before the classes get names and noise."""
    xs, cluster_class = _mix(task.inputs, task.proportions, key, length)
    outputs = network_outputs(task.network, xs)
    allowed = jnp.where(jnp.arange(outputs.shape[1]) < task.num_classes, 0.0, -jnp.inf)
    largest = jnp.argmax(outputs + allowed[None], axis=1).astype(jnp.int32)
    interval = jnp.sum(outputs[:, :1] > task.network.thresholds[None], axis=1, dtype=jnp.int32)
    by_teacher = jnp.stack([cluster_class, largest, interval, tree_leaf(task.tree, xs)])
    return xs, by_teacher[task.teacher]


def _mix(
    inputs: Inputs, proportions: Float[Array, " C"], key: PRNGKeyArray, length: int
) -> tuple[Float[Array, "{length} D"], Int[Array, "{length}"]]:
    """Examples of the mixture, and the class of each example's cluster."""
    key_z, key_cluster = jax.random.split(key)
    g = jax.random.normal(key_z, (length, inputs.mixing.shape[0]), jnp.float32)
    heavy = jnp.sinh(TAIL * g) / math.sqrt((math.exp(2 * TAIL**2) - 1) / 2)
    flat = math.sqrt(3) * jax.lax.erf(g / math.sqrt(2))
    z = jnp.stack([g, heavy, flat])[inputs.shape]
    u_class, u_cluster = jax.random.uniform(key_cluster, (2, length), jnp.float32)
    classes = jnp.sum(u_class[:, None] >= jnp.cumsum(proportions)[None], axis=1, dtype=jnp.int32)
    # Rounding can leave the cumulative sum slightly below 1 at the last class in use.
    classes = jnp.minimum(classes, jnp.sum(proportions > 0, dtype=jnp.int32) - 1)
    # Looked up by products with one-hot rows, which are exact because all but one term are 0. On a CPU, XLA fuses a
    # gather with the random draws it gathers from, and repeats the draws for every row.
    c, k, _ = inputs.centres.shape
    cluster = jax.nn.one_hot(classes * k + below(u_cluster, inputs.clusters), c * k, dtype=jnp.float32)
    spread = jax.nn.one_hot(classes, c, dtype=jnp.float32) @ inputs.spreads
    centres = rearrange(inputs.centres, "c k d -> (c k) d")
    return (cluster @ centres + spread * z) @ inputs.mixing, classes


def _draw_inputs(
    key: PRNGKeyArray, proportions: Float[Array, " C"], relevant: Bool[Array, " D"], clustered: Bool[Array, ""]
) -> Inputs:
    d, c, k = relevant.shape[0], proportions.shape[0], CLUSTERS_PER_CLASS
    key_uniform, key_normal = jax.random.split(key)
    correlated, decay, contrast, shape, count, apart, ragged, raggedness = jax.random.uniform(
        key_uniform, (8,), jnp.float32
    )
    dense, scales, centres, spreads = normals(key_normal, (d, d), (d,), (c, k, d), (c, d))
    # Inputs either have different scales, or are correlated by a dense map after a spectrum of decaying powers.
    spectrum = jnp.arange(1, d + 1, dtype=jnp.float32) ** (-1.5 * decay)
    mixing = jnp.where(correlated < 0.5, spectrum[:, None] * dense, jnp.diag(jnp.exp(contrast * scales)))

    # The typical distance of two centres, in standard deviations of z, for any number of relevant dimensions.
    distance = (1.0 + 9.0 * apart) / jnp.sqrt(2.0 * relevant.sum(dtype=jnp.float32))
    centres = jnp.where(clustered & relevant[None, None], distance * centres, 0.0)
    spreads = jnp.exp(jnp.where(clustered & (ragged < 0.5), 0.7 * raggedness, 0.0) * spreads)

    clusters = 1 + below(count, k)
    used = jnp.where(jnp.arange(k) < clusters, 1.0 / clusters.astype(jnp.float32), 0.0)
    weights = proportions[:, None] * used[None]
    centres = centres - jnp.einsum("ck,ckd->d", weights, centres)[None, None]
    between = jnp.einsum("ck,ckd->", weights, jnp.square(centres @ mixing))
    within = jnp.sum((proportions @ jnp.square(spreads))[:, None] * jnp.square(mixing))
    return Inputs(below(shape, 3), centres, spreads, clusters, mixing * jnp.sqrt(d / (between + within)))
