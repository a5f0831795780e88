"""Check whether a step fits the memory of this machine: what it needs, what is available, which batch would fit.

XLA plans the memory of a program when it compiles it, so that nothing has to be allocated to find out. The need grows
almost linearly in the batch: two small batches predict any other, and a program that is too large is never compiled.

    check_memory(lambda batch: (make_step(batch), make_shapes(batch)), batch=512)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metalearn._jax_versions import compile_uncached, keeps_programs
from metalearn.costs.jaxprs import equations
from metalearn.errors import NotEnoughMemoryError

__all__ = [
    "Growth",
    "Program",
    "available_bytes",
    "bound_bytes",
    "check_memory",
    "format_bytes",
    "growth",
    "needed_bytes",
]

PROBES = (8, 16)
"""The batches per device whose programs are compiled to predict the need of larger ones."""
SHARE = 0.93
"""The share of the available memory up to which predictions are trusted: programs need up to 6 % more than the line."""

Program = Callable[[int], tuple[Any, tuple[Any, ...]]]
"""`(batch) -> (step, arguments)`: a function from `jax.jit`, and arrays or `jax.ShapeDtypeStruct` for it."""


def needed_bytes(step: Any, *args: Any) -> int:
    """Bytes that one call of a compiled function needs on each of its devices: arguments, results and scratch.

    A program in JAX's persistent compilation cache is read from there, and compiled again only if the executable that
    was read has no statistics of memory.

    Args:
        step: a function from `jax.jit`, such as `OuterLoop.step`. It is compiled, not run.
        args: its arguments, arrays or `jax.ShapeDtypeStruct`.

    Raises:
        NotImplementedError: the backend does not report the memory of a program.
    """
    lowered = step.lower(*args)
    plan = _plan_of(lowered.compile())
    if plan is None and keeps_programs():
        plan = _plan_of(compile_uncached(lowered))
    if plan is None:
        raise NotImplementedError(f"the backend {jax.default_backend()} does not report the memory of a program")
    # A result in the memory of a donated argument counts once.
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def _plan_of(program: jax.stages.Compiled) -> Any:
    """XLA's plan of the memory; None if there is none, as in an executable that was read from a file may be."""
    try:
        plan = program.memory_analysis()
    except NotImplementedError:
        return None
    if plan is None or not plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes:
        return None
    return plan


def bound_bytes(function: Callable[..., Any], *args: Any) -> int:
    """An upper bound on the bytes that one call needs: arguments and all intermediates, as if nothing were ever freed.

    Nothing is compiled: this takes less than a second where `needed_bytes` takes ten, and gives several times the need.
    The body of a loop counts once, since an iteration reuses the memory of the one before; what a scan stacks counts as
    its result. The scratch memory of kernels is not counted.

    Args:
        function: anything JAX can trace, compiled or not.
        args: its arguments, arrays or `jax.ShapeDtypeStruct`.
    """
    closed = jax.make_jaxpr(function)(*args)
    inputs = _bytes_of([*closed.in_avals, *(jax.typeof(c) for c in closed.consts)])
    return inputs + sum(_bytes_of([var.aval for var in equation.outvars]) for equation in equations(closed))


def _bytes_of(avals: Iterable[Any]) -> int:
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals if hasattr(aval, "shape"))


def available_bytes(devices: int = 1) -> int | None:
    """Free bytes per device, for the first local devices.

    Args:
        devices: how many of them are used; CPU devices share the memory of the machine.

    Returns:
        On accelerators, what JAX may still allocate on the fullest device. On CPUs, an even share of what the system
        can still give (Linux, within the limit of a container) or of its whole memory (elsewhere). None if unknown.
    """
    stats = [device.memory_stats() or {} for device in jax.local_devices()[:devices]]
    if all("bytes_limit" in s for s in stats):
        return min(s["bytes_limit"] - s.get("bytes_in_use", 0) for s in stats)
    if jax.default_backend() != "cpu":
        return None
    free = _host_bytes()
    return None if free is None else free // devices


