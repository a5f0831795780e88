"""Compressed all-reduce with error feedback: what a message leaves out is added to the next one.

Seide, Fu, Droppo, Li, Yu 2014 (1-bit SGD); Karimireddy, Rebjock, Stich, Jaggi 2019, "Error feedback fixes SignSGD and
other gradient compression schemes" (arXiv 1901.09847). With a gradient g and a compressor C, on each device,

    x = e + g,  send C(x),  e = x - C(x),

so that what was sent and the residual e add up to the gradients, on every device and for every entry:

    sum(sent) + e == sum(gradients).

Floating-point numbers lose the last bits of a sum. Here e is the unevaluated sum of two floats and each addition keeps
its rounding error, so that the equation holds exactly, in real numbers, as long as 48 bits per entry suffice (for
float32): unless a gradient is 2^24 times smaller than the residual that it is added to. See `exact`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from metalearn_models.optimizers.distributed.compressor import Axis, Compressor, mean
from metalearn_models.optimizers.distributed.exact import add_exactly
from metalearn_models.optimizers.frame import transformation

__all__ = ["CompressionState", "all_reduce", "compressed_all_reduce", "residual"]


class CompressionState(NamedTuple):
    """What a compressed all-reduce remembers, on each device for itself: twice the parameters in float32 or wider.

    Attributes:
        high: the residual, like params.
        low: what `high` is short of by rounding, like params.
        memory: of the compressor.
    """

    high: Any
    low: Any
    memory: Any


def all_reduce(axis: Axis) -> optax.GradientTransformationExtraArgs:
    """The mean of the gradients over devices, uncompressed: what `compressed_all_reduce` is compared with.

    Args:
        axis: as in `compressed_all_reduce`.
    """

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        del params, extra
        return jax.tree.map(lambda g: mean(g, axis), updates), state

    return transformation((), lambda params: (), update)


def compressed_all_reduce(compressor: Compressor, axis: Axis) -> optax.GradientTransformationExtraArgs:
    """The mean over devices of what their compressed gradients say, with error feedback.

    The transformation stands before the optimizer, `optax.chain(compressed_all_reduce(top_k(0.01), "devices"),
    optax.adam(1e-3))`, in code that runs on every device with the gradient of its own share of the batch: in
    `jax.shard_map` (with `check_vma=False`, or the gradients are added up before it sees them), or in a `jax.vmap` that
    names the axis. Where the axis is not bound, there is one device, and the same code runs.

    A gradient that is not finite, on any device, makes the updates of all devices not finite, as it does without
    compression, and leaves the state of each as it was. `optax.apply_if_finite` around the optimizer behind it then
    leaves the step out on all devices alike. (Around this transformation it would see only the gradient of its own
    device, which then would wait for the others for ever.)

    Args:
        compressor: how to send a tensor, such as `top_k(0.01)`, `sign()`, `eight_bit()` or `low_rank(2)`.
        axis: name of the mesh axis of the devices, or several names.

    Returns:
        The transformation. Its updates are the same on all devices, its state is not. Its `init` raises TypeError if a
        parameter is not floating-point.
    """

    def start(params: Any) -> CompressionState:
        high, low = (jax.tree.map(lambda p: jnp.zeros_like(p, _wide(p)), params) for _ in range(2))
        return CompressionState(high, low, compressor.init(jax.tree.leaves(high), axis))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, CompressionState]:
        del params, extra
        grads, tree = jax.tree.flatten(updates)
        if not grads:
            return updates, state
        high, low = map(tree.flatten_up_to, state[:2])
        parts = zip(high, low, grads, strict=True)
        sums = [add_exactly(first, second, g.astype(first.dtype)) for first, second, g in parts]
        # A tensor that is not finite anywhere is not finite everywhere: the message must say so.
        tensors = [jnp.where(jnp.isfinite(x).all(), x, jnp.nan) for x, _ in sums]
        sent, average, memory = compressor.reduce(tensors, state.memory, axis)
        left = [add_exactly(x, rest, -s) for (x, rest), s in zip(sums, sent, strict=True)]
        new = CompressionState(tree.unflatten([x for x, _ in left]), tree.unflatten([x for _, x in left]), memory)
        # The means are the same on all devices, so that these agree on whether the step counts.
        is_finite = jnp.stack([jnp.isfinite(x).all() for x in average]).all()
        state = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, state)
        return tree.unflatten([x.astype(g.dtype) for x, g in zip(average, grads, strict=True)]), state

    return transformation((), start, update)


def residual(state: CompressionState) -> Any:
    """The residual of this device as one float per entry: what it has not yet sent of its gradients."""
    return jax.tree.map(lambda high, low: high + low, state.high, state.low)


def _wide(x: Any) -> Any:
    dtype = jnp.result_type(x)
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
