"""Count the bytes that a compiled program sends between devices.

They are read from the program that XLA has made, after all its optimizations, so that a collective which XLA merges,
removes or widens counts as it is carried out. On a CPU, XLA reduces bfloat16 in float32, for example.

    found = program_messages(step, state, batch)
    print(found.sent, "bytes per device and call,", found.collectives, "collectives")
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

__all__ = ["Messages", "program_messages", "read_messages"]


class Messages(NamedTuple):
    """What one device sends in one call of a program.

    Attributes:
        sent: bytes that leave a device if collectives run around a ring: 2 (D - 1) / D of the array in an all-reduce
            over D devices, (D - 1) / D of the result in an all-gather.
        payload: bytes of the arrays that a device hands to the collectives, whatever carries them.
        collectives: how many.
    """

    sent: float
    payload: float
    collectives: int


_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+)(?:e\w+)?\[([\d,]*)\]")
_COLLECTIVE = re.compile(
    r"= (?P<type>.*?) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|"
    r"collective-broadcast)(?P<start>-start)?\("
)
_CALL = re.compile(r"\b(?:calls|to_apply|called_computations|async_execution_thread_calls)=\{?%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NOTHING = Messages(0, 0, 0)
Computations = dict[str, list[str]]
"""The instructions of each computation of a program, by its name."""


def program_messages(function: Callable[..., Any], *args: Any) -> Messages:
    """Compile a function and count the bytes that one device sends per call.

    Args:
        function: anything JAX can compile, compiled or not; see `jax.shard_map`.
        args: its arguments, arrays or `jax.ShapeDtypeStruct` with their shardings; nothing is computed.

    Returns:
        The messages of one call, see `read_messages`.

    Raises:
        ValueError: see `read_messages`.
    """
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    return read_messages(jitted.lower(*args).compile().as_text())


def read_messages(text: str) -> Messages:
    """Count the bytes that one device sends in a compiled program, from its text.

    The body of a loop counts as often as it runs. Of the branches of a condition the one that sends most counts, so
    that the messages of a round that ends every H steps count at every step: divide them by H.

    Args:
        text: of the optimized program, `compiled.as_text()`.

    Raises:
        ValueError: a loop with collectives runs an unknown number of times.
    """
    computations: Computations = {}
    entry, devices, lines = "", 1, []
    if found := re.search(r"\bnum_partitions=(\d+)", text):
        devices = int(found[1])
    if found := re.search(r"\breplica_count=(\d+)", text):
        devices *= int(found[1])
    for line in text.splitlines():
        if header := _HEADER.match(line):
            lines = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("  "):
            lines.append(line)
    return _of_computation(entry, computations, devices, {})


def _of_computation(name: str, computations: Computations, devices: int, known: dict[str, Messages]) -> Messages:
    if name not in known:
        total = _NOTHING
        for line in computations.get(name, ()):
            total = _add(total, _of_instruction(line, computations, devices, known))
        known[name] = total
    return known[name]


def _of_instruction(line: str, computations: Computations, devices: int, known: dict[str, Messages]) -> Messages:
    if found := _COLLECTIVE.search(line):
        return _of_collective(line, found, devices)
    inside = lambda name: _of_computation(name, computations, devices, known)  # noqa: E731
    if body := _BODY.search(line):
        each, trips = inside(body[1]), _TRIPS.search(line)
        if each.collectives and trips is None:
            raise ValueError(
                "a loop of the program sends messages, and runs an unknown number of times: count those of its body, "
                "or give it a fixed length (jax.lax.scan, or fori_loop between two Python integers)"
            )
        return _times(each, int(trips[1]) if trips else 0)
    if branches := _BRANCHES.search(line):
        names = branches[1].replace("%", "").split(", ") if branches[1] else branches.groups()[1:]
        return max(map(inside, names), key=lambda m: m.sent)
    return inside(call[1]) if (call := _CALL.search(line)) else _NOTHING


def _of_collective(line: str, found: re.Match[str], devices: int) -> Messages:
    kind, group = found["kind"], _group_size(line, devices)
    sizes = [_bytes(*shape) for shape in _SHAPE.findall(found["type"])]
    # An asynchronous gather or permute returns its operand first, and some contexts last; its result comes second.
    size = sizes[1] if found["start"] and kind in ("all-gather", "collective-permute") else sum(sizes)
    share = (group - 1) / group
    if kind == "all-reduce":
        return Messages(2 * share * size, size, 1)
    if kind == "all-gather":
        return Messages(share * size, size / group, 1)
    if kind == "reduce-scatter":
        return Messages((group - 1) * size, group * size, 1)
    if kind in ("all-to-all", "ragged-all-to-all"):
        return Messages(share * size, size, 1)
    return Messages(size, size, 1)


def _group_size(line: str, devices: int) -> int:
    # By the axes of a mesh (jax 0.12), of which one may be a part, 'x':(1)2; as iota; or as a list of all groups.
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']*)'=(\d+)", found[1]))
        axes = re.findall(r"'([^']*)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", line):
        return int(found[1])
    if (found := re.search(r"replica_groups=\{\{([\d,]*)\}", line)) and found[1]:
        return found[1].count(",") + 1
    return devices


def _bytes(kind: str, dims: str) -> float:
    bits = _BITS.get(kind) or int(re.sub(r"\D", "", kind))
    return math.prod(map(int, dims.split(","))) * bits / 8 if dims else bits / 8


def _add(a: Messages, b: Messages) -> Messages:
    return Messages(a.sent + b.sent, a.payload + b.payload, a.collectives + b.collectives)


def _times(a: Messages, times: int) -> Messages:
    return Messages(a.sent * times, a.payload * times, a.collectives * times)
