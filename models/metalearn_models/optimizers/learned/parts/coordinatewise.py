"""Optimizers that treat every parameter by itself, with the same weights: the frame around a recurrent cell.

Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford and de Freitas 2016, "Learning to learn by gradient
descent by gradient descent" (arXiv 1606.04474), where the name "coordinatewise" is from.

All tensors of a tree are laid one after another. A cell's products are then a few matrices times [units, N] for the N
parameters of the whole tree, and the compiled program does not grow with the number of tensors. Tensors that are spread
over devices stay apart, each with its memory beside it: laid one after another they would be gathered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn_models.networks.recurrent import lstm_update
from metalearn_models.optimizers.contract import float32
from metalearn_models.optimizers.frame import read_gradient, transformation
from metalearn_models.optimizers.learned.parts.blocks import map_blocks
from metalearn_models.optimizers.learned.parts.placement import is_spread

__all__ = [
    "CoordinatewiseState",
    "LSTMLayer",
    "LSTMMemory",
    "LSTMNetwork",
    "Readout",
    "block_sizes",
    "contract",
    "coordinatewise",
    "is_fresh",
    "lstm_advance",
    "lstm_network",
    "lstm_start",
    "ravel_leaves",
    "rest",
    "start_apart",
    "start_blocks",
    "tensors_apart",
    "truncated_normal",
    "unravel_leaves",
]


class CoordinatewiseState(NamedTuple):
    """What an optimizer remembers.

    Attributes:
        memory: every leaf [B, ..., W]. The N parameters that are not spread over devices, in the order of the tree's
            leaves and each leaf raveled, are cut into B blocks of W; the end of the last block is padding.
        apart: like params: the memory of each tensor of shape S that is spread over devices, every leaf [..., *S]; None
            for the others.
        step: number of updates so far.
    """

    memory: Any
    apart: Any
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


LSTMMemory = tuple[tuple[Float[Array, "_ *S"], Float[Array, "_ *S"]], ...]
"""The (h, c) of each layer, [units, *S]."""


def coordinatewise(
    theta: Any,
    start: Callable[[int], Any],
    advance: Callable[[Any, Int[Array, ""], Float[Array, "*S"]], tuple[Any, Float[Array, "*S"]]],
) -> optax.GradientTransformationExtraArgs:
    """The optax transformation of an optimizer of single parameters.

    The values of the parameters are not read: `update` works without `params`. Updates have the dtype of the
    gradients; the optimizer itself computes in float32.

    Args:
        theta: the meta-parameters.
        start: `(W) -> memory` of W fresh parameters; every leaf [..., W].
        advance: `(memory, step, gradients) -> (memory, updates)` for parameters of any shape S. Leaves of the memory
            are [..., *S]; `step` counts from 0.

    Returns:
        The transformation. Its `init` raises TypeError if a parameter is not floating-point.
    """

    def init(params: optax.Params) -> CoordinatewiseState:
        together = sum(p.size for p in jax.tree.leaves(params) if not is_spread(p))
        apart = jax.tree.map(lambda p: start_apart(start, p) if is_spread(p) else None, params)
        return CoordinatewiseState(start_blocks(start, together), apart, jnp.int32(0))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, CoordinatewiseState]:
        del params, extra
        tree, tensors = jax.tree.structure(updates), tensors_apart(updates, state.apart)
        together, memory, results = [g for g, own in tensors if own is None], state.memory, []
        if together:
            gradients = ravel_leaves([read_gradient(g) for g in together])
            memory, new = map_blocks(
                lambda m, g: advance(m, state.step, g), memory, gradients, *block_sizes(gradients.size)
            )
            together = unravel_leaves(new, together)
        together = iter(together)
        for g, own in tensors:
            own, new = (None, next(together)) if own is None else advance(own, state.step, read_gradient(g))
            results.append((own, new.astype(g.dtype)))
        apart, updates = (tree.unflatten([r[i] for r in results]) for i in range(2))
        return updates, CoordinatewiseState(memory, apart, state.step + 1)

    return transformation(theta, init, update)


def start_apart(start: Callable[[int], Any], p: Float[Array, "*S"]) -> Any:
    """The memory of a fresh tensor that stays apart: every leaf [..., *S], spread over devices like the tensor."""
    zeros = jnp.zeros_like(p, jnp.float32)
    return jax.tree.map(lambda x: x.reshape(*x.shape[:-1], *[1] * p.ndim) + zeros[(None,) * (x.ndim - 1)], start(1))


def tensors_apart(tree: Any, apart: Any) -> list[tuple[Array, Any]]:
    """Each tensor with the memory that it has apart, or None."""
    return list(zip(jax.tree.leaves(tree), jax.tree.structure(tree).flatten_up_to(apart), strict=True))


def rest(still: Array, old: Any, new: Any, step: Float[Array, "*S"]) -> tuple[Any, Float[Array, "*S"]]:
    """Memory and step, but the old memory and 0 for each parameter that is still: it has not seen a gradient yet.

    What `hold_still` is to rules with momenta. The memory waits too: it is that of a fresh parameter until a gradient
    comes.
    """

    def keep(a: Array, b: Array) -> Array:
        return jnp.where(still[(None,) * (b.ndim - still.ndim)], a, b)

    return jax.tree.map(keep, old, new), jnp.where(still, 0.0, step)


def contract(weight: Float[Array, "D U"], x: Float[Array, "D *S"]) -> Float[Array, "U *S"]:
    """The product of a weight matrix, transposed, with the inputs of every parameter."""
    return jnp.tensordot(weight.T, x, 1)


def ravel_leaves(tree: Any) -> Float[Array, "N"]:
    """All entries of all leaves, of which there must be one, in float32."""
    return jnp.concatenate([float32(x).ravel() for x in jax.tree.leaves(tree)])


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
    blocks, width = block_sizes(max(size, 1))  # never an array without entries: no checkpoint can hold one
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
        layers.append(LSTMLayer(matrix[:before], matrix[before:], jnp.zeros(4 * units, jnp.float32)))
    return LSTMNetwork(tuple(layers), Readout(truncated_normal(key_out, hidden[-1:], hidden[-1]), jnp.float32(0)))


def truncated_normal(key: PRNGKeyArray, shape: tuple[int, ...], fan_in: int) -> Float[Array, "..."]:
    """Normal numbers of standard deviation 1 / sqrt(fan_in), truncated at two of these."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) / fan_in**0.5


