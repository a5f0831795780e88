"""Which values a configuration's fields may have: declared beside each field, checked here.

A field says its range in its type, `width: Size = 256`, where `Size = Annotated[int, Within(1, 2**16)]`. Numbers are
always finite. `check` refuses a configuration before anything is loaded or compiled. The command line reads the same
types, so an option takes exactly the values that the field takes.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol, runtime_checkable

__all__ = [
    "Count",
    "Decay",
    "Existing",
    "Field",
    "Named",
    "NonEmpty",
    "NonNegative",
    "PathName",
    "Place",
    "Positive",
    "Rule",
    "Seed",
    "Share",
    "Size",
    "Steps",
    "Within",
    "allows",
    "check",
    "describe",
    "fields_of",
    "hints_of",
    "members",
    "refusal",
    "rules_of",
]


@runtime_checkable
class Rule(Protocol):
    """What a type's metadata says about values, beside the type itself."""

    def allows(self, value: Any) -> bool:
        """Whether the value is a right one."""
        ...

    def describe(self) -> str:
        """The right values: of numbers in words such as "from 1 to 10", which follow "a number"; of texts as a noun."""
        ...


@dataclass(frozen=True)
class Within:
    """Numbers between two ends, which are included unless `above` or `below` says otherwise."""

    low: float
    """The lower end."""
    high: float
    """The upper end."""
    above: bool = False
    """Whether the lower end itself is excluded."""
    below: bool = False
    """Whether the upper end itself is excluded."""

    def allows(self, value: Any) -> bool:
        """See `Rule`."""
        return (value > self.low if self.above else value >= self.low) and (
            value < self.high if self.below else value <= self.high
        )

    def describe(self) -> str:
        """See `Rule`."""
        low, high = (f"{int(x)}" if x == int(x) and abs(x) < 2**53 else f"{x:g}" for x in (self.low, self.high))
        if not self.above and not self.below:
            return f"from {low} to {high}"
        return f"{'above' if self.above else 'of at least'} {low} and {'below' if self.below else 'at most'} {high}"


@dataclass(frozen=True)
class Named:
    """Text that is one of a library's names."""

    kind: str
    """What is named, such as "learner"."""
    known: Callable[[], Iterable[str]]
    """Gives all names; called only when a value is checked or described."""

    def allows(self, value: Any) -> bool:
        """See `Rule`."""
        return value in set(self.known())

    def describe(self) -> str:
        """See `Rule`."""
        return f"the name of a {self.kind} ({', '.join(sorted(self.known()))})"


@dataclass(frozen=True)
class Place:
    """Text or a path that names a file or a folder: `~` is the home folder, and no part is longer than 255 bytes."""

    def allows(self, value: Any) -> bool:
        """See `Rule`."""
        text = str(value)
        if not 0 < len(text) < 4096 or "\0" in text:
            return False
        # Where names of files are ASCII (LC_ALL=C), Python has other bytes of the command line as lone surrogates.
        return all(len(part.encode(errors="surrogateescape")) < 256 for part in text.split("/"))

    def describe(self) -> str:
        """See `Rule`."""
        return "the name of a file or folder, not empty, and no part of it longer than 255 bytes"


@dataclass(frozen=True)
class Existing:
    """Text or a path that names something on this machine; checked only if a user names it, not in a stored run."""

    kind: str = "file or folder"
    """What it is, such as "run"."""


@dataclass(frozen=True)
class NonEmpty:
    """Tuples, or texts, of at least one item."""

    def allows(self, value: Any) -> bool:
        """See `Rule`."""
        return len(value) > 0

    def describe(self) -> str:
        """See `Rule`."""
        return "that is not empty"


Size = Annotated[int, Within(1, 2**16)]
"""Units, heads, layers, and whatever else is a side of an array."""
Steps = Annotated[int, Within(1, 2**31 - 1)]
"""A number of steps, tasks or runs of which there is at least one."""
Count = Annotated[int, Within(0, 2**31 - 1)]
"""A number of steps, tasks or runs that may be 0."""
Seed = Annotated[int, Within(0, 2**32 - 1)]
"""A seed."""
Share = Annotated[float, Within(0, 1)]
"""A probability, or a part of a whole."""
Decay = Annotated[float, Within(0, 1, below=True)]
"""The decay of a moving average."""
Positive = Annotated[float, Within(0, 1e6, above=True)]
"""A number above 0, such as a learning rate."""
NonNegative = Annotated[float, Within(0, 1e6)]
"""A number of at least 0, such as a penalty."""
PathName = Annotated[Path, Place()]
"""The path of a file or folder."""


