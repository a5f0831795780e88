"""All small formulas, each loss once: the candidates of a search that need not be bred.

Formulas are built from the smallest up, as in bottom-up program synthesis (Albarghouthi, Gulwani, Kincaid 2013,
"Recursive Program Synthesis"): of those that have equal values on a grid of inputs only the first, which is the
smallest, is kept and used in larger ones. Those that contain y and f are then screened, and of losses with equal
gradients up to a factor the smallest is kept. So a few thousand formulas stand for millions of trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from metalearn_models.losses.formulas import OPERATORS, Const, Expr, Op, Var, variables
from metalearn_models.losses.search.jets import OPERATIONS, Jet
from metalearn_models.losses.search.screening import describe_gradient, fingerprint, reject
from metalearn_models.losses.search.table import Kind, screening_table

__all__ = ["LARGEST_POOL_SIZE", "Candidate", "enumerate_losses", "list_formulas"]

LARGEST_POOL_SIZE = 6
"""Nodes of the largest formulas that a search lists by default, our choice: some 500 losses of classification."""
_COMMUTATIVE = frozenset({"add", "mul", "min", "max"})
_DIGITS = 9  # significant digits to which two formulas must agree to be one
_PROBABILITIES = np.array([1e-3, 0.02, 0.11, 0.23, 0.37, 0.52, 0.64, 0.79, 0.93, 0.999])
_NUMBERS = np.array([-2.3, -1.1, -0.4, -0.05, 0.03, 0.7, 1.3, 2.9])


class Candidate(NamedTuple):
    """A loss that was listed.

    Attributes:
        expr: its smallest formula.
        key: its `fingerprint`.
        features: its gradient, as `describe_gradient` gives it.
    """

    expr: Expr
    key: str
    features: Float[np.ndarray, "F"]


def enumerate_losses(kind: Kind, classes: int, largest: int = LARGEST_POOL_SIZE) -> tuple[Candidate, ...]:
    """List all losses with a formula of at most `largest` nodes that pass the screening, from the smallest on.

    Args:
        kind: kind of the tasks.
        classes: largest number of classes among the tasks, as for `reject`.
        largest: number of nodes of the largest formulas, at least 3, since a loss holds y, f and an operator.

    Raises:
        ValueError: `largest` is less than 3.
    """
    found: dict[str, Candidate] = {}
    for expr in list_formulas(kind, largest):
        if variables(expr) != {"y", "f"}:
            continue
        table = screening_table(expr, kind)
        if reject(table, kind, classes) is None:
            key = fingerprint(table, kind)
            if key not in found:
                found[key] = Candidate(expr, key, describe_gradient(table, kind))
    return tuple(found.values())


def list_formulas(kind: Kind, largest: int) -> Iterator[Expr]:
    """Formulas of at most `largest` nodes with different values, from the smallest on; also those without y or f.

    Raises:
        ValueError: `largest` is less than 3.
    """
    if largest < 3:
        raise ValueError(f"the largest formulas must have at least 3 nodes, since a loss holds y and f, got {largest}")
    y, f = _inputs(kind)
    known: set[bytes] = set()
    by_size: list[list[tuple[Expr, np.ndarray]]] = [[]]
    for number in range(1, largest + 1):
        new: list[tuple[Expr, np.ndarray]] = []
        for expr, value in _built(number, by_size, y, f):
            key = _round(value)
            if np.isfinite(value).all() and key not in known:
                known.add(key)
                new.append((expr, value))
                yield expr
        by_size.append(new)


def _inputs(kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    targets, points = ((0.0, 1.0), _PROBABILITIES) if kind == "classification" else (_NUMBERS, _NUMBERS + 0.17)
    y, f = np.meshgrid(np.asarray(targets), points, indexing="ij")
    return y.ravel(), f.ravel()


def _built(
    number: int, by_size: list[list[tuple[Expr, np.ndarray]]], y: np.ndarray, f: np.ndarray
) -> Iterator[tuple[Expr, np.ndarray]]:
    """Formulas of exactly `number` nodes with their values, made of the kept ones that are smaller."""
    if number == 1:
        yield from ((Var("y"), y), (Var("f"), f), (Const(1.0), np.ones_like(y)), (Const(-1.0), -np.ones_like(y)))
        return
    for name, operator in OPERATORS.items():
        if operator.arity == 1:
            yield from ((Op(name, (expr,)), _apply(name, value)) for expr, value in by_size[number - 1])
            continue
        for left in range(1, number - 1):
            right = number - 1 - left
            if name in _COMMUTATIVE and left > right:
                continue
            for i, (a, value) in enumerate(by_size[left]):
                others = by_size[right][i:] if name in _COMMUTATIVE and left == right else by_size[right]
                yield from ((Op(name, (a, b)), _apply(name, value, other)) for b, other in others)


def _apply(name: str, *values: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return OPERATIONS[name](*(Jet(v, np.zeros_like(v), np.zeros_like(v)) for v in values)).value


def _round(value: np.ndarray) -> bytes:
    with np.errstate(all="ignore"):
        exponent = np.floor(np.log10(np.maximum(np.abs(value), 1e-12)))
        return (np.round(value * 10.0 ** (_DIGITS - 1 - exponent)) * 10.0**exponent + 0.0).tobytes()
