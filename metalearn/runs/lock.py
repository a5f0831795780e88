"""One writer a run: a lock on the run's folder that the system takes back from a process that dies.

The lock is on the file `lock`, which is never removed: a process that opened the old file and one that made a new one
would both believe to be alone. So the file says nothing by being there, and one left by a killed process is harmless.
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
except ImportError:  # Windows: two writers are not prevented there
    fcntl = None

LOCK = "lock"
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # some network file systems


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Within it, no other process, and no other part of this one, is in an `only_writer` of the same folder.

    It does not wait. Where the platform or the file system has no locks, it does nothing.

    Args:
        folder: of a run; exists. Its file `lock` gets the process id.

    Raises:
        RunLockedError: another holds the lock, with its process id.
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
            with contextlib.suppress(OSError):  # closing is not enough when a forked child has the descriptor too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
