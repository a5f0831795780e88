"""Walk through a jaxpr and the jaxprs inside it: the one place that knows where an equation keeps its functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from metalearn._jax_versions import open_jaxpr

__all__ = ["equations", "evaluate_equation", "inner_jaxprs"]


def inner_jaxprs(equation: JaxprEqn) -> Iterator[Jaxpr]:
    """The functions that an equation calls, such as the body of a scan or the branches of a `cond`.

    `jit`, `remat`, `custom_jvp`, `custom_vjp` and others call functions under parameters of different names: all are
    found. The rules of custom derivatives are not jaxprs until they are used; then they are part of the caller.
    """
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield open_jaxpr(item)


def equations(jaxpr: Any) -> Iterator[JaxprEqn]:
    """All equations of a jaxpr, open or closed, each followed by those of the functions that it calls."""
    for equation in open_jaxpr(jaxpr).eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from equations(inner)


def evaluate_equation(jaxpr: Jaxpr, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """The results of one equation of a jaxpr, which may be traced and differentiated as the function itself.

    The equation is evaluated as a jaxpr of its own, since how a primitive takes its parameters differs between the
    versions of JAX.

    Args:
        jaxpr: what the equation stands in.
        equation: any of its equations.
        operands: a value per operand, literals included.
    """
    given = {v: x for v, x in zip(equation.invars, operands, strict=True) if not isinstance(v, Literal)}
    alone = jaxpr.replace(constvars=[], invars=list(given), outvars=list(equation.outvars), eqns=[equation])
    return list(jaxpr_as_fun(ClosedJaxpr(alone, []))(*given.values()))
