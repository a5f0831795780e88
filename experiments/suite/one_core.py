"""The process of a timing on one core."""

from __future__ import annotations

import os

__all__ = ["prepare_process"]


def prepare_process() -> None:
    """Confine this process to one core, without a thread pool. Must run before JAX makes its devices."""
    # A pool would hand every product over to its one thread.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
