"""Optimizers that treat every parameter by itself, with the same weights: the frame around a recurrent cell.

Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford and de Freitas 2016, "Learning to learn by gradient
descent by gradient descent" (arXiv 1606.04474), where the name "coordinatewise" is from.

All tensors of a tree are laid one after another. A cell's products are then a few matrices times [units, N] for the N
parameters of the whole tree, and the compiled program does not grow with the number of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.networks.recurrent import lstm_update
from metalearn_models.optimizers.contract import check_params, float32
from metalearn_models.optimizers.learned.parts.blocks import map_blocks

__all__ = [
    "CoordinatewiseState",
    "LSTMLayer",
    "LSTMMemory",
    "LSTMNetwork",
    "Readout",
    "block_sizes",
    "coordinatewise",
    "lstm_advance",
    "lstm_network",
    "lstm_start",
    "ravel_leaves",
    "start_blocks",
    "truncated_normal",
    "unravel_leaves",
]


class CoordinatewiseState(NamedTuple):
    """What an optimizer remembers.

    Attributes:
        memory: every leaf [B, ..., W]. The N parameters, in the order of the tree's leaves and each leaf raveled, are
            cut into B blocks of W; the end of the last block is padding.
        step: number of updates so far.
    """

    memory: Any
    step: Int[Array, ""]


class LSTMLayer(NamedTuple):
    """Weights of a layer of LSTM cells with U units and D inputs; gates side by side in the order i, g, f, o."""

    inputs: Float[Array, "D 4*U"]
    state: Float[Array, "U 4*U"]
    bias: Float[Array, "4*U"]


class Readout(NamedTuple):
    """A linear output."""

    weight: Float[Array, "U"]
    bias: Float[Array, ""]


class LSTMNetwork(NamedTuple):
    """Layers of LSTM cells, each reading the one before, and a linear output of the last."""

    layers: tuple[LSTMLayer, ...]
    readout: Readout


LSTMMemory = tuple[tuple[Float[Array, "_ N"], Float[Array, "_ N"]], ...]
"""The (h, c) of each layer, [units, N]."""


def coordinatewise(
    start: Callable[[int], Any],
    advance: Callable[[Any, Int[Array, ""], Float[Array, "W"]], tuple[Any, Float[Array, "W"]]],
) -> optax.GradientTransformationExtraArgs:
    """The optax transformation of an optimizer of single parameters.

    The values of the parameters are not read: `update` works without `params`. Updates have the dtype of the
    gradients; the optimizer itself computes in float32.

    Args:
        start: `(W) -> memory` of W fresh parameters; every leaf [..., W].
        advance: `(memory, step, gradients) -> (memory, updates)` for any number of parameters; `step` counts from 0.

    Returns:
        The transformation. Its `init` raises TypeError if a parameter is not floating-point.
    """

    def init(params: optax.Params) -> CoordinatewiseState:
        check_params(params)
        return CoordinatewiseState(start_blocks(start, sum(jnp.size(p) for p in jax.tree.leaves(params))), jnp.int32(0))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, CoordinatewiseState]:
        del params, extra
        gradients = ravel_leaves(updates)
        memory, new = map_blocks(
            lambda m, g: advance(m, state.step, g), state.memory, gradients, *block_sizes(gradients.size)
        )
        return unravel_leaves(new, updates), CoordinatewiseState(memory, state.step + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def ravel_leaves(tree: Any) -> Float[Array, "N"]:
    """All entries of all leaves, in float32."""
    leaves = [float32(x).ravel() for x in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def unravel_leaves(vector: Float[Array, "N"], like: Any) -> Any:
    """A tree with the shapes and dtypes of `like` and the entries of `vector`."""
    leaves, tree = jax.tree.flatten(like)
    parts = jax.lax.split(vector, [jnp.size(x) for x in leaves])
    new = [part.reshape(jnp.shape(x)).astype(jnp.result_type(x)) for part, x in zip(parts, leaves, strict=True)]
    return tree.unflatten(new)


def block_sizes(size: int) -> tuple[int, int]:
    """Number of blocks, and parameters per block: about 512, whose gates stay in a processor's cache."""
    blocks = max(1, round(size / 512))
    return blocks, -(-size // blocks)


def start_blocks(start: Callable[[int], Any], size: int) -> Any:
    """The memory of `size` fresh parameters in blocks, as in `CoordinatewiseState`."""
    blocks, width = block_sizes(size)
    return jax.tree.map(lambda x: jnp.tile(x, (blocks,) + (1,) * x.ndim), start(width))


def lstm_network(key: PRNGKeyArray, inputs: int, hidden: tuple[int, ...]) -> LSTMNetwork:
    """Fresh weights: truncated normal (at two standard deviations) of scale 1 / sqrt(fan_in), biases 0.

    The fan-in of a cell is its inputs and units together. The papers name no initialisation; this one is our choice.

    Args:
        key: random key.
        inputs: numbers that the first layer reads.
        hidden: units of each layer.

    Raises:
        ValueError: there is no layer, or a layer has no units.
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"a recurrent optimizer needs layers of at least one unit each, got hidden={hidden}")
    *keys, key_out = jax.random.split(key, len(hidden) + 1)
    layers = []
    for k, before, units in zip(keys, (inputs, *hidden), hidden, strict=False):
        matrix = truncated_normal(k, (before + units, 4 * units), before + units)
        layers.append(LSTMLayer(matrix[:before], matrix[before:], jnp.zeros(4 * units)))
    return LSTMNetwork(tuple(layers), Readout(truncated_normal(key_out, hidden[-1:], hidden[-1]), jnp.zeros(())))


def truncated_normal(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """Normal numbers of standard deviation 1 / sqrt(fan_in), truncated at two of these."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) / fan_in**0.5


def lstm_start(hidden: tuple[int, ...], size: int) -> LSTMMemory:
    """The memory of `size` fresh parameters: zeros."""
    return tuple((jnp.zeros((units, size)), jnp.zeros((units, size))) for units in hidden)


def lstm_advance(
    network: LSTMNetwork, memory: LSTMMemory, x: Float[Array, "D N"]
) -> tuple[LSTMMemory, Float[Array, "N"]]:
    """One step of every layer on N parameters, see `lstm_update`.

    Args:
        network: the weights.
        memory: of all layers.
        x: inputs of the first layer.

    Returns:
        The new memory, and the output.
    """
    new = []
    for layer, (h, c) in zip(network.layers, memory, strict=True):
        gates = layer.inputs.T @ x + layer.state.T @ h
        gates = gates + jnp.broadcast_to(layer.bias[:, None], gates.shape)
        x, c = lstm_update(gates, c, axis=0)
        new.append((x, c))
    return tuple(new), network.readout.weight @ x + network.readout.bias
