"""Errors that a caller may want to catch, and the one message for all unknown names."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any, TypeGuard

__all__ = [
    "DataNotPreparedError",
    "MetalearnError",
    "NotEnoughMemoryError",
    "RunError",
    "RunLockedError",
    "UnknownNameError",
    "UsageError",
    "is_name_or_path",
    "unknown_name",
]


class MetalearnError(Exception):
    """Base of all errors below; each is also the built-in error that it specialises."""


class UnknownNameError(MetalearnError, ValueError):
    """A name that the library does not know."""


class UsageError(MetalearnError, ValueError):
    """Words on the command line that cannot be read; the message names the option and what it takes."""


class DataNotPreparedError(MetalearnError, FileNotFoundError):
    """A data set that is not on this machine; the message names the command that prepares it."""


class RunError(MetalearnError, RuntimeError):
    """A run folder that cannot be used as asked: it exists already, has another configuration or no checkpoint."""


class RunLockedError(RunError):
    """A run folder that another process is writing to."""


class NotEnoughMemoryError(MetalearnError, MemoryError):
    """A step that needs more memory than is available.

    Attributes:
        needed: bytes that it needs per device.
        available: bytes that are free per device.
        largest: the largest batch that would fit; 0 if none does.
    """

    def __init__(self, message: str, *, needed: int, available: int, largest: int):
        super().__init__(message)
        self.needed, self.available, self.largest = needed, available, largest


def is_name_or_path(source: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether `source` can name something or be the path of it; the empty string, the present folder's, cannot."""
    return isinstance(source, str | os.PathLike) and isinstance(os.fspath(source), str) and bool(str(source))


def unknown_name(kind: str, name: Any, known: Iterable[str], or_path: bool = False) -> UnknownNameError:
    """The error for a name that is not among `known`; it names what was got, the nearest names, then all of them.

    Args:
        kind: what the name should be of.
        name: what was got, which may be no string.
        known: all names.
        or_path: a path would have been right too.
    """
    names = sorted(known)
    if not isinstance(name, str):
        right = "a name or a path" if or_path else "a name"
        return UnknownNameError(f"{kind}: {right} is needed, got {name!r}. Known: {', '.join(names)}.")
    spelt = {known.casefold(): known for known in names}
    near = [spelt[match] for match in difflib.get_close_matches(name.casefold(), spelt, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    path = ", and there is no such file or folder" if or_path else ""
    return UnknownNameError(f"unknown {kind} {name!r}{path}.{hint} Known: {', '.join(names)}.")
