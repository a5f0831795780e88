"""Compiled programs of a long process of tests: how they are compiled, and that there are not too many.

Each takes about ten maps of memory, and Linux allows a process 65,530. Beyond them a compiler crashes.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import compiler  # there is no public way to give options to all programs after JAX has started

MOST_MAPS = 20_000
"""Maps of memory of a process, above which its programs are forgotten; what is needed again is compiled again."""
OPTION = "xla_cpu_use_fusion_emitters"
"""XLA's newer generator of fused loops, which JAX 0.12 always takes."""


def forget_programs() -> None:
    """Forget all compiled programs if there are very many."""
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()


class FusedLoops:
    """Which of XLA's generators of fused loops compiles in this process, and in those that it starts.

    The older one takes a third of the time. With it, equal formulas in two programs may differ in their last bits, so
    it is for tests that compare numbers up to rounding, or runs of one program.
    """

    def __init__(self) -> None:
        self.older = False
        self._options_before = compiler.get_compile_options
        self._flags_before = os.environ.get("XLA_FLAGS")

    def choose(self, older: bool) -> None:
        """Compile with the older generator from here on, or with the newer one; no program is kept for the other.

        Where JAX has only the newer one, nothing changes.
        """
        older = older and has_older_generator()
        if older == self.older:
            return
        self.older = older
        compiler.get_compile_options = self._options if older else self._options_before
        if older:  # XLA reads the environment once: this is for processes that start from here on
            os.environ["XLA_FLAGS"] = f"{self._flags_before or ''} --{OPTION}=false".strip()
        elif self._flags_before is None:
            os.environ.pop("XLA_FLAGS", None)
        else:
            os.environ["XLA_FLAGS"] = self._flags_before
        jax.clear_caches()

    def _options(self, *args: Any, **settings: Any) -> Any:
        options = self._options_before(*args, **settings)
        options.env_option_overrides += [(OPTION, "False")]
        return options


@functools.cache
def has_older_generator() -> bool:
    """Whether this version of JAX lets one choose."""
    try:
        jax.jit(jnp.negative).lower(1.0).compile(compiler_options={OPTION: False})
    except jax.errors.JaxRuntimeError:  # no such option
        return False
    return True
