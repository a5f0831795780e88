"""Writing files so that a kill or a full disk leaves either the old content or the new, never a mixture."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file by new content in one step.

    The bytes go to a file beside it that no other writer has, reach the disk, and are renamed over `path`.

    Raises:
        OSError: from the disk, a full one for instance; `path` is as it was, the temporary file gone.
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
    """Make the renames done in `folder` survive a power cut; a no-op where folders cannot be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
