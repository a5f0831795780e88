"""One writer per run: a lock on the run's folder, which the system releases when its process dies.

The lock is held on the file `lock`, which is never removed: otherwise one process could lock the old file while another
locks a new one. The file alone therefore means nothing, and one that a killed process has left is harmless.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from metalearn.errors import RunError, RunLockedError

try:
    import fcntl
except ImportError:  # Windows, where two writers are not prevented
    fcntl = None

__all__ = ["LOCK", "only_writer"]

LOCK = "lock"
"""Name of the lock file in a run's folder."""

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # some network file systems


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; a context manager.

    Only one `with only_writer(folder)` per folder can be active, among all processes and within this one. It does not
    wait for the lock. If the platform or the file system has no locks, it does nothing.

    Args:
        folder: an existing folder. The process id is written to its file `lock`.

    Raises:
        RunLockedError: the lock is held already; the message has the process id of its holder.
        RunError: the lock file cannot be written.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"cannot open {path}: {error}; nothing was changed") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise RunLockedError(
                f"{folder} is being written by another process (pid {pid}): wait until it has ended, stop it, "
                "or choose another folder"
            ) from error
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise RunError(f"cannot lock {path}: {error}; nothing else was changed") from error
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # closing is not enough if a forked child has the descriptor too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
