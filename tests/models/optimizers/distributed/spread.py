"""The same training on any number of devices, for scripts and processes to run; imports nothing of this folder."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from metalearn.costs.messages import read_messages
from metalearn_models.optimizers.distributed import (
    all_reduce,
    compressed_all_reduce,
    data_parallel,
    diloco,
    eight_bit,
    in_two_stages,
    low_rank,
    sign,
    top_k,
)

AXIS, STEPS, BATCH = "devices", 4, 16


def compressed(compressor):
    return optax.chain(compressed_all_reduce(compressor, AXIS), optax.sgd(0.1, momentum=0.9))


OPTIMIZERS = {
    "all_reduce": optax.chain(all_reduce(AXIS), optax.sgd(0.1, momentum=0.9)),
    "top_k": compressed(top_k(0.1)),
    "sign": compressed(sign()),
    "eight_bit": compressed(eight_bit()),
    "eight_bit in two stages": compressed(in_two_stages(eight_bit())),
    "low_rank": compressed(low_rank(2)),
    "diloco": diloco(optax.sgd(0.02, 0.5), 2, AXIS, exchange=compressed_all_reduce(in_two_stages(eight_bit()), AXIS)),
}
ON_PROCESSES = ("top_k", "eight_bit in two stages", "low_rank", "diloco")
"""One per kind of collective."""


def params():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(12, 10)).astype(np.float32), "b": np.zeros(10, np.float32)}


def batches():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(STEPS, BATCH, 12)).astype(np.float32)
    return x, np.tanh(x[:, :, :10]) + 1


def loss(params, batch):
    x, y = batch
    return jnp.square(x @ params["w"] + params["b"][None] - y).sum(1).mean()


def train(name: str, devices: int | None) -> dict[str, Any]:
    """Losses and last parameters as lists, and what a step sends, on the first devices of all; None: without a mesh."""
    mesh, place = None, jnp.asarray
    if devices is not None:
        mesh = jax.make_mesh((devices,), (AXIS,), (AxisType.Auto,), devices=jax.devices()[:devices])
        split = NamedSharding(mesh, PartitionSpec(AXIS))
        place = lambda x: jax.make_array_from_callback(x.shape, split, lambda index: x[index]) if devices != 3 else x  # noqa: E731
    init, step, read_params = data_parallel(loss, OPTIMIZERS[name], mesh)
    state, losses = init(params()), []
    parts = [jax.tree.map(place, batch) for batch in zip(*batches(), strict=True)]
    jitted: Any = step
    program = jitted.lower(state, parts[0]).compile()
    for part in parts:
        state, value = program(state, part)
        losses.append(float(value))
    last = jax.tree.map(lambda x: np.asarray(x).tolist(), read_params(state))
    placed = sorted({(x.shape[0], x.addressable_shards[0].data.shape[0]) for x in jax.tree.leaves(state)})
    return {"losses": losses, "params": last, "placed": placed, "messages": read_messages(program.as_text())}


def on_eight_devices() -> dict[str, Any]:
    """Each optimizer on eight devices, some on the four that two processes have, and what is said of three."""
    four = {name: train(name, 4) for name in ON_PROCESSES}
    error = ""
    try:
        train("all_reduce", 3)
    except ValueError as refused:
        error = str(refused)
    return {"8": {name: train(name, 8) for name in OPTIMIZERS}, "4": four, "error": error}


def worker(process: int) -> dict[str, Any]:
    """Some optimizers on the four devices of two processes."""
    del process
    return {name: train(name, 4) for name in ON_PROCESSES}
