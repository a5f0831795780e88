"""Mini-block Fisher: the empirical Fisher matrix of each layer, cut into many small blocks.

Bahamou, Goldfarb and Ren 2023, "A mini-block Fisher method for deep neural networks" (arXiv 2202.04124). We could read
the abstract alone: one block per layer of the empirical Fisher matrix, which is cut again into blocks of modest size
that are inverted in parallel. The blocks here are from memory: the weights of one neuron in a dense layer, and in a
convolution the kernel between one input and one output channel. So are momentum 0.9 and the decay 0.9 of the averages.
The damping, the periods and the variant with one mean block per layer are our choice. None of the paper's figures could
be read, and therefore none is reproduced.

With the gradients `g_b` of single examples in the weights of a block, its matrix is `mean_b g_b g_b^T`. In a dense
layer without positions this is `mean_b e_b^2 a_b a_b^T`, which needs no gradient of a single example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from einops import einsum, rearrange
from jaxtyping import Array, Float

from metalearn.costs.memory import available_bytes, format_bytes
from metalearn.errors import NotEnoughMemoryError, unknown_name
from metalearn_models.optimizers.curvature._layerwise import LayerRule, check_positive, layerwise, make_timing
from metalearn_models.optimizers.curvature._matching import Matching
from metalearn_models.optimizers.curvature.damped import damped_inverse
from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics, sum_outer_products

__all__ = ["block_size", "mini_block_fisher", "mini_block_moment", "scale_by_mini_blocks"]

Blocks = Literal["each", "mean"]
"""Whether every block has a matrix of its own, or all blocks of a layer share the mean of these."""


def mini_block_fisher(
    learning_rate: optax.ScalarOrSchedule,
    damping: Any = 1e-2,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    *,
    blocks: Blocks = "each",
    decay: Any = 0.9,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Mini-block Fisher as a whole optimizer: momentum on the gradients, the blocks, decoupled weight decay.

    Args:
        learning_rate: a number or a schedule.
        damping: see `scale_by_mini_blocks`.
        momentum: decay of the heavy ball, on the gradient before the blocks. None: no momentum.
        weight_decay: each step shrinks parameters by this times the learning rate.
        blocks: see `scale_by_mini_blocks`, as the arguments that follow.
        decay: of the averages.
        period: number of updates per inverse.
        collect: number of batches per inverse.
        burn_in: number of batches that are measured before the first update.
        fallback: see there; its updates are multiplied by the learning rate, too.
        layers: see there.

    Returns:
        The transformation; `update` needs `statistics`, and params if there is weight decay.

    Raises:
        ValueError: an argument is out of its range.
    """
    precondition = scale_by_mini_blocks(
        damping,
        blocks,
        decay=decay,
        period=period,
        collect=collect,
        burn_in=burn_in,
        fallback=fallback,
        layers=layers,
    )
    decays = not (isinstance(weight_decay, int | float) and weight_decay == 0)
    before = () if momentum is None else (optax.trace(momentum),)
    after = (optax.add_decayed_weights(weight_decay),) if decays else ()
    return optax.chain(*before, precondition, *after, optax.scale_by_learning_rate(learning_rate))


