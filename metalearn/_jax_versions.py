"""What differs between the versions of JAX that metalearn supports (0.10.0 to 0.12), in one place.

Supported are the public functions of JAX and its jaxprs. A jaxpr's parameters are undocumented and change between
versions, so that code which reads one has its place here, with a test that must pass on all supported versions.

- Since 0.11.0 `ClosedJaxpr` and `Jaxpr` are one class, whose `jaxpr` is itself. Before, a closed one has `jaxpr` and
  `consts`, and an open one only `constvars`.
- Since 0.11.0 a scan has the parameters `ft_in` and `ft_out`, before `num_consts` and `num_carry`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from jax.extend.core import Jaxpr, JaxprEqn


def open_jaxpr(jaxpr: Any) -> Jaxpr:
    """The `Jaxpr` of a `ClosedJaxpr`, a `Jaxpr` as it is."""
    return getattr(jaxpr, "jaxpr", jaxpr)


class ScanOperands(NamedTuple):
    """How many operands of a scan are constants and how many are carried; the others are scanned over."""

    consts: int
    carry: int


def scan_operands(equation: JaxprEqn) -> ScanOperands:
    """Read the two numbers from the shapes, which is the same on all versions.

    The operands are constants, carry and scanned arrays, the results are carry and stacked arrays, both in this order.
    Exactly what is scanned over or stacked has one axis more outside than in the body.
    """
    body = open_jaxpr(equation.params["jaxpr"])
    scanned = sum(map(_has_more_axes, equation.invars, body.invars))
    stacked = sum(map(_has_more_axes, equation.outvars, body.outvars))
    carry = len(equation.outvars) - stacked
    return ScanOperands(len(equation.invars) - carry - scanned, carry)


def _has_more_axes(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) > len(inside.aval.shape)
