"""A prior of synthetic classification tasks, to train an in-context classifier of tables on.

In the spirit of TabPFN (Hollmann, Mueller, Eggensperger & Hutter 2022, arXiv 2207.01848), where a network
learns to classify from generated data alone. The prior itself is ours, made for short sequences and cheap
sampling, without their structural causal models; every constant is our choice. A task has C' of C classes,

    x = (centre[cluster] + spread[class] * z) @ mixing,   z Gaussian, heavy-tailed or uniform, unit variance,

scaled so that E[x] = 0 and E|x|^2 = D: the global standard deviation is 1, each input has a scale of its own.
Either the class is that of the cluster (teacher "clusters"), or there is one cluster and the class is a
function of x: the largest output of a linear map or small network ("argmax"), the interval in which its first
output falls ("score"), or the leaf of an axis-aligned tree ("tree"). Every teacher is computed for every task
and one is kept: they are cheap, and under `vmap` a switch would compute them all in any case.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.learner import Family, Signature
from metalearn_tasks.families._numbered import numbered_tasks

Teacher = Literal["clusters", "argmax", "score", "tree"]

TEACHERS: tuple[Teacher, ...] = ("clusters", "argmax", "score", "tree")
CLUSTERS_A_CLASS = 3
HIDDEN = 16
REFERENCE_POINTS = 32
TAIL = 0.8


@dataclass(frozen=True)
class SyntheticConfig:
    """The prior of synthetic classification tasks."""

    inputs: int = 16
    """D, the width of one input."""
    classes: int = 10
    """C, the most classes a task can have; each has 2 to C of them."""
    length: int = 50
    """T, examples in a sequence."""
    num_tasks: int | None = None
    """Number of meta-training tasks, at least 1; none: a new task every time."""
    label_noise: float = 0.2
    """The largest probability that a label is replaced by a random one; half of the tasks have no noise."""
    teachers: tuple[Teacher, ...] = TEACHERS
    """What labels the examples: one of these a task, with equal probability."""
    seed: int = 0
    """Names the tasks: task i of one seed is the same whenever it is drawn."""


class Inputs(NamedTuple):
    """How x is made, K is `CLUSTERS_A_CLASS`. Unless the teacher is "clusters", centres are 0, spreads 1."""

    shape: Int[Array, ""]  # of z: 0 Gaussian, 1 heavy-tailed, 2 uniform
    centres: Float[Array, "C K D"]
    spreads: Float[Array, "C D"]
    clusters: Int[Array, ""]  # how many of a class's K clusters are used, with equal probability
    mixing: Float[Array, "D D"]


class Network(NamedTuple):
    """`outputs = f(x @ hidden + bias) @ output + shift`; H is `HIDDEN`."""

    activation: Int[Array, ""]  # f: 0 identity, 1 relu, 2 tanh, 3 square
    hidden: Float[Array, "D H"]
    bias: Float[Array, " H"]
    output: Float[Array, "H C"]
    shift: Float[Array, " C"]
    thresholds: Float[Array, " C-1"]  # of the first output, ascending: above j of them is class j


class Tree(NamedTuple):
    """A full tree, breadth first: n leads to 2n + 2 where `x[coordinates[n]] > splits[n]`, else 2n + 1."""

    coordinates: Int[Array, " L-1"]
    splits: Float[Array, " L-1"]
    leaves: Int[Array, " L"]  # class of each leaf


class SyntheticTask(NamedTuple):
    """The parameters of one task; classes from `num_classes` on are unused."""

    teacher: Int[Array, ""]  # index into TEACHERS
    num_classes: Int[Array, ""]
    proportions: Float[Array, " C"]  # of the classes where the teacher is "clusters"; about those of "score"
    names: Int[Array, " C"]  # the label of each class
    noise: Float[Array, ""]  # probability that a label is replaced
    inputs: Inputs
    network: Network
    tree: Tree


def synthetic(config: SyntheticConfig) -> Family:
    """The family of synthetic classification tasks; `data` is `()`, labels are below `config.classes`.

    Raises:
        UnknownNameError: for an unknown teacher.
        ValueError: for a size or a probability out of range.
    """
    if config.inputs < 1 or config.length < 1 or not 2 <= config.classes <= 1024:
        raise ValueError(
            "need inputs >= 1, length >= 1 and 2 to 1024 classes, "
            f"got {config.inputs}, {config.length} and {config.classes}"
        )
    if not 0.0 <= config.label_noise <= 1.0:
        raise ValueError(f"label_noise is a probability, got {config.label_noise}")
    if not config.teachers:
        raise ValueError(f"need at least one teacher, got none; there are {', '.join(TEACHERS)}")
    for teacher in config.teachers:
        if teacher not in TEACHERS:
            raise unknown_name("teacher", teacher, TEACHERS)
    sample, seen, unseen = numbered_tasks(lambda data, key: draw_task(config, key), config.num_tasks, config.seed)

    def episode(data: Any, task: SyntheticTask, key: PRNGKeyArray) -> tuple[Array, Array]:
        del data
        key_examples, key_noise = jax.random.split(key)
        xs, classes = draw_examples(task, key_examples, config.length)
        u_replaced, u_other = jax.random.uniform(key_noise, (2, config.length), jnp.float32)
        classes = jnp.where(u_replaced < task.noise, _below(u_other, task.num_classes), classes)
        return xs, task.names[classes]

    return Family(Signature(config.inputs, config.classes, config.length), sample, seen, unseen, episode)


def draw_task(config: SyntheticConfig, key: PRNGKeyArray) -> SyntheticTask:
    """One task of the prior."""
    d, c = config.inputs, config.classes
    keys = jax.random.split(key, 8)
    which, how_many, imbalance, noisy, informative = jax.random.uniform(keys[0], (5,), jnp.float32)
    teacher = jnp.array([TEACHERS.index(t) for t in config.teachers], jnp.int32)[_below(which, len(config.teachers))]
    num_classes = 2 + _below(how_many, c - 1)
    # From balanced classes to some several times as frequent as others.
    weights = jnp.exp(imbalance * jax.random.normal(keys[1], (c,), jnp.float32))
    weights = jnp.where(jnp.arange(c) < num_classes, weights, 0.0)
    proportions = weights / weights.sum()
    informative = 1 + _below(informative, d)
    order = jax.random.permutation(keys[2], d)  # the first `informative` of these matter for the class
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
        network=_draw_network(keys[6], proportions, relevant, inputs.mixing, points),
        tree=_draw_tree(keys[7], num_classes, c, order, informative, points),
    )


def draw_examples(task: SyntheticTask, key: PRNGKeyArray, length: int) -> tuple[Float[Array, "T D"], Int[Array, " T"]]:
    """Inputs and their classes, before these get their names and their noise."""
    xs, cluster_class = _mix(task.inputs, task.proportions, key, length)
    outputs = network_outputs(task.network, xs)
    allowed = jnp.where(jnp.arange(outputs.shape[1]) < task.num_classes, 0.0, -jnp.inf)
    largest = jnp.argmax(outputs + allowed[None], axis=1).astype(jnp.int32)
    interval = jnp.sum(outputs[:, :1] > task.network.thresholds[None], axis=1, dtype=jnp.int32)
    by_teacher = jnp.stack([cluster_class, largest, interval, tree_leaf(task.tree, xs)])
    return xs, by_teacher[task.teacher]


def network_outputs(network: Network, xs: Float[Array, "T D"]) -> Float[Array, "T C"]:
    """The outputs of a teacher network, for each example."""
    h = xs @ network.hidden + network.bias[None]
    return (
        jnp.stack([h, jax.nn.relu(h), jnp.tanh(h), jnp.square(h)])[network.activation] @ network.output
        + network.shift[None]
    )


def tree_leaf(tree: Tree, xs: Float[Array, "T D"]) -> Int[Array, " T"]:
    """The class of the leaf that each example falls into."""
    right = (xs[:, tree.coordinates] > tree.splits[None]).astype(jnp.int32)
    node = jnp.zeros(xs.shape[0], jnp.int32)
    for _ in range(int(math.log2(tree.leaves.size))):
        node = 2 * node + 1 + jnp.take_along_axis(right, node[:, None], axis=1)[:, 0]
    return tree.leaves[node - tree.splits.size]


def _mix(inputs: Inputs, proportions: Array, key: PRNGKeyArray, length: int) -> tuple[Array, Array]:
    """Examples of the mixture [T, D] and the class of the cluster that each comes from [T]."""
    key_z, key_cluster = jax.random.split(key)
    g = jax.random.normal(key_z, (length, inputs.mixing.shape[0]), jnp.float32)
    heavy = jnp.sinh(TAIL * g) / math.sqrt((math.exp(2 * TAIL**2) - 1) / 2)
    flat = math.sqrt(3) * jax.lax.erf(g / math.sqrt(2))
    z = jnp.stack([g, heavy, flat])[inputs.shape]
    u_class, u_cluster = jax.random.uniform(key_cluster, (2, length), jnp.float32)
    classes = jnp.sum(u_class[:, None] >= jnp.cumsum(proportions)[None], axis=1, dtype=jnp.int32)
    # Rounding may leave the cumulative sum a little under 1 at the last class in use.
    classes = jnp.minimum(classes, jnp.sum(proportions > 0, dtype=jnp.int32) - 1)
    # Looked up by products with one-hot rows: XLA on a CPU fuses a gather with the drawing of what it gathers
    # from, and draws that anew for every row. Exact, as all but one term is 0.
    c, k, d = inputs.centres.shape
    cluster = jax.nn.one_hot(classes * k + _below(u_cluster, inputs.clusters), c * k, dtype=jnp.float32)
    spread = jax.nn.one_hot(classes, c, dtype=jnp.float32) @ inputs.spreads
    return (cluster @ inputs.centres.reshape(c * k, d) + spread * z) @ inputs.mixing, classes


def _draw_inputs(key: PRNGKeyArray, proportions: Array, relevant: Array, clustered: Array) -> Inputs:
    d, c, k = relevant.shape[0], proportions.shape[0], CLUSTERS_A_CLASS
    key_uniform, key_normal = jax.random.split(key)
    correlated, decay, contrast, shape, count, apart, ragged, raggedness = jax.random.uniform(
        key_uniform, (8,), jnp.float32
    )
    dense, scales, centres, spreads = _normals(key_normal, (d, d), (d,), (c, k, d), (c, d))
    # Either inputs of different scales, or correlated ones: a dense map behind a spectrum of decaying powers.
    spectrum = jnp.arange(1, d + 1, dtype=jnp.float32) ** (-1.5 * decay)
    mixing = jnp.where(correlated < 0.5, spectrum[:, None] * dense, jnp.diag(jnp.exp(contrast * scales)))

    # The typical distance of two centres in standard deviations of z, however many dimensions are relevant.
    distance = (1.0 + 9.0 * apart) / jnp.sqrt(2.0 * relevant.sum(dtype=jnp.float32))
    centres = jnp.where(clustered & relevant[None, None], distance * centres, 0.0)
    spreads = jnp.exp(jnp.where(clustered & (ragged < 0.5), 0.7 * raggedness, 0.0) * spreads)

    clusters = 1 + _below(count, k)
    used = jnp.where(jnp.arange(k) < clusters, 1.0 / clusters.astype(jnp.float32), 0.0)
    weights = proportions[:, None] * used[None]
    centres = centres - jnp.einsum("ck,ckd->d", weights, centres)[None, None]
    between = jnp.einsum("ck,ckd->", weights, jnp.square(centres @ mixing))
    within = jnp.sum((proportions @ jnp.square(spreads))[:, None] * jnp.square(mixing))
    return Inputs(_below(shape, 3), centres, spreads, clusters, mixing * jnp.sqrt(d / (between + within)))


def _draw_network(key: PRNGKeyArray, proportions: Array, relevant: Array, mixing: Array, points: Array) -> Network:
    d, c = relevant.shape[0], proportions.shape[0]
    key_uniform, key_normal = jax.random.split(key)
    activation, gain = jax.random.uniform(key_uniform, (2,), jnp.float32)
    hidden, bias, output = _normals(key_normal, (d, HIDDEN), (HIDDEN,), (HIDDEN, c))
    variance = jnp.sum(jnp.where(relevant[None], jnp.square(mixing), 0.0))  # of the relevant inputs, together
    hidden = jnp.where(relevant[:, None], (0.5 + 1.5 * gain) / jnp.sqrt(variance) * hidden, 0.0)
    raw = Network(_below(activation, 4), hidden, bias, output, jnp.zeros(c), jnp.zeros(c - 1))

    # Each output about standardised, or the class with the largest one would too often be the same.
    outputs = network_outputs(raw, points)
    mean, std = outputs.mean(0), outputs.std(0) + 1e-6
    network = raw._replace(output=output / std[None], shift=-mean / std)
    score = jnp.sort(network_outputs(network, points)[:, 0])
    index = (jnp.cumsum(proportions)[:-1] * REFERENCE_POINTS).astype(jnp.int32)
    used = jnp.arange(c - 1) < jnp.sum(proportions > 0) - 1
    return network._replace(thresholds=jnp.where(used, score[jnp.minimum(index, REFERENCE_POINTS - 1)], jnp.inf))


def _draw_tree(
    key: PRNGKeyArray, num_classes: Array, classes: int, order: Array, informative: Array, points: Array
) -> Tree:
    key_coordinates, key_leaves = jax.random.split(key)
    leaves = 2 ** max(4, math.ceil(math.log2(classes)))
    coordinates = order[_below(jax.random.uniform(key_coordinates, (leaves - 1,), jnp.float32), informative)]
    # Half way from the mean to an example: splits follow the scale of their input and are seldom lopsided.
    splits = 0.5 * points[jnp.arange(leaves - 1) % REFERENCE_POINTS, coordinates]
    return Tree(coordinates, splits, jax.random.permutation(key_leaves, leaves).astype(jnp.int32) % num_classes)


def _normals(key: PRNGKeyArray, *shapes: tuple[int, ...]) -> list[Array]:
    """Several arrays from one call of the generator, as each call adds most of a second to the compilation."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),), jnp.float32), list(itertools.accumulate(sizes))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _below(u: Array, bound: int | Array) -> Int[Array, "*n"]:
    """Integers below `bound`, uniform where `u` is uniform on [0, 1)."""
    bound = jnp.asarray(bound, jnp.int32)
    return jnp.minimum((u * bound.astype(jnp.float32)).astype(jnp.int32), bound - 1)
