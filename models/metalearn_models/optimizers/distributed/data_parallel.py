"""A training step whose batch is split over devices, for optimizers that exchange what they need by themselves.

mesh = jax.make_mesh((jax.device_count(),), ("devices",))
optimizer = optax.chain(compressed_all_reduce(top_k(0.01), "devices"), optax.adam(1e-3))
init, step, read_params = data_parallel(loss, optimizer, mesh)
state = init(params)
for batch in batches:
state, value = step(state, batch)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from metalearn_models.optimizers.distributed.compressor import mean

__all__ = ["DataParallel", "DeviceState", "data_parallel"]


class DeviceState(NamedTuple):
    """Parameters and optimizer of every device, on the leading axis of each leaf, which is split over the devices."""

    params: Any
    optimizer: Any


class DataParallel(NamedTuple):
    """A compiled training step.

    Attributes:
        init: `(params) -> DeviceState`; every device starts from the same parameters, and a state of its own.
        step: `(state, batch) -> (state, loss)`; the leading axis of each leaf of the batch is split over the devices.
            The loss is the mean over the devices, before the update. The state is donated.
        read_params: `(state) -> params`, the mean over the devices, which is what each of them has unless they are
            within a round of local steps.
    """

    init: Callable[[Any], DeviceState]
    step: Callable[[DeviceState, Any], Any]
    read_params: Callable[[DeviceState], Any]


def data_parallel(
    loss: Callable[[Any, Any], Any],
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
) -> DataParallel:
    """Compile a training step on a mesh, or the same step on one device.

    Nothing but the loss is averaged here: the optimizer gets the gradient of its device's share of the batch, and
    begins with `all_reduce` or `compressed_all_reduce`, or is a `local_sgd`. It also gets the mean loss as `value`.

    Args:
        loss: `(params, batch) -> scalar`, a mean over the batch.
        optimizer: an optax transformation.
        mesh: of a single axis, whose name the optimizer's exchange has, over the devices of one process or of several.
            None: one device.

    Returns:
        `(init, step, read_params)`, see `DataParallel`.

    Raises:
        ValueError: the mesh has more than one axis; by `step`: the batch cannot be split evenly over the devices.
    """
    if mesh is not None and len(mesh.axis_names) != 1:
        raise ValueError(f"data_parallel needs a mesh of one axis, got the axes {', '.join(mesh.axis_names)}")
    axis: str = "" if mesh is None else mesh.axis_names[0]
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> DeviceState:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            state = optimizer.init(params)
        # The copy: parameters of the caller must survive the donation of the state.
        return jax.tree.map(lambda x: jnp.array(x, copy=True)[None], DeviceState(params, state))

    def step(state: DeviceState, batch: Any) -> tuple[DeviceState, Any]:
        params, memory = jax.tree.map(lambda x: x[0], state)
        value, grads = jax.value_and_grad(loss)(params, batch)
        value = mean(value, axis) if axis else value
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = optimizer.update(grads, memory, params, value=value)
            params = optax.apply_updates(params, updates)
        return jax.tree.map(lambda x: x[None], DeviceState(params, memory)), value

    def read_params(state: DeviceState) -> Any:
        # Equal parameters stay what they are to the bit.
        return jax.tree.map(lambda x: x[0] + (x - x[:1]).mean(0), state.params)

    if mesh is None:
        return DataParallel(jax.jit(init), jax.jit(step, donate_argnums=0), jax.jit(read_params))
    mesh = Mesh(mesh.devices, mesh.axis_names)  # with automatic axes, whatever those of the caller are
    split, whole = PartitionSpec(axis), PartitionSpec()
    over = {"mesh": mesh, "check_vma": False}  # checked, gradients would be added up before the exchange sees them
    start = jax.jit(jax.shard_map(init, in_specs=whole, out_specs=split, **over))
    parts = jax.shard_map(step, in_specs=(split, split), out_specs=(split, whole), **over)

    def checked_step(state: DeviceState, batch: Any) -> tuple[DeviceState, Any]:
        for path, x in jax.tree_util.tree_leaves_with_path(batch):
            if jnp.ndim(x) == 0 or x.shape[0] % mesh.devices.size:
                raise ValueError(
                    f"the batch is split over {mesh.devices.size} devices, got shape {jnp.shape(x)} at batch"
                    f"{jax.tree_util.keystr(path)}: make its leading axis a multiple of {mesh.devices.size}"
                )
        return parts(state, batch)

    return DataParallel(start, jax.jit(checked_step, donate_argnums=0), jax.jit(read_params))