def scale_by_mini_blocks(
    damping: Any = 1e-2,
    blocks: Blocks = "each",
    *,
    decay: Any = 0.9,
    period: int = 1,
    collect: int | None = None,
    burn_in: int = 0,
    fallback: optax.GradientTransformation | None = None,
    layers: Mapping[str, KernelLayout] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Multiply the gradient of each kernel, block by block, by the damped inverse of the empirical Fisher matrix.

    A batch whose gradients are not finite leaves the blocks as they were. Biases go to the fallback.

    Args:
        damping: added to the diagonal of each block; positive, so that no block is singular.
        blocks: "each": every block has a matrix of its own. In a dense layer from m inputs to n outputs they take
            `n m^2` numbers, and as many for their inverses. "mean": all blocks of a layer share the mean of these.
        decay: of the average of the blocks over batches, with bias correction.
        period: number of updates per inverse.
        collect: number of batches whose matrices are averaged for an inverse. None: all.
        burn_in: number of batches that are measured before the first inverse, with equal weights. Their updates are 0.
        fallback: updates parameters without statistics. None: their gradient is passed on as it is.
        layers: path and layout of the kernels, from `find_layers(loss_fn, params, ...)`. None: parameters of two or
            more axes, whose last axis gives the outputs.

    Returns:
        The transformation. Its `update` takes `statistics` from `value_grad_and_statistics`. Its `init` raises
        `NotEnoughMemoryError` if the blocks of one layer do not fit into memory.

    Raises:
        UnknownNameError: `blocks` is neither "each" nor "mean".
        ValueError: an argument is out of its range. By `update`: the statistics are missing, or of another model.
    """
    check_positive("damping", damping)
    if blocks not in ("each", "mean"):
        raise unknown_name("blocks", blocks, ("each", "mean"))

    def zeros(layout: KernelLayout, dtype: Any) -> Array:
        size = block_size(layout)
        channels = layout.inputs // size
        shape = (channels, layout.outputs, size, size) if blocks == "each" else (1, 1, size, size)
        _check_memory(layout, shape, jnp.dtype(dtype).itemsize)
        return jnp.zeros(shape, dtype)

    def solve(average: Float[Array, "i o k k"]) -> Float[Array, "i o k k"]:
        flat = rearrange(average, "i o k l -> (i o) k l")
        inverses = jax.lax.map(lambda block: damped_inverse(block, damping), flat)
        return inverses.reshape(average.shape)

    def precondition(inverses: Float[Array, "i o k k"], gradient: Float[Array, "m n"]) -> Float[Array, "m n"]:
        size = inverses.shape[-1]
        cut = rearrange(gradient, "(k i) o -> k i o", k=size)
        if inverses.shape[:2] == (1, 1):
            new = einsum(inverses[0, 0], cut, "k l, l i o -> k i o")
        else:
            new = einsum(inverses, cut, "i o k l, l i o -> k i o")
        return rearrange(new, "k i o -> (k i) o")

    rule = LayerRule(
        zeros,
        lambda layer, dtype: mini_block_moment(layer, dtype, blocks),
        solve,
        precondition,
        lambda inverses, a, e: precondition(inverses, sum_outer_products(a, e)),
    )
    return layerwise(
        rule, make_timing(decay, period, collect, burn_in), Matching("scale_by_mini_blocks", fallback, layers)
    )


def block_size(layout: KernelLayout) -> int:
    """Number of weights in a block: those of one neuron, or of the kernel between two channels of a convolution.

    A kernel of three or more axes of which all but the last meet the inputs counts as a convolution: its last axis but
    one are the input channels.

    Args:
        layout: how the kernel is a matrix.
    """
    spatial = len(layout.shape) - 2
    is_convolution = spatial > 0 and layout.contracted == tuple(range(len(layout.shape) - 1))
    return math.prod(layout.shape[:spatial]) if is_convolution else layout.inputs


def mini_block_moment(
    layer: LayerStatistics, dtype: Any = jnp.float32, blocks: Blocks = "each"
) -> Float[Array, "i o k k"]:
    """The mean over examples of the outer products of their gradients, per block.

    Args:
        layer: statistics of the layer.
        dtype: of the result.
        blocks: "each", or "mean" for the mean of all blocks, of shape [1, 1, k, k].

    Returns:
        A matrix per input channel (a dense layer has one) and output.
    """
    a, e = layer.inputs.astype(dtype), layer.output_grads.astype(dtype)
    size, examples = block_size(layer.layout), len(a)
    if a.ndim == 2 and size == a.shape[1]:
        if blocks == "mean":
            weighted = a * jnp.square(e).mean(1, keepdims=True)
            return (weighted.T @ a / examples)[None, None]
        return (einsum(jnp.square(e), a, a, "b o, b k, b l -> o k l") / examples)[None]
    if a.ndim == 2:
        a, e = a[:, None], e[:, None]
    each = einsum(rearrange(a, "b p (k i) -> b p k i", k=size), e, "b p k i, b p o -> b k i o")
    if blocks == "mean":
        count = examples * each.shape[2] * each.shape[3]
        return (einsum(each, each, "b k i o, b l i o -> k l") / count)[None, None]
    return einsum(each, each, "b k i o, b l i o -> i o k l") / examples


def _check_memory(layout: KernelLayout, shape: tuple[int, ...], itemsize: int) -> None:
    needed, free = 2 * math.prod(shape) * itemsize, available_bytes()
    if free is None or needed <= free:
        return
    raise NotEnoughMemoryError(
        f"the {shape[0] * shape[1]} blocks of {shape[2]} weights of a kernel of shape {list(layout.shape)} and their "
        f'inverses need {format_bytes(needed)}, {format_bytes(free)} are free: blocks="mean" needs '
        f"{format_bytes(2 * shape[2] ** 2 * itemsize)}",
        needed=needed,
        available=free,
        largest=0,
    )