def lstm_start(hidden: tuple[int, ...], size: int) -> LSTMMemory:
    """The memory of `size` fresh parameters: zeros."""
    return tuple((jnp.zeros((u, size), jnp.float32), jnp.zeros((u, size), jnp.float32)) for u in hidden)


def is_fresh(memory: LSTMMemory) -> Bool[Array, "*S"]:
    """Whether the first layer's cells are those of `lstm_start`: the LSTM has not been advanced."""
    return (memory[0][1] == 0).all(0)


def lstm_advance(
    network: LSTMNetwork, memory: LSTMMemory, x: Float[Array, "D *S"]
) -> tuple[LSTMMemory, Float[Array, "*S"]]:
    """One step of every layer on parameters of shape S, see `lstm_update`.

    Args:
        network: the weights.
        memory: of all layers.
        x: inputs of the first layer.

    Returns:
        The new memory, and the output.
    """
    new = []
    for layer, (h, c) in zip(network.layers, memory, strict=True):
        gates = contract(layer.inputs, x) + contract(layer.state, h)
        gates = gates + layer.bias.reshape(-1, *[1] * (x.ndim - 1))
        x, c = lstm_update(gates, c, axis=0)
        new.append((x, c))
    return tuple(new), jnp.tensordot(network.readout.weight, x, 1) + network.readout.bias
