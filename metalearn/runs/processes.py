"""Several processes that drive one run: who writes, what all agree on, and what one must tell the others.

Every process runs the same program. Process 0 writes; the others take part in the computation and nothing else. What a
process learns on its own, a signal or a full disk, it shares in a small collective beside each outer step, so that all
of them stop at the same step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metalearn import __version__
from metalearn._jax_versions import coordinator_address
from metalearn.errors import RunError
from metalearn.runs.witness import describe_lost_coordinator

__all__ = [
    "Several",
    "add_up",
    "agree_on",
    "all_do",
    "check_folder",
    "exchange",
    "first_does",
    "gather",
    "is_first",
    "local",
    "name_the_lost",
    "put_on_all",
    "share_out",
]

FAILED = -1
"""The code of a process that cannot go on; other codes are numbers of signals."""


def is_first() -> bool:
    """Whether this process writes: the only one, or number 0."""
    return jax.process_index() == 0


def exchange(text: str) -> list[str]:
    """The texts of all processes, in their order. All of them must call this at the same place."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(own.size))).ravel()
    padded = np.zeros(max(1, int(lengths.max())), np.uint8)
    padded[: own.size] = own
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(lengths), -1)
    return [row[:length].tobytes().decode() for row, length in zip(rows, lengths, strict=True)]


def agree_on(config: Mapping[str, Any]) -> None:
    """Check that all processes have the same configuration and the same versions of what computes.

    Raises:
        RunError: on every process; names each value that differs and the process that has it.
    """
    if jax.process_count() == 1:
        return
    packages = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax", "flax")}
    versions = {"metalearn": __version__, "python": platform.python_version(), **packages}
    words = {name: json.dumps(value) for name, value in {**_flat(config), **versions}.items()}  # NaN is equal to NaN
    everyone = [json.loads(text) for text in exchange(json.dumps(words))]
    differing = [
        f"{name}: {everyone[0].get(name)} in process 0, {other.get(name)} in process {process}"
        for process, other in enumerate(everyone)
        for name in sorted(everyone[0].keys() | other.keys())
        if everyone[0].get(name) != other.get(name)
    ]
    if differing:
        raise RunError(f"all processes of a run need the same configuration and versions: {'; '.join(differing[:8])}")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return found


def all_do(action: Callable[[], Any]) -> Any:
    """Do something that may fail in one process alone, and let all know whether it did.

    Returns:
        What `action` returned here.

    Raises:
        RunError: another process failed; says which one and why.
        Exception: whatever `action` raised here, once the others know.
    """
    if jax.process_count() == 1:
        return action()
    result, error = None, None
    try:
        result = action()
    except Exception as problem:
        error = problem
    said = exchange("" if error is None else str(error) or type(error).__name__)
    if error is not None:
        raise error
    for process, text in enumerate(said):
        if text:
            raise RunError(f"process {process} could not go on: {text}")
    return result


def first_does(action: Callable[[], Any]) -> Any:
    """Let process 0 alone do something that may fail, see `all_do`; returns None elsewhere."""
    return all_do(lambda: action() if is_first() else None)


