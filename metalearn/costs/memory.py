"""Does a step fit the memory of this machine? What it needs, what there is, and which batch would fit.

XLA plans the memory of a program when it compiles it, so that nothing has to be allocated to ask. The need grows
linearly in the batch: two small batches say what any other takes, and a program that is too large is never made.

    check_memory(lambda tasks: (make_step(tasks), make_shapes(tasks)), batch=512)
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr

from metalearn.costs.jaxprs import jaxprs_in
from metalearn.errors import NotEnoughMemoryError

PROBES = (8, 16)
"""The batches whose programs are compiled, for each device."""
SHARE = 0.93
"""The share of the available memory up to which predictions are trusted: programs need up to 6 % more than the line."""

Program = Callable[[int], tuple[Any, tuple[Any, ...]]]
"""From a batch to a compiled function (`jax.jit`) and its arguments, arrays or `jax.ShapeDtypeStruct`."""


def needed_bytes(step: Any, *args: Any) -> int:
    """Bytes that one call of a compiled function needs on each of its devices: arguments, results and scratch.

    Args:
        step: what `jax.jit` gives, such as `OuterLoop.step`. It is compiled, not run.
        args: its arguments; `jax.ShapeDtypeStruct` will do.

    Raises:
        NotImplementedError: the backend does not say.
    """
    plan = step.lower(*args).compile().memory_analysis()
    if plan is None:
        raise NotImplementedError(f"the backend {jax.default_backend()} does not say what memory a program needs")
    # A result that takes the place of a donated argument counts once.
    results = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + results + plan.temp_size_in_bytes


def bound_bytes(function: Callable[..., Any], *args: Any) -> int:
    """Bytes that one call needs at most: arguments, and all that it computes, as if nothing were ever given back.

    Nothing is compiled, so it takes less than a second where `needed_bytes` takes ten; it is several times what is
    needed. Bodies of loops count once, a pass takes the place of the one before, and what a scan collects counts as
    its result. Not counted is what a kernel takes for itself beside its results.

    Args:
        function: anything JAX can trace, compiled or not.
        args: its arguments; `jax.ShapeDtypeStruct` will do.
    """
    made = jax.make_jaxpr(function)(*args)
    return _bytes_of([*made.in_avals, *(jax.typeof(c) for c in made.consts)]) + _bytes_made(made.jaxpr)


def _bytes_made(jaxpr: Jaxpr) -> int:
    inside = sum(_bytes_made(inner) for equation in jaxpr.eqns for inner in jaxprs_in(equation.params))
    return inside + sum(_bytes_of([var.aval for var in equation.outvars]) for equation in jaxpr.eqns)


def _bytes_of(avals: Iterable[Any]) -> int:
    return sum(math.prod(aval.shape) * aval.dtype.itemsize for aval in avals if hasattr(aval, "shape"))


def available_bytes(devices: int = 1) -> int | None:
    """Bytes that are free for each of the first local devices.

    Args:
        devices: how many of them; those of a CPU share the memory of the machine.

    Returns:
        On accelerators what JAX may still allocate, on the fullest of them; on CPUs an even share of what the system
        can give (Linux, within the limit of a container) or of all its memory (elsewhere); None where nobody knows.
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
        # Files that were read are kept while nobody wants their place.
        return min(free, limit - used + int(fields["inactive_file"]))
    except (OSError, KeyError, ValueError):  # no container, or no limit: "max"
        return free


class Growth(NamedTuple):
    """Bytes needed as a function of the batch: `fixed + each * batch`."""

    fixed: float
    each: float

    def needed(self, batch: int) -> int:
        """Bytes at a batch."""
        return math.ceil(self.fixed + self.each * batch)

    def largest(self, available: int, unit: int = 1) -> int:
        """The largest multiple of `unit` that needs at most `available` bytes; 0 when none does."""
        room = available - self.fixed
        return 0 if room < 0 else unit * math.floor(room / max(self.each, 1.0) / unit)


def growth(program: Program, probes: tuple[int, int] = PROBES) -> Growth:
    """The line through the bytes needed at two small batches.

    Both programs are compiled, neither is run. The line is within a few percent of the programs of larger batches;
    those of smaller ones, with axes of length 1, may be laid out in another way.

    Args:
        program: from a batch to a step and its arguments.
        probes: the smaller and the larger batch.
    """
    few, many = probes
    (at_few, at_many) = (needed_bytes(step, *args) for step, args in map(program, (few, many)))
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
            f"an outer step of {batch} {what} needs {in_words(needed)}, {in_words(available)} are free: "
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


def in_words(size: float) -> str:
    """Bytes for people, in decimal units: 31.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
