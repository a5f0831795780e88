"""What differs between the versions of JAX that metalearn supports (0.10.0 to 0.12), in one place.

The parameters of a jaxpr's equations are undocumented, and some have changed. Code that depends on such a change
belongs here, with a test that passes on both sides of it.

- `ClosedJaxpr` and `Jaxpr` are one class since 0.11.0, and `jaxpr.jaxpr` is the jaxpr itself. Before, only a closed
  jaxpr has `jaxpr` and `consts`.
- A scan has the parameters `ft_in` and `ft_out` since 0.11.0, and `num_consts` and `num_carry` before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
