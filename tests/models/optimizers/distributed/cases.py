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
    low_rank,
    sign,
    top_k,
)

COMPRESSORS = {"top_k": top_k(0.1), "sign": sign(), "eight_bit": eight_bit(), "low_rank": low_rank(2)}
DEVICES, STEPS, AXIS = 4, 30, "devices"


def gradients(devices=DEVICES, steps=STEPS, seed=0):
    """A convolution's kernel, a bias and a scalar, on each device at each step."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=(steps, devices, *shape)).astype(np.float32)  # noqa: E731
    return {"kernel": draw(3, 4, 9), "bias": draw(9), "scalar": draw()}


def recording(compressor):
    """The same compressor, which keeps what it sent last in its memory."""

    def init(tensors):
        return compressor.init(tensors), [jnp.zeros_like(x) for x in tensors]

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
