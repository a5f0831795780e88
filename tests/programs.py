"""Compiled programs of a long process of tests.

Each takes about ten maps of memory, and Linux allows a process 65,530. Beyond them a compiler crashes.
"""

from pathlib import Path

import jax

MOST_MAPS = 20_000
"""Maps of memory of a process, above which its programs are forgotten; what is needed again is compiled again."""


def forget_programs() -> None:
    """Forget all compiled programs if there are very many."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
