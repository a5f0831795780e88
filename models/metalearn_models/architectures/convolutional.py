"""The convolutional cell of Li and Talwalkar: 4 nodes, each the sum of two operations on two different earlier states.

Li and Talwalkar 2019 (arXiv 1902.07638), with the space of DARTS (Liu, Simonyan and Yang 2018, arXiv 1806.09055): two
states enter a cell; a node chooses two different ones of what is there and one of 8 operations for each; the nodes'
channels together leave it. One cell has (1 * 3 * 6 * 10) * 8^8 = 3,019,898,880 architectures by our count. Separable
convolutions are applied once, not twice, normalisation is over the channels of a place, and the network is one cell
between a stem and a mean over places: this is the paper's space at the size of a laptop. The order of the operations
and the sizes are our choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.architectures.cell_network import CellNetwork
from metalearn_models.architectures.operations import check_operations
from metalearn_models.architectures.space import make_space

__all__ = ["CONVOLUTIONAL_OPERATIONS", "ConvolutionalParams", "convolutional_cell"]

CONVOLUTIONAL_OPERATIONS = (
    "zero",
    "max pool 3",
    "mean pool 3",
    "identity",
    "separable 3",
    "separable 5",
    "dilated 3",
    "dilated 5",
)
"""The eight operations, with the sides of their windows."""


class ConvolutionalParams(NamedTuple):
    """Weights of all architectures: C channels, N nodes, two edges each, K classes.

    Attributes:
        stems: two convolutions of the image, whose results enter the cell.
        depth: of an edge, the depthwise windows of its four convolutions; those of side 3 use the middle.
        point: of an edge, the mixing of channels of its four convolutions.
        head: from the mean over places to the logits.
        bias: of the logits.
    """

    stems: Float[Array, "2 5 5 1 C"]
    depth: Float[Array, "N 2 4 5 5 C"]
    point: Float[Array, "N 2 4 C C"]
    head: Float[Array, "F K"]
    bias: Float[Array, " K"]


def _convolve(
    x: Float[Array, "B S S I"], window: Float[Array, "A A J C"], stride: int = 1, dilation: int = 1, groups: int = 1
) -> Float[Array, "B R R C"]:
    return jax.lax.conv_general_dilated(
        x,
        window,
        (stride, stride),
        "SAME",
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _normalise(x: Float[Array, "B S S C"]) -> Float[Array, "B S S C"]:
    """Mean 0 and variance 1 over the channels of each place; zeros stay zeros."""
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)


def _pool(x: Float[Array, "B S S C"], largest: bool) -> Float[Array, "B S S C"]:
    start, combine = (-jnp.inf, jax.lax.max) if largest else (0.0, jax.lax.add)
    window: tuple[int, ...] = (1, 3, 3, 1)

    def reduce(values: Array) -> Array:
        return jax.lax.reduce_window(values, start, combine, window, (1, 1, 1, 1), "SAME")

    if largest:
        return reduce(x)
    # One image and channel: of the whole shape XLA would compute the constant at compile time, for many seconds.
    return reduce(x) / reduce(jnp.ones_like(x[:1, :, :, :1]))


def convolutional_cell(
    classes: int,
    *,
    nodes: int = 4,
    operations: Sequence[str] = CONVOLUTIONAL_OPERATIONS,
    channels: int = 8,
    stride: int = 4,
) -> CellNetwork:
    """A classifier of images of one channel for every convolutional cell.

    Args:
        classes: K.
        nodes: N.
        operations: names of what an edge may apply.
        channels: C.
        stride: of the stems.

    Returns:
        The network; `apply` takes images `[B, S, S]`.

    Raises:
        UnknownNameError: an operation has no such name; with the nearest names.
        ValueError: there is no node or no operation.
    """
    operations = check_operations(operations, CONVOLUTIONAL_OPERATIONS)
    pairs = [list(itertools.combinations(range(j + 2), 2)) for j in range(nodes)]
    choices: dict[str, tuple[str, ...]] = {}
    for j, options in enumerate(pairs):
        names = ["stem 1", "stem 2", *(f"node {i}" for i in range(1, j + 1))]
        choices[f"node {j + 1} inputs"] = tuple(f"{names[a]} + {names[b]}" for a, b in options)
        choices[f"node {j + 1} operation 1"] = operations
        choices[f"node {j + 1} operation 2"] = operations
    space = make_space("convolutional", choices)

    def init(key: PRNGKeyArray) -> ConvolutionalParams:
        stems, depth, point, head = jax.random.split(key, 4)
        width = nodes * channels
        return ConvolutionalParams(
            jax.random.normal(stems, (2, 5, 5, 1, channels)) / 5,
            jax.random.normal(depth, (nodes, 2, 4, 5, 5, channels)) / 4,
            jax.random.normal(point, (nodes, 2, 4, channels, channels)) / math.sqrt(channels),
            jax.random.normal(head, (width, classes)) / math.sqrt(width),
            jnp.zeros(classes),
        )

    def branch(name: str) -> Callable[[Array, Array, Array], Array]:
        if name == "zero":
            return lambda x, depth, point: jnp.zeros_like(x)
        if name == "identity":
            return lambda x, depth, point: x
        if name.endswith("pool 3"):
            return lambda x, depth, point: _pool(x, name.startswith("max"))
        which, dilation = CONVOLUTIONAL_OPERATIONS.index(name) - 4, 2 if name.startswith("dilated") else 1

        def convolve(x: Array, depth: Array, point: Array) -> Array:
            window = depth[which] if name.endswith("5") else depth[which, 1:4, 1:4]
            mixed = _convolve(jax.nn.relu(x), window[:, :, None], dilation=dilation, groups=channels)
            return _normalise(mixed @ point[which])

        return convolve

    branches = [branch(name) for name in operations]

    def apply(code: Int[Array, "C"], params: ConvolutionalParams, x: Float[Array, "B S S"]) -> Float[Array, "B K"]:
        states = [_normalise(_convolve(x[..., None], stem, stride)) for stem in params.stems]
        for j in range(nodes):
            chosen = jnp.array(pairs[j], jnp.int32)[code[3 * j]]
            before = jnp.stack(states)
            total = jnp.zeros_like(states[0])
            for e in range(2):
                state = jax.lax.dynamic_index_in_dim(before, chosen[e], keepdims=False)
                total += jax.lax.switch(code[3 * j + 1 + e], branches, state, params.depth[j, e], params.point[j, e])
            states.append(total)
        features = jnp.concatenate(states[2:], -1).mean((1, 2))
        return features @ params.head + params.bias[None]

    return CellNetwork(space, init, apply)
