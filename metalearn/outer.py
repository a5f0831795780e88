"""The outer loop: an estimator of meta-gradients and an optax transformation, compiled into one step.

One call of the step is one dispatch: many outer steps under `lax.scan`, with the state donated and metrics returned as
arrays. On a mesh, the trajectories of the estimator are split over the devices with `jax.shard_map`, theta and the
optimizer's state are replicated, and each outer step takes one mean over the devices.

The devices may belong to several processes, one per host. Each process runs this same program, with the same theta,
data and key:

    import jax, optax
    from metalearn import global_mesh, nres, outer_loop

    jax.distributed.initialize("host-0:1234", num_processes=2, process_id=0)  # 1 on the other host; no arguments on
    estimator = nres(loop, 0.1, pairs=64, window=10)                          # a cluster that JAX recognises
    init, step = outer_loop(estimator, optax.adam(1e-3), mesh=global_mesh(estimator.batch))
    state = init(theta, data, jax.random.key(0))
    for _ in range(1000):
        state, metrics = step(state, data)
    if jax.process_index() == 0:
        print(metrics["loss"], state.theta)  # the same on every process
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from metalearn.compilation import LESS_EFFORT, jit_quickly
from metalearn.gradients.estimator import AXIS, Estimator
from metalearn.inner import typed_key

__all__ = ["OuterLoop", "OuterState", "global_mesh", "local_mesh", "outer_loop", "use_all_cores"]


class OuterState(NamedTuple):
    """The whole state of meta-training between two outer steps: a pytree of arrays, which can be saved as it is.

    Attributes:
        theta: meta-parameters.
        optimizer: state of the optax transformation.
        estimator: state of the estimator, with the trajectories on the leading axis of each leaf.
        key: the key from which the keys of all outer steps derive.
        step: outer steps done, int32.
    """

    theta: Any
    optimizer: Any
    estimator: Any
    key: PRNGKeyArray
    step: Int[Array, ""]


class OuterLoop(NamedTuple):
    """A compiled outer loop.

    Attributes:
        init: `(theta, data, key) -> OuterState`; copies theta, since `step` consumes the state that it is given. On a
            mesh, each device makes its own part of the estimator's state. With several processes, it raises ValueError
            on each of them unless all were given the same theta, data and key.
        step: `(state, data) -> (state, metrics)`, `steps_per_call` outer steps; `metrics` is a dict of arrays
            [steps_per_call], those of the estimator and `"grad_norm"`, readable on every process.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, dict[str, Array]]]


def use_all_cores() -> None:
    """Make one device per CPU core, over which `local_mesh` spreads trajectories; numbers change by rounding only.

    One small network is too little work to share between cores, and evolution strategies leave all but one idle. Call
    it before JAX starts. Nothing changes if JAX runs already, if the number of devices is set by the environment, or if
    there is an accelerator.
    """
    is_set = "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not is_set:
        with contextlib.suppress(RuntimeError):  # the devices are chosen already
            jax.config.update("jax_num_cpu_devices", _count_cores())


def local_mesh(batch: int) -> Mesh | None:
    """A mesh over the largest number of local devices that divides `batch`; None if that is one."""
    devices = jax.local_devices()
    count = max(n for n in range(1, len(devices) + 1) if batch % n == 0)
    return None if count == 1 else jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])


def global_mesh(batch: int) -> Mesh | None:
    """A mesh over all devices of all processes; None if there is only one device.

    Raises:
        ValueError: `batch` cannot be split evenly over the devices.
    """
    devices = jax.devices()
    over = batch % len(devices)
    if over:
        processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        choices = [n for n in (batch - over, batch - over + len(devices)) if n]
        raise ValueError(
            f"{batch} trajectories (or pairs) cannot be split evenly over all {len(devices)} devices{processes}: "
            f"choose {' or '.join(map(str, choices))}"
        )
    return None if len(devices) == 1 else jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def outer_loop(
    estimator: Estimator,
    optimizer: optax.GradientTransformation,
    steps_per_call: int = 1,
    mesh: Mesh | None = None,
) -> OuterLoop:
    """Compile `estimator` and `optimizer` into an outer loop.

    Args:
        estimator: the source of meta-gradients.
        optimizer: turns them into updates of theta. It gets the mean loss as `value`, and the gradient as `grad`.
        steps_per_call: outer steps per dispatch. Results are equal up to rounding: a single step is compiled without a
            loop, and XLA may then add in another order.
        mesh: devices to split the trajectories over, with the single axis `"trajectories"`; see `local_mesh` and, for
            several processes, `global_mesh`. Results differ only by the order in which numbers are added.

    Returns:
        `(init, step)`, see `OuterLoop`.

    Raises:
        TypeError: no estimator or no optimizer; by `step`: the optimizer needs more than `value` and `grad`, such as
            the `value_fn` of a line search.
        ValueError: the trajectories cannot be split evenly over the mesh.
    """
    if not isinstance(estimator, Estimator):
        raise TypeError(f"outer_loop takes an estimator, such as backprop(loop, batch=64), got {estimator!r:.80}")
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"outer_loop takes an optimizer of optax, such as optax.adam(1e-3), got {optimizer!r:.80}")
    optimizer = optax.with_extra_args_support(optimizer)
    if mesh is not None and estimator.batch % mesh.devices.size:
        raise ValueError(
            f"{estimator.batch} trajectories (or pairs) cannot be split evenly over {mesh.devices.size} devices: "
            f"make their number a multiple of {mesh.devices.size}"
        )
    grad = estimator.grad if mesh is None else _over_devices(estimator.grad, mesh)

    def new_state(theta: Any, data: Any, key: PRNGKeyArray) -> OuterState:
        key_estimator, key_steps = jax.random.split(key)
        # A copy, since `step` consumes its state. Without weak types: the first step would make them strong, and the
        # second would compile again.
        theta = jax.tree.map(lambda a: jnp.array(a, jnp.result_type(a), copy=True), theta)
        return OuterState(
            theta, optimizer.init(theta), estimator.init(theta, data, key_estimator), key_steps, jnp.int32(0)
        )

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> OuterState:
        key = typed_key(key)
        arguments = (theta, data, key) if mesh is None else _put_everywhere((theta, data, key), mesh)
        return make_state(*arguments)

    def one_step(state: OuterState, data: Any) -> tuple[OuterState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        gradient, estimator_state, metrics = grad(state.theta, state.estimator, data, key, state.step)
        gradient, metrics = estimator.finish(gradient, metrics)
        # optax relies on both, whatever the caller's settings.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            # value and grad are for those that read them, such as optax.contrib.reduce_on_plateau; others ignore them.
            extra = {"value": metrics["loss"], "grad": gradient}
            try:
                updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.theta, **extra)
            except TypeError as error:
                if "required keyword-only argument" not in str(error):
                    raise
                raise TypeError(f"outer_loop gives the optimizer value and grad, but it needs more: {error}") from error
            theta = optax.apply_updates(state.theta, updates)
        metrics = {**metrics, "grad_norm": optax.tree.norm(gradient)}
        return OuterState(theta, optimizer_state, estimator_state, state.key, state.step + 1), metrics

    def step(state: OuterState, data: Any) -> tuple[OuterState, dict[str, Array]]:
        return jax.lax.scan(lambda s, _: one_step(s, data), state, length=steps_per_call)

    make_state = jit_quickly(new_state, out_shardings=None if mesh is None else _shardings(mesh))  # it runs once
    if estimator.small_operations:
        return OuterLoop(init, jit_quickly(step, _options(mesh), donate_argnums=0))
    return OuterLoop(init, jax.jit(step, donate_argnums=0))