def _host_bytes(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):  # Windows has no sysconf, other systems other names
            return None
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        fields = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # Cached files are dropped when their memory is needed.
        return min(free, limit - used + int(fields["inactive_file"]))
    except (OSError, KeyError, ValueError):  # no container, or no limit: "max"
        return free


class Growth(NamedTuple):
    """Bytes that a step needs as a function of the batch: `fixed + each * batch`."""

    fixed: float
    each: float

    def needed(self, batch: int) -> int:
        """Bytes needed at this batch."""
        return math.ceil(self.fixed + self.each * batch)

    def largest(self, available: int, unit: int = 1) -> int:
        """The largest multiple of `unit` that needs at most `available` bytes; 0 if there is none."""
        room = available - self.fixed
        return 0 if room < 0 else unit * math.floor(room / max(self.each, 1.0) / unit)


def growth(program: Program, probes: tuple[int, int] = PROBES) -> Growth:
    """The line through the bytes needed at two small batches.

    Both programs are compiled, neither is run. The programs of larger batches are within a few percent of the line.
    Those of smaller ones, with axes of length 1, may be laid out differently.

    Args:
        program: `(batch) -> (step, arguments)`.
        probes: the smaller and the larger batch.
    """
    few, many = probes
    at_few, at_many = (needed_bytes(step, *args) for step, args in map(program, (few, many)))
    each = (at_many - at_few) / (many - few)
    return Growth(at_few - each * few, each)


def check_memory(
    program: Program,
    batch: int,
    available: int | None = None,
    *,
    probes: tuple[int, int] = PROBES,
    unit: int = 1,
    what: str = "tasks",
    advice: Callable[[int], str] = lambda largest: "",
) -> int | None:
    """Refuse a batch whose step does not fit.

    Up to the larger probe the batch itself is compiled. Above it, `growth` predicts the need; the batch itself is
    compiled only if the prediction lies between `SHARE * available` and `available`. A proposed batch has been compiled
    too, and fits. A program that is predicted not to fit is never compiled.

    Args:
        program: `(batch) -> (step, arguments)`.
        batch: the batch asked for.
        available: bytes that one device has for the whole step, arguments included; None: `available_bytes()`.
        probes: the two batches that are compiled to predict the need of larger ones.
        unit: batches are multiples of this, and only such are proposed.
        what: what there are `batch` of, for the message.
        advice: `(largest) -> text`, the end of the message; `largest` is the largest batch that fits, 0 if none does.

    Returns:
        Bytes that the step needs per device; None if the available memory is unknown, and nothing was checked.

    Raises:
        NotEnoughMemoryError: the step does not fit; the message says what it needs, what is free, and what would fit.
    """
    available = available_bytes() if available is None else available
    if available is None:
        return None

    def compiled_need(batch: int) -> int:
        step, args = program(batch)
        return needed_bytes(step, *args)

    line = growth(program, probes) if batch > max(probes) else None
    needed = compiled_need(batch) if line is None else line.needed(batch)
    if line is not None and SHARE * available < needed <= available:
        needed = compiled_need(batch)
    if needed > available:
        largest = _largest_that_fits(line or growth(program, probes), compiled_need, available, unit)
        fits = f"at most {largest} {what} fit" if largest else f"not even {unit} would fit"
        raise NotEnoughMemoryError(
            f"an outer step of {batch} {what} needs {format_bytes(needed)}, {format_bytes(available)} are free: "
            f"{fits}{advice(largest)}",
            needed=needed,
            available=available,
            largest=largest,
        )
    return needed


def _largest_that_fits(line: Growth, compiled_need: Callable[[int], int], available: int, unit: int) -> int:
    """The batch that the line proposes, made smaller until its own program fits; 0 if none does."""
    room = SHARE * available
    largest = line.largest(int(room), unit)
    while largest > 0 and (needed := compiled_need(largest)) > available:
        room *= min(SHARE, available / needed)
        largest = min(largest - unit, line.largest(int(room), unit))
    return largest


def format_bytes(size: float) -> str:
    """A number of bytes as text in decimal units: `31.2 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