def share_out(items: Sequence[Any], work: Callable[[list[Any]], Sequence[Any]]) -> list[Any]:
    """Let each process do its share of some work, and give the results of all items to all.

    Item i belongs to process i modulo their number, so that shares differ by one item at most.

    Args:
        items: the same on all processes, also as text.
        work: `(share) -> results`, one per item of the share: JSON values, whose floats arrive bit for bit.

    Returns:
        The results, in the order of `items`.

    Raises:
        RunError: another process failed (says which one and why), or has other items.
        Exception: whatever `work` raised here, once the others know.
    """
    count, own = jax.process_count(), jax.process_index()
    results = all_do(lambda: list(work(list(items[own::count]))))
    if count == 1:
        return results
    what = hashlib.sha256("\n".join(map(str, items)).encode()).hexdigest()
    everyone = [json.loads(text) for text in exchange(json.dumps([what, results]))]
    differing = [str(i) for i, (other, _) in enumerate(everyone) if other != everyone[0][0]]
    if differing:
        raise RunError(
            f"process {', '.join(differing)} came to other work than process 0: do all hosts calculate alike? Start "
            "all processes on hosts of one kind"
        )
    shares = [share for _, share in everyone]
    return [shares[i % count][i // count] for i in range(len(items))]


@contextlib.contextmanager
def name_the_lost(what_is_safe: Callable[[], str]) -> Iterator[None]:
    """Turn the error of a collective whose other end has died into one that says so; a context manager.

    Args:
        what_is_safe: `() -> sentence`, called when it happens.

    Raises:
        RunError: another process is gone; says what JAX knows of it, and what is safe.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = describe_lost_coordinator(coordinator_address()) or str(error).partition("\n")[0][:200]
        raise RunError(f"process {jax.process_index()} lost another process: {reason}. {what_is_safe()}") from error


def check_folder(folder: Path) -> None:
    """Check that all processes see the place of a run's folder, by a file that process 0 puts beside it for a moment.

    Raises:
        RunError: on every process; names those that do not see it.
    """
    if jax.process_count() == 1:
        return
    sign = folder.parent / f".{exchange(uuid.uuid4().hex)[0]}"
    first_does(lambda: (sign.parent.mkdir(parents=True, exist_ok=True), sign.touch()))
    everyone = exchange("seen" if sign.exists() else "")
    first_does(sign.unlink)
    blind = [str(process) for process, seen in enumerate(everyone) if not seen]
    if blind:
        raise RunError(
            f"{folder} is not in the same place for all processes: process {', '.join(blind)} does not see what "
            "process 0 writes there. Give a folder that all hosts share with --run"
        )


def local(tree: Any) -> Any:
    """Arrays that every process holds whole, as arrays of this process alone."""
    remote = lambda x: isinstance(x, jax.Array) and not x.is_fully_addressable  # noqa: E731
    return jax.tree.map(lambda x: x.addressable_data(0) if remote(x) else x, tree)


def gather(tree: Any) -> Any:
    """Arrays that are split over processes, whole on each of them. All processes must call this at the same place."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return x.addressable_data(0)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = multihost_utils.process_allgather(jax.random.key_data(x), tiled=True)
            return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(x))
        return jnp.asarray(multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(one, tree)


def add_up() -> Callable[[Any], Any]:
    """The function `(tree) -> tree` that adds arrays of this process to those of all others, which must call it too.

    The sums lie where the arrays lay, and have the same bits everywhere. A single process gets back what it gives.
    """
    if jax.process_count() == 1:
        return lambda tree: tree
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.asarray([firsts[process] for process in sorted(firsts)]), ("processes",))
    split = NamedSharding(mesh, PartitionSpec("processes"))
    sums = jax.jit(lambda xs: jax.tree.map(lambda x: x.sum(0), xs), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def put(x: Any) -> jax.Array:
        own = jax.device_put(x[None], firsts[jax.process_index()])
        return jax.make_array_from_single_device_arrays((mesh.size, *x.shape), split, [own])

    return lambda tree: local(sums(jax.tree.map(put, tree)))


def put_on_all(tree: Any, mesh: Mesh | None) -> Any:
    """Copy arrays that all processes have alike to all devices of the mesh, once; without one, to the first device."""
    if mesh is None:
        return jax.device_put(tree)
    if jax.process_count() > 1:  # an array that is committed to a device of one process cannot go to those of others
        tree = jax.tree.map(np.asarray, tree)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


class Several:
    """What the processes of one run tell each other beside its outer steps."""

    def __init__(self):
        """Compile the collective; all processes must be here."""
        devices = jax.devices()
        self._of = [device.process_index for device in devices]
        mesh = Mesh(np.asarray(devices), ("devices",))
        self._split = NamedSharding(mesh, PartitionSpec("devices"))
        self._spread = jax.jit(lambda codes: codes, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def share(self, code: int) -> jax.Array:
        """Begin to tell all others a code, 0 if there is nothing to tell; does not wait."""
        own = np.full(len(jax.local_devices()), code, np.int32)
        return self._spread(jax.make_array_from_process_local_data(self._split, own))

    def hear(self, shared: jax.Array, failure: Exception | None) -> int:
        """Wait for the codes of all.

        Args:
            shared: from `share`.
            failure: what stops this process, if anything does.

        Returns:
            A signal that any process got, or 0.

        Raises:
            RunError: another process cannot go on; says which one and why.
            Exception: `failure`, once the others know of it.
        """
        codes = np.asarray(shared)
        if (codes == FAILED).any():
            texts = exchange("" if failure is None else str(failure) or type(failure).__name__)
            if failure is not None:
                raise failure
            which = self._of[int(np.argmax(codes == FAILED))]
            raise RunError(f"process {which} ended the run: {texts[which]}")
        return int(codes.max())
