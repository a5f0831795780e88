"""Where data of one's own lie: which sources are places, their absolute paths, and a hash of what is there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from metalearn_tasks.datasets import _bundled, _files

__all__ = ["absolute", "content_sha256", "is_folder_name"]


def is_folder_name(source: str) -> bool:
    """Whether a source names a folder that tensorflow-datasets prepared.

    A local folder called "mnist" must not hide the data set mnist; a path such as "data/mnist" is a folder.
    """
    path = Path(source)
    return source.startswith((".", "~")) or os.path.isabs(source) or (path.name != source and path.is_dir())


def absolute(source: str) -> str:
    """The same source from any working directory: the absolute path of a file or folder; a name stays as it is."""
    if _is_place(source):
        return os.path.abspath(os.path.expanduser(source))
    return source


def content_sha256(source: str) -> str | None:
    """A hash of the file, or of all files of the folder, that a source names.

    It does not depend on where they lie, so that data are recognised where they were moved to.

    Args:
        source: as `load` takes it. The column of the labels, the end of `FILE.csv:LABEL`, counts as content.

    Returns:
        64 hexadecimal digits; None for a name such as "digits", which means the same data everywhere.

    Raises:
        OSError: there is nothing at that place, or it cannot be read.
    """
    if not _is_place(source):
        return None
    file = None if Path(source).expanduser().is_dir() else _files.file_and_label(source)
    digest = hashlib.sha256()
    if file is not None:
        path, label = file
        digest.update(f"{label or ''}\n".encode())
        files = [(path, "")]
    else:
        folder = Path(source).expanduser()
        files = [(p, p.relative_to(folder).as_posix()) for p in sorted(folder.rglob("*")) if p.is_file()]
        if not files:
            raise FileNotFoundError(f"there are no files in {folder}")
    for path, name in files:
        with path.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{name}\n{content}\n".encode())
    return digest.hexdigest()


def _is_place(source: str) -> bool:
    return source not in _bundled.NAMES and (_files.is_file_name(source) or is_folder_name(source))
