"""What a result depends on besides its configuration: versions, commit, devices, command line."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from metalearn import __version__
from metalearn.runs.addresses import hide_in_command

__all__ = ["environment", "git_commit"]


def environment() -> dict[str, Any]:
    """Versions of metalearn, jax and Python, devices, commits, command line and time, as JSON values; no password.

    `commit` is that of metalearn's own code, `commit_here` that of the present folder.
    """
    return {
        "metalearn": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "commit": git_commit(Path(__file__).parent),
        "commit_here": git_commit(Path.cwd()),
        "command": hide_in_command(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, followed by `-dirty` if tracked files differ from it.

    None: `folder` is not in a Git repository, or holds no tracked file, as when a package is installed below a
    checkout that it is not part of.
    """

    def git(*command: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *command], capture_output=True, timeout=10, check=True)
        return done.stdout.decode(errors="replace").strip()

    try:
        if not git("ls-files", "."):
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
