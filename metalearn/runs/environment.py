"""What a result depends on besides its configuration: versions, code, devices, command line."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from metalearn import __version__


def environment() -> dict[str, Any]:
    """What a result depends on besides its configuration."""
    return {
        "metalearn": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "commit": git_commit(Path(__file__).parent),
        "commit_here": git_commit(Path.cwd()),
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_commit(folder: Path) -> str | None:
    """The commit checked out in `folder`, None when there is none; `-dirty` added when files differ.

    A package installed below somebody's checkout is not part of it: `folder` must hold a tracked file.
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
