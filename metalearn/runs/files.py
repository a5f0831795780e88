"""Write files so that after a kill or on a full disk either the old content or the new is there, never a mixture."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path

__all__ = ["file_sha256", "sync_folder", "write_atomically"]


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the content of a file in one step.

    The bytes are written to a temporary file beside it, whose name no other process uses, flushed to the disk, and
    renamed to `path`.

    Raises:
        OSError: the disk is full, for instance. `path` is unchanged and the temporary file is removed.
    """
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush renames in `folder` to the disk, so that they survive a power cut; does nothing if it cannot be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
