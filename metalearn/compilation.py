"""How much XLA tries when it compiles for CPUs: less for programs of many small operations, or that run a few times.

Level 1 of its 3 levels halves the compilation of such programs. They are as fast, or faster. Figures are in
`docs/scaling.md`. Programs of large matrix products that run for long are better left at 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from metalearn._jax_versions import is_traced

__all__ = ["LESS_EFFORT", "QuicklyCompiled", "jit_quickly", "may_choose"]

LESS_EFFORT: Mapping[str, Any] = {"xla_backend_optimization_level": 1}
"""Options of XLA's compiler for CPUs: level 1 of 3 compiles sooner, and programs that run a few times lose little."""


def jit_quickly(function: Callable[..., Any], options: Mapping[str, Any] = LESS_EFFORT, **settings: Any) -> Any:
    """`jax.jit`, compiled with less effort on CPUs, unless somebody else has said how programs are optimized.

    Args:
        function: what is compiled.
        options: of XLA, on CPUs.
        settings: further arguments of `jax.jit`.

    Returns:
        The compiled function, which also works inside of other programs; it has `lower` and `trace` as well.
    """
    jitted = jax.jit(function, **settings)
    return QuicklyCompiled(function, jitted, options, settings) if may_choose() else jitted


class QuicklyCompiled:
    """A jitted function that is compiled with options of its own, unless it is called inside of another program."""

    def __init__(
        self, function: Callable[..., Any], jitted: Any, options: Mapping[str, Any], settings: Mapping[str, Any]
    ):
        alone = jax.jit(function, compiler_options=dict(options), **settings)
        self._inside, self._alone, self.lower, self.trace = jitted, alone, alone.lower, alone.trace

    def __call__(self, *args: Any) -> Any:
        """Call the function as it is compiled for where the caller is."""
        return (self._inside if is_traced() else self._alone)(*args)


def may_choose() -> bool:
    """Whether programs are for CPUs, and nobody else has said how they are optimized."""
    settings: Any = jax.config  # pyright does not know its settings
    chosen = settings.read("jax_disable_most_optimizations") or "optimization_level" in os.environ.get("XLA_FLAGS", "")
    return not chosen and jax.default_backend() == "cpu"
