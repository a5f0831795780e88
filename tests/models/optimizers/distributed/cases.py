"""Compressors, gradients of many devices, and one program per compressor that shows all that it sends."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn_models.optimizers.distributed import (
    Compressor,
    compressed_all_reduce,
    eight_bit,
    in_two_stages,
    low_rank,
    sign,
    top_k,
)

COMPRESSORS = {"top_k": top_k(0.1), "sign": sign(), "eight_bit": eight_bit(), "low_rank": low_rank(2)}
COMPRESSORS |= {f"{name} in two stages": in_two_stages(COMPRESSORS[name]) for name in ("top_k", "sign", "eight_bit")}
DEVICES, STEPS, AXIS = 4, 30, "devices"
BAD = 20
"""The step at which the gradient of one device is not finite."""
GOOD = np.arange(STEPS) != BAD


def gradients(seed=0):
    """A convolution's kernel, a bias and a scalar, on each device at each step; an infinity among them."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=(STEPS, DEVICES, *shape)).astype(np.float32)  # noqa: E731
    found = {"kernel": draw(3, 4, 9), "bias": draw(9), "scalar": draw()}
    found["kernel"][BAD, 1, 0, 0, 3] = np.inf
    return found


def recording(compressor):
    """The same compressor, which keeps what it sent last in its memory."""

    def init(tensors, axis):
        return compressor.init(tensors, axis), [jnp.zeros_like(x) for x in tensors]

    def reduce(tensors, memory, axis):
        found = compressor.reduce(tensors, memory[0], axis)
        return found._replace(memory=(found.memory, found.sent))

    return Compressor(init, reduce)


def send(compressor, grads):
    """On one device: `(updates, sent)` of each step and the last state."""
    tx = compressed_all_reduce(recording(compressor), AXIS)

    def body(state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state)
        return state, (updates, jax.tree.structure(g).unflatten(state.memory[1]))

    state, shown = jax.lax.scan(body, tx.init(jax.tree.map(lambda x: x[0], grads)), grads)
    return *shown, state


@functools.cache
def sent_by(name, dtype=np.float32):
    """NumPy arrays of `send` on DEVICES imitated devices, which are the second axis (the first of the state)."""
    together = jax.vmap(functools.partial(send, COMPRESSORS[name]), in_axes=1, out_axes=(1, 1, 0), axis_name=AXIS)
    return jax.tree.map(np.asarray, jax.jit(together)(jax.tree.map(dtype, gradients())))
