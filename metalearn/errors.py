"""Errors a caller may want to catch, and the one sentence every unknown name gets."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataNotPreparedError",
    "MetalearnError",
    "NotEnoughMemoryError",
    "RunError",
    "RunLockedError",
    "UnknownNameError",
    "unknown_name",
]


class MetalearnError(Exception):
    """Base of the errors below; each is also the built-in error it specialises."""


class UnknownNameError(MetalearnError, ValueError):
    """A name that no table of the library holds."""


class DataNotPreparedError(MetalearnError, FileNotFoundError):
    """A data set that is not on this machine; the message says which command prepares it."""


class RunError(MetalearnError, RuntimeError):
    """A run folder that cannot be used as asked: it exists, holds another config, or no readable checkpoint."""


class RunLockedError(RunError):
    """A run folder that another process is writing."""


class NotEnoughMemoryError(MetalearnError, MemoryError):
    """A step that needs more memory than there is.

    Attributes:
        needed: bytes it needs on a device.
        available: bytes that are free there.
        largest: the largest batch that would fit; 0 when none would.
    """

    def __init__(self, message: str, *, needed: int, available: int, largest: int):
        super().__init__(message)
        self.needed, self.available, self.largest = needed, available, largest


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among `known`: what was got, the nearest names, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")
