"""Teachers of the synthetic prior: small networks and axis-aligned trees that label examples; see `synthetic`."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

HIDDEN = 16  # hidden units of a network
REFERENCE_POINTS = 32  # inputs from which the scales of a teacher are estimated


class Network(NamedTuple):
    """The teacher `outputs = f(x @ hidden + bias) @ output + shift`; H is `HIDDEN`."""

    activation: Int[Array, ""]  # f: 0 identity, 1 relu, 2 tanh, 3 square
    hidden: Float[Array, "D H"]
    bias: Float[Array, " H"]
    output: Float[Array, "H C"]
    shift: Float[Array, " C"]
    thresholds: Float[Array, " C-1"]  # of the first output, ascending; class j is above j of them


class Tree(NamedTuple):
    """A full tree in breadth-first order: after node n comes 2n + 2 if `x[coordinates[n]] > splits[n]`, else 2n + 1."""

    coordinates: Int[Array, " L-1"]
    splits: Float[Array, " L-1"]
    leaves: Int[Array, " L"]  # class of each leaf


def network_outputs(network: Network, xs: Float[Array, "T D"]) -> Float[Array, "T C"]:
    """Compute the outputs of a teacher network for each example."""
    h = xs @ network.hidden + network.bias[None]
    return (
        jnp.stack([h, jax.nn.relu(h), jnp.tanh(h), jnp.square(h)])[network.activation] @ network.output
        + network.shift[None]
    )


def tree_leaf(tree: Tree, xs: Float[Array, "T D"]) -> Int[Array, " T"]:
    """Compute the class of each example's leaf."""
    right = (xs[:, tree.coordinates] > tree.splits[None]).astype(jnp.int32)
    node = jnp.zeros(xs.shape[0], jnp.int32)
    for _ in range(int(math.log2(tree.leaves.size))):
        node = 2 * node + 1 + jnp.take_along_axis(right, node[:, None], axis=1)[:, 0]
    return tree.leaves[node - tree.splits.size]


def draw_network(
    key: PRNGKeyArray,
    proportions: Float[Array, " C"],
    relevant: Bool[Array, " D"],
    mixing: Float[Array, "D D"],
    points: Float[Array, "N D"],
) -> Network:
    """Draw a teacher network.

    Args:
        key: random key.
        proportions: shares of the classes, 0 for unused ones.
        relevant: which inputs the outputs depend on.
        mixing: the mixing matrix of the inputs, for their variance.
        points: reference inputs.
    """
    d, c = relevant.shape[0], proportions.shape[0]
    key_uniform, key_normal = jax.random.split(key)
    activation, gain = jax.random.uniform(key_uniform, (2,), jnp.float32)
    hidden, bias, output = normals(key_normal, (d, HIDDEN), (HIDDEN,), (HIDDEN, c))
    variance = jnp.sum(jnp.where(relevant[None], jnp.square(mixing), 0.0))  # total variance of the relevant inputs
    hidden = jnp.where(relevant[:, None], (0.5 + 1.5 * gain) / jnp.sqrt(variance) * hidden, 0.0)
    raw = Network(below(activation, 4), hidden, bias, output, jnp.zeros(c), jnp.zeros(c - 1))

    # Outputs are roughly standardised; otherwise the same class would have the largest one too often.
    outputs = network_outputs(raw, points)
    mean, std = outputs.mean(0), outputs.std(0) + 1e-6
    network = raw._replace(output=output / std[None], shift=-mean / std)
    score = jnp.sort(network_outputs(network, points)[:, 0])
    index = (jnp.cumsum(proportions)[:-1] * REFERENCE_POINTS).astype(jnp.int32)
    used = jnp.arange(c - 1) < jnp.sum(proportions > 0) - 1
    return network._replace(thresholds=jnp.where(used, score[jnp.minimum(index, REFERENCE_POINTS - 1)], jnp.inf))


def draw_tree(
    key: PRNGKeyArray,
    num_classes: Int[Array, ""],
    classes: int,
    order: Int[Array, " D"],
    informative: Int[Array, ""],
    points: Float[Array, "N D"],
) -> Tree:
    """Draw a teacher tree.

    Args:
        key: random key.
        num_classes: number of classes in use.
        classes: C, the largest number of classes; the tree has at least as many leaves.
        order: a permutation of the inputs; the tree tests the first `informative` of them.
        informative: number of inputs to test.
        points: reference inputs.
    """
    key_coordinates, key_leaves = jax.random.split(key)
    leaves = 2 ** max(4, math.ceil(math.log2(classes)))
    coordinates = order[below(jax.random.uniform(key_coordinates, (leaves - 1,), jnp.float32), informative)]
    # Splits lie half way from the mean to an example, so they follow the scale of their input and are rarely lopsided.
    splits = 0.5 * points[jnp.arange(leaves - 1) % REFERENCE_POINTS, coordinates]
    return Tree(coordinates, splits, jax.random.permutation(key_leaves, leaves).astype(jnp.int32) % num_classes)


def normals(key: PRNGKeyArray, *shapes: tuple[int, ...]) -> list[Array]:
    """Draw several arrays by one call of the generator, because each call adds most of a second to the compilation."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),), jnp.float32), list(itertools.accumulate(sizes))[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def below(u: Array, bound: int | Array) -> Int[Array, "*n"]:
    """Integers below `bound`, uniform if `u` is uniform on [0, 1)."""
    bound = jnp.asarray(bound, jnp.int32)
    return jnp.minimum((u * bound.astype(jnp.float32)).astype(jnp.int32), bound - 1)
