"""How a search is kept in its folder, by one process or by several together, and how several stop together."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

from metalearn.runs.files import write_atomically
from metalearn.runs.lock import only_writer
from metalearn.runs.processes import check_folder, exchange, first_does
from metalearn_models.losses.search.file import State, dump, load

__all__ = ["FILE", "begin", "save", "stop_together", "what_is_safe"]

FILE = "search.json"
"""Name of the file in a search's folder."""


def begin(path: Path, identity: dict[str, Any], stack: contextlib.ExitStack) -> State | None:
    """Lock a search's folder and read its state. Process 0 reads for all: another host may still see an older file.

    Args:
        path: of the file.
        identity: of the search.
        stack: holds the lock.

    Returns:
        The state, None if there is none yet.

    Raises:
        RunError: the folder holds another search or a damaged one, another process writes to it, or not all see it.
    """

    def read() -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_writer(path.parent))
        return json.dumps(path.read_bytes().decode("latin-1") if path.exists() else None)  # it carries any bytes

    check_folder(path.parent)
    content = json.loads(exchange(first_does(read) or "")[0])
    return None if content is None else load(content.encode("latin-1"), path, identity)


def save(path: Path | None, state: State, identity: dict[str, Any]) -> None:
    """Let process 0 write the state, unless there is no place for it; what it fails at is raised in all."""
    if path is not None:
        first_does(lambda: write_atomically(path, dump(state, identity)))


def what_is_safe(state: State, path: Path | None) -> str:
    """A sentence for errors and stops."""
    done = f"{len(state.generations)} generations are done"
    return done if path is None else f"{done} and saved in {path.parent}; the same command continues"


def stop_together(own: int, message: str) -> None:
    """End all processes if any of them got a signal; all must call this at the same place.

    Args:
        own: the signal that this process got, or 0.
        message: what is safe.

    Raises:
        SystemExit: after SIGTERM.
        KeyboardInterrupt: after another signal, with the message.
    """
    number = max(int(text) for text in exchange(str(own)))
    if number == signal.SIGTERM:
        raise SystemExit(128 + number)
    if number:
        raise KeyboardInterrupt(f"stopped: {message}")
