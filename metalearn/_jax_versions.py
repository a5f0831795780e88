"""What differs between the versions of JAX that metalearn supports (0.10.0 to 0.12), in one place.

The parameters of a jaxpr's equations are undocumented, and some have changed. Code that depends on such a change
belongs here, with a test that passes on both sides of it.

- `ClosedJaxpr` and `Jaxpr` are one class since 0.11.0, and `jaxpr.jaxpr` is the jaxpr itself. Before, only a closed
  jaxpr has `jaxpr` and `consts`.
- No public function compiles one program without the persistent compilation cache. `compile_uncached` turns the cache
  of the whole process off for a moment, in the same way on all versions.
- A scan has the parameters `ft_in` and `ft_out` since 0.11.0, and `num_consts` and `num_carry` before.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax._src import core, distributed
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import Jaxpr, JaxprEqn


def open_jaxpr(jaxpr: Any) -> Jaxpr:
    """The `Jaxpr` of a `ClosedJaxpr`; a `Jaxpr` is returned unchanged."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def constants(jaxpr: Any) -> Sequence[Any]:
    """The values of the `constvars` of a closed jaxpr; none for an open one."""
    return getattr(jaxpr, "consts", ())


class ScanOperands(NamedTuple):
    """How many operands of a scan are constants, and how many are carried; the others are scanned over."""

    consts: int
    carry: int


def scan_operands(equation: JaxprEqn) -> ScanOperands:
    """Count the operands of a scan by their shapes, which mean the same in all versions.

    The operands are constants, carry and scanned arrays, the results are carry and stacked arrays, in this order. The
    scanned and the stacked arrays, and only these, have one more axis outside the body than in it.
    """
    body = open_jaxpr(equation.params["jaxpr"])
    scanned = sum(map(_has_more_axes, equation.invars, body.invars))
    stacked = sum(map(_has_more_axes, equation.outvars, body.outvars))
    carry = len(equation.outvars) - stacked
    return ScanOperands(len(equation.invars) - carry - scanned, carry)


def _has_more_axes(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) > len(inside.aval.shape)


def keeps_programs() -> bool:
    """Whether JAX's persistent compilation cache has a folder, in which compiled programs are kept and looked up."""
    settings: Any = jax.config  # pyright does not know its settings
    return settings.jax_enable_compilation_cache and settings.jax_compilation_cache_dir is not None


def coordinator_address() -> str | None:
    """`HOST:PORT` of the process that `jax.distributed.initialize` has joined, if it was; no public function tells."""
    return distributed.global_state.coordinator_address


def is_traced() -> bool:
    """Whether the caller runs inside a transformation, such as `jax.jit` or `jax.vmap`; no public function tells it."""
    return not core.trace_state_clean()


_CACHE_IS_OFF = threading.Lock()


def compile_uncached(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compile a lowered function, whatever is in the caches of this process and in the persistent compilation cache.

    What other threads compile at the same time may miss the persistent cache. Nothing else changes for them.
    """
    with _CACHE_IS_OFF:
        settings: Any = jax.config
        before = settings.jax_enable_compilation_cache
        try:
            jax.config.update("jax_enable_compilation_cache", False)
            compilation_cache.reset_cache()  # JAX decides once per process whether to use the cache
            # An option, with its default value, is part of the key under which this process keeps executables.
            return lowered.compile({"xla_embed_ir_in_executable": False})
        finally:
            jax.config.update("jax_enable_compilation_cache", before)
            compilation_cache.reset_cache()
