"""Formulas and their first two derivatives by one variable, in NumPy: forward-mode derivatives (Wengert 1964).

Computed in float64 on the host without compiling, since a search tabulates thousands of formulas once each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metalearn_models.losses.formulas import FLOOR, LIMIT, Const, Expr, Var, number_of_coefficients, size

__all__ = ["OPERATIONS", "Jet", "evaluate_jet"]


class Jet(NamedTuple):
    """A function of one variable at many points: value, first and second derivative."""

    value: np.ndarray
    first: np.ndarray
    second: np.ndarray


def evaluate_jet(expr: Expr, coefficients: Sequence[float] | None, y: np.ndarray, f: Jet) -> Jet:
    """Evaluate a formula, as `formulas.evaluate` defines it, and its first two derivatives, in NumPy.

    At a kink the slope is the mean of those on both sides: 0 for abs at 0, where JAX takes 1.

    Args:
        expr: the formula.
        coefficients: one per edge in prefix order. None: all 1.
        y: targets.
        f: predictions, with their derivatives by the variable of differentiation.

    Raises:
        ValueError: a wrong number of coefficients.
    """
    if coefficients is not None and len(coefficients) != number_of_coefficients(expr):
        raise ValueError(f"{expr!s:.200} has {number_of_coefficients(expr)} coefficients, got {len(coefficients)}")
    nothing = np.zeros_like(y)
    known: dict[Expr, Jet] = {}  # equal subtrees have equal values, unless their coefficients differ

    def visit(node: Expr, index: int) -> Jet:
        if isinstance(node, Var):
            return Jet(y, nothing, nothing) if node.name == "y" else f
        if isinstance(node, Const):
            return Jet(np.full_like(y, node.value), nothing, nothing)
        if coefficients is None and node in known:
            return known[node]
        args, at = [], index + 1
        for arg in node.args:
            jet = _bound(visit(arg, at))
            args.append(jet if coefficients is None else _bound(Jet(*(coefficients[at - 1] * x for x in jet))))
            at += size(arg)
        known[node] = result = OPERATIONS[node.name](*args)
        return result

    with np.errstate(all="ignore"):
        return _bound(visit(expr, 0))


def _bound(x: Jet) -> Jet:
    beyond = np.abs(x.value) > LIMIT
    if not beyond.any():
        return x
    return Jet(np.clip(x.value, -LIMIT, LIMIT), np.where(beyond, 0, x.first), np.where(beyond, 0, x.second))


def _chain(x: Jet, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> Jet:
    """The jet of a function with these derivatives at x, applied to x."""
    return Jet(value, first * x.first, second * x.first**2 + first * x.second)


def _mul(a: Jet, b: Jet) -> Jet:
    first = a.first * b.value + a.value * b.first
    return Jet(a.value * b.value, first, a.second * b.value + 2 * a.first * b.first + a.value * b.second)


def _div(a: Jet, b: Jet) -> Jet:
    root = 1 / np.sqrt(1 + b.value**2)
    return _mul(a, _chain(b, root, -b.value * root**3, (2 * b.value**2 - 1) * root**5))


def _pick(a: Jet, b: Jet, first: np.ndarray) -> Jet:
    weight = np.where(a.value == b.value, 0.5, np.where(first, 1.0, 0.0))
    return Jet(*(weight * x + (1 - weight) * z for x, z in zip(a, b, strict=True)))


def _log(x: Jet) -> Jet:
    size, inside = np.maximum(np.abs(x.value), FLOOR), np.abs(x.value) > FLOOR
    slope = np.where(inside, np.sign(x.value) / size, 0)
    return _chain(x, np.log(size), slope, -(slope**2))


def _sqrt(x: Jet) -> Jet:
    size, inside = np.maximum(np.abs(x.value), FLOOR), np.abs(x.value) > FLOOR
    root = np.sqrt(size)
    return _chain(x, root, np.where(inside, np.sign(x.value) / (2 * root), 0), np.where(inside, -1 / (4 * root**3), 0))


def _tanh(x: Jet) -> Jet:
    value = np.tanh(x.value)
    slope = 1 / np.cosh(np.clip(x.value, -300, 300)) ** 2
    return _chain(x, value, slope, -2 * value * slope)


def _signed(x: Jet, sign: np.ndarray) -> Jet:
    return Jet(sign * x.value, sign * x.first, sign * x.second)


OPERATIONS = {
    "add": lambda a, b: Jet(*(x + z for x, z in zip(a, b, strict=True))),
    "sub": lambda a, b: Jet(*(x - z for x, z in zip(a, b, strict=True))),
    "mul": _mul,
    "div": _div,
    "min": lambda a, b: _pick(a, b, a.value < b.value),
    "max": lambda a, b: _pick(a, b, a.value > b.value),
    "sign": lambda x: Jet(np.sign(x.value), np.zeros_like(x.value), np.zeros_like(x.value)),
    "square": lambda x: _mul(x, x),
    "abs": lambda x: _signed(x, np.sign(x.value)),
    "log": _log,
    "sqrt": _sqrt,
    "tanh": _tanh,
}
"""The operators of `formulas.OPERATORS` on jets."""
