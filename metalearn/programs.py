"""A folder of compiled programs, so that what was compiled once starts at once the next time.

JAX's persistent compilation cache does the work; this file says where it is and how large it gets. The command line
uses it for every command that compiles. In Python, call `keep_programs()` before the first compilation. Commands and
Python share the folder.

XLA compiles for the processor at hand. A home folder may be shared by machines of different kinds, so each kind of
processor has a folder of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import MutableMapping
from pathlib import Path

from metalearn.errors import RunError

__all__ = ["LIMIT", "cache_folder", "keep_programs", "request_cache"]

LIMIT = 2 * 2**30
"""Bytes that the folder may hold. Programs that were not used for longest are removed first."""

SHORTEST = 0.1
"""Seconds of compilation from which a program is kept. JAX's own default, 1, leaves out most of a short run."""


def cache_folder() -> Path:
    """Where compiled programs of this machine are kept: in the user's folder of caches, by kind of processor."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "metalearn" / "programs" / _processor()


def keep_programs(folder: Path | None = None, limit: int = LIMIT) -> Path:
    """Keep the programs that this process compiles, and look up those that were compiled before.

    Call it before the first compilation: JAX decides then whether it keeps programs.

    Args:
        folder: where they are kept. None: `cache_folder()`.
        limit: bytes that the folder may hold.

    Returns:
        The folder.

    Raises:
        RunError: the folder cannot be written.
    """
    import jax

    folder = _prepare(cache_folder() if folder is None else folder, limit)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return folder


def request_cache(environment: MutableMapping[str, str]) -> str | None:
    """Ask for the cache by the variables that JAX reads when it is imported, for this process and those it starts.

    Variables that the user has set are left alone, and so is a cache that the user has switched off.

    Args:
        environment: such as `os.environ`; it is changed.

    Returns:
        None, or why programs are not kept.
    """
    if environment.get("JAX_COMPILATION_CACHE_DIR") or environment.get("JAX_ENABLE_COMPILATION_CACHE"):
        return None
    try:
        folder = _prepare(cache_folder(), LIMIT)
    except (RunError, RuntimeError) as error:  # RuntimeError: there is no home folder
        return f"compiled programs are not kept for the next time: {error}"
    environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(SHORTEST))
    return None


def _prepare(folder: Path, limit: int) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {folder}")
        _make_room(folder, limit)
    except OSError as error:
        advice = "set XDG_CACHE_HOME to a folder that can be written"
        raise RunError(f"the folder of compiled programs cannot be used ({error}): {advice}") from None
    return folder


def _make_room(folder: Path, limit: int) -> None:
    """Remove the programs that were not used for longest until the rest fit. Another process may do so meanwhile."""
    found = []
    for path in folder.glob("*-cache"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    surplus = sum(size for _, size, _ in found) - limit
    for _, size, path in sorted(found):
        if surplus <= 0:
            return
        path.unlink(missing_ok=True)
        surplus -= size


def _processor() -> str:
    """A short name of this kind of processor. On Linux it depends on all instructions that the processor has."""
    said = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        said += sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    except OSError:
        pass
    return f"{platform.machine()}-{hashlib.sha256(repr(said).encode()).hexdigest()[:12]}"
