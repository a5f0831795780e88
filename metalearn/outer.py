"""The outer loop: an estimator of meta-gradients and an optax transformation, compiled into one step.

One call of the step is one dispatch: many outer steps under `lax.scan`, the state donated, metrics returned as
arrays. With a mesh, the trajectories of the estimator are split over its devices with `jax.shard_map`, theta and
optimizer state are replicated, and each outer step makes one mean over devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from metalearn.gradients.estimator import Estimator

AXIS = "trajectories"


class OuterState(NamedTuple):
    """All there is to meta-training between two steps; a pytree of arrays, so it checkpoints as it is."""

    theta: Any
    optimizer: Any
    estimator: Any
    key: PRNGKeyArray
    step: Int[Array, ""]


class Outer(NamedTuple):
    """A compiled outer loop.

    Attributes:
        init: `(theta, data, key) -> OuterState`; copies theta, since `step` consumes the state it is given.
        step: `(state, data) -> (state, metrics)`; `steps_per_call` outer steps; `metrics` a dict of arrays
            [steps_per_call], the estimator's and `"grad_norm"`.
    """

    init: Callable[..., OuterState]
    step: Callable[..., tuple[OuterState, dict[str, Array]]]


def local_mesh(batch: int) -> Mesh | None:
    """A mesh over as many local devices as divide `batch` evenly; None when that is a single one."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return None if count == 1 else jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])


def outer(
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    steps_per_call: int = 1,
    mesh: Mesh | None = None,
) -> Outer:
    """Compile `estimator` and `optimizer` into an outer loop.

    Args:
        estimator: where meta-gradients come from.
        optimizer: what to do with them.
        steps_per_call: outer steps in one dispatch; does not change the results.
        mesh: devices to split the trajectories over, with the one axis `"trajectories"`; see `local_mesh`. Results
            differ only by the order in which numbers are added.

    Returns:
        `(init, step)`.

    Raises:
        ValueError: when the trajectories cannot be split evenly over the mesh.
    """
    if mesh is not None and estimator.batch % mesh.devices.size:
        raise ValueError(
            f"{estimator.batch} trajectories (or pairs) cannot be split evenly over {mesh.devices.size} devices: "
            f"make their number a multiple of {mesh.devices.size}"
        )
    grad = estimator.grad if mesh is None else _over_devices(estimator.grad, mesh)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> OuterState:
        key_estimator, key_steps = jax.random.split(key)
        theta = jax.tree.map(lambda a: jnp.array(a, copy=True), theta)
        state = OuterState(
            theta, optimizer.init(theta), estimator.init(theta, data, key_estimator), key_steps, jnp.int32(0)
        )
        return state if mesh is None else jax.device_put(state, _shardings(state, mesh))

    def one_step(state: OuterState, data: Any) -> tuple[OuterState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        gradient, estimator_state, metrics = grad(state.theta, state.estimator, data, key, state.step)
        gradient, metrics = estimator.finish(gradient, metrics)
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it, also for a caller who is strict elsewhere
            updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.theta)
            theta = optax.apply_updates(state.theta, updates)
        metrics = {**metrics, "grad_norm": optax.tree.norm(gradient)}
        return OuterState(theta, optimizer_state, estimator_state, state.key, state.step + 1), metrics

    def step(state: OuterState, data: Any) -> tuple[OuterState, dict[str, Array]]:
        return jax.lax.scan(lambda s, _: one_step(s, data), state, length=steps_per_call)

    return Outer(init, jax.jit(step, donate_argnums=0))


def _over_devices(grad: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    split, whole = PartitionSpec(AXIS), PartitionSpec()

    def local(theta: Any, state: Any, data: Any, key: PRNGKeyArray, outer_step: Array) -> Any:
        # Marked as differing between devices: a gradient with respect to a replicated theta would be summed over
        # devices by the transposition, and again by the mean below.
        theta = jax.lax.pcast(theta, AXIS, to="varying")
        gradient, state, metrics = grad(theta, state, data, key, outer_step)
        gradient, metrics = jax.lax.pmean((gradient, metrics), AXIS)
        return gradient, state, metrics

    return jax.shard_map(
        local, mesh=mesh, in_specs=(whole, split, whole, whole, whole), out_specs=(whole, split, whole)
    )


def _shardings(state: OuterState, mesh: Mesh) -> OuterState:
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    shardings = jax.tree.map(lambda _: whole, state)
    return shardings._replace(estimator=jax.tree.map(lambda _: split, state.estimator))