class Field(NamedTuple):
    """A field of a configuration.

    Attributes:
        name: with the names of the configurations that it is inside of, such as "learner.key_size".
        hint: its type, with `Annotated`.
        value: what it is set to.
    """

    name: str
    hint: Any
    value: Any

    @property
    def option(self) -> str:
        """Its name on the command line, such as "--learner.key-size"."""
        return "--" + self.name.replace("_", "-")


@functools.cache
def hints_of(config: type) -> dict[str, Any]:
    """The types of a dataclass's fields by name, with `Annotated`."""
    return typing.get_type_hints(config, include_extras=True)


def fields_of(config: Any, prefix: str = "") -> Iterator[Field]:
    """The fields of a dataclass and of all dataclasses inside it."""
    hints = hints_of(type(config))
    for entry in dataclasses.fields(config):
        name, value = prefix + entry.name, getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, f"{name}.")
        else:
            yield Field(name, hints[entry.name], value)


def check(config: Any) -> None:
    """Refuse a configuration with a value that its field may not have.

    Raises:
        ValueError: names the first such field as an option, what it may be, and what it is.
    """
    for field in fields_of(config):
        if not allows(field.hint, field.value):
            raise ValueError(refusal(field.option, field.hint, field.value))


def refusal(option: str, hint: Any, value: Any) -> str:
    """The sentence about a value that is not allowed: the option, what it takes, and what was got."""
    show = next((rule.show for rule in rules_of(hint) if hasattr(rule, "show")), repr)  # a rule may hide a part
    shown = f"a text of {len(value)} letters" if isinstance(value, str) and len(value) > 80 else show(value)
    return f"{option} must be {describe(hint)}, got {shown}{_nearest(hint, value)}"


def allows(hint: Any, value: Any) -> bool:
    """Whether a value is of a type and within the ranges that the type declares. Types without a form here allow all.

    A whole number is a float too, and True is no number. A float must be finite.
    """
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *rules = typing.get_args(hint)
        return allows(base, value) and all(rule.allows(value) for rule in rules if isinstance(rule, Rule))
    if _is_union(origin):
        return any(allows(member, value) for member in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        return isinstance(value, tuple) and all(allows(typing.get_args(hint)[0], item) for item in value)
    if hint is None or hint is type(None):
        return value is None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        try:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        except OverflowError:  # a whole number that no float holds
            return False
    return isinstance(value, hint) if hint in (bool, str, Path) else True


def describe(hint: Any) -> str:
    """What a type allows, in words: "a whole number from 1 to 10, or none"."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        base, *rules = typing.get_args(hint)
        words = [rule.describe() for rule in rules if isinstance(rule, Rule)]
        return " ".join(words if base in (str, Path) and words else [describe(base), *words])
    if _is_union(origin):
        return ", or ".join("none" if m is type(None) else describe(m) for m in typing.get_args(hint))
    if origin is Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    if origin is tuple:
        return f"words separated by spaces, each {describe(typing.get_args(hint)[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(
        hint, "of another type"
    )


def members(hint: Any) -> tuple[Any, ...]:
    """The types that a union allows, each without `Annotated`; for any other type, this type alone."""
    while typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if _is_union(typing.get_origin(hint)):
        return tuple(part for member in typing.get_args(hint) for part in members(member))
    return (hint,)


def rules_of(hint: Any) -> Iterator[Any]:
    """The metadata of a type and of the types that it is made of."""
    yield from getattr(hint, "__metadata__", ())
    for part in typing.get_args(hint):
        yield from rules_of(part)


def _is_union(origin: Any) -> bool:
    return origin is typing.Union or origin is types.UnionType


def _nearest(hint: Any, value: Any) -> str:
    """`. Did you mean 'x'?` if the type knows names and one of them is near."""
    values = value if isinstance(value, tuple) else (value,)
    names = sorted(_names(hint))
    unknown = [v for v in values if isinstance(v, str) and v not in names]
    near = [name for v in unknown for name in difflib.get_close_matches(v, names, n=1)]
    return f". Did you mean {near[0]!r}?" if near else ""


def _names(hint: Any) -> set[str]:
    if typing.get_origin(hint) is Literal:
        return {name for name in typing.get_args(hint) if isinstance(name, str)}
    if isinstance(hint, Rule):
        return set(getattr(hint, "known", tuple)())
    parts = [*typing.get_args(hint)] if typing.get_origin(hint) is not None else []
    return {name for part in parts for name in _names(part)}