def _count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options(mesh: Mesh | None) -> dict[str, Any]:
    """How XLA compiles many small operations on CPUs. Figures are in `docs/scaling.md`."""
    options = dict(LESS_EFFORT)
    here = 1 if mesh is None else sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    # Where each core has a device of its own, handing a small product to the threads of all cores only costs time.
    if 1 < here >= _count_cores() and "multi_thread_eigen" not in os.environ.get("XLA_FLAGS", ""):
        options["xla_cpu_multi_thread_eigen"] = False
    return options


def _over_devices(grad: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    split, whole = PartitionSpec(AXIS), PartitionSpec()

    def local(theta: Any, state: Any, data: Any, key: PRNGKeyArray, outer_step: Array) -> Any:
        gradient, state, metrics = grad(theta, state, data, key, outer_step)
        gradient, metrics = jax.lax.pmean((gradient, metrics), AXIS)
        return gradient, state, metrics

    # Unchecked: JAX would require the initial state of every scan to vary between devices, and refuse a cell that
    # starts from zeros. Without the check, the mean above is the only sum over devices.
    specs = {"in_specs": (whole, split, whole, whole, whole), "out_specs": (whole, split, whole)}
    return jax.shard_map(local, mesh=mesh, check_vma=False, **specs)


def _shardings(mesh: Mesh) -> OuterState:
    # A tree prefix: one sharding per field, for all its leaves.
    whole: Any = NamedSharding(mesh, PartitionSpec())
    split: Any = NamedSharding(mesh, PartitionSpec(AXIS))
    return OuterState(theta=whole, optimizer=whole, estimator=split, key=whole, step=whole)


def _put_everywhere(arguments: tuple[Any, ...], mesh: Mesh) -> tuple[Any, ...]:
    """Put the arguments of `init` on all devices of the mesh, after checking that all processes agree on them."""
    whole = NamedSharding(mesh, PartitionSpec())
    if whole.is_fully_addressable:
        return jax.device_put(arguments, whole)
    _check_agreement(arguments)
    # An array committed to a device of this process cannot enter a computation of all processes; one of the host can.
    return jax.tree.map(lambda x: _from_host(x) if isinstance(x, jax.Array) and _is_local(x) else x, arguments)


def _is_local(x: Any) -> bool:
    return not isinstance(x, jax.Array) or x.is_fully_addressable


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _host(x: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _from_host(x: Any) -> Any:
    on_host: Any = _host(x)
    return jax.random.wrap_key_data(on_host, impl=jax.random.key_impl(x)) if _is_key(x) else on_host


def _check_agreement(arguments: tuple[Any, ...]) -> None:
    digests = []
    for value in arguments:
        digest = hashlib.sha256(str(jax.tree.structure(value)).encode())
        for x in map(_host, filter(_is_local, jax.tree.leaves(value))):
            digest.update(f"{x.dtype}{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        digests.append(np.frombuffer(digest.digest(), np.uint32))
    everyone = np.asarray(multihost_utils.process_allgather(np.stack(digests)))  # [processes, arguments, 8]
    differs = (everyone != everyone[:1]).any(-1)
    if differs.any():
        names = ("theta", "data", "key")
        wrong = ", ".join(f"{names[argument]} of process {process}" for process, argument in np.argwhere(differs)[:8])
        raise ValueError(f"all processes must call init with the same arguments; these differ from process 0: {wrong}")
