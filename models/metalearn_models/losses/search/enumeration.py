"""All small losses of a form that means the same for any number of classes: candidates that need not be bred.

Classification: the sum over classes of `(y + w p) g(p)`. These weights have the same sum with 2 classes and with 1,000,
so no number of classes drowns the label, as it can in a sum of any function of y and p. w = 0 gives losses of the
label's probability alone, such as cross-entropy. With w > 0 a share of the prediction is taken for the target, as in
Reed, Lee, Anguelov, Szegedy, Erhan, Rabinovich (2015), "Training Deep Neural Networks on Noisy Labels with
Bootstrapping" (arXiv 1412.6596), where g is -log. Regression: functions g of the residual f - y.

g is built from the smallest formulas up, as in bottom-up program synthesis (Albarghouthi, Gulwani, Kincaid 2013,
"Recursive Program Synthesis"): of those with equal values on a grid only the first, the smallest, is kept and used in
larger ones. All are screened, and of losses with equal gradients up to a factor the smallest is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from metalearn_models.losses.formulas import OPERATORS, Const, Expr, Op, Var, nodes, replace, size, to_text
from metalearn_models.losses.search.jets import OPERATIONS, Jet
from metalearn_models.losses.search.screening import describe_gradient, fingerprint, reject
from metalearn_models.losses.search.table import Kind, screening_table
from metalearn_models.losses.symbolic_loss import MOST_CLASSES

__all__ = ["LARGEST", "PREDICTED", "Candidate", "enumerate_losses", "list_formulas"]

LARGEST = 5
"""Nodes of the largest g that a search lists by default, our choice: some 400 losses of classification, 590 of
regression."""
PREDICTED = (0.0, 0.5, 1.0, 2.0)
"""The weights w of the prediction that are listed, our choice."""
_COMMUTATIVE = frozenset({"add", "mul", "min", "max"})
_DIGITS = 9  # significant digits to which two formulas must agree to be one
_GRID = {
    "classification": np.array([1e-5, 1e-3, 0.02, 0.11, 0.23, 0.37, 0.52, 0.64, 0.79, 0.93, 0.999, 0.99999]),
    "regression": np.array([-29.0, -7.1, -2.3, -1.1, -0.4, -0.05, -2e-4, 3e-4, 0.03, 0.7, 1.3, 2.9, 5.2]),
}


class Candidate(NamedTuple):
    """A loss that was listed.

    Attributes:
        expr: its smallest formula in the form at the head of this file.
        key: its `fingerprint`.
        features: its gradient, as `describe_gradient` gives it.
    """

    expr: Expr
    key: str
    features: Float[np.ndarray, "F"]


def enumerate_losses(
    kind: Kind, largest: int = LARGEST, predicted: Sequence[float] = PREDICTED
) -> tuple[Candidate, ...]:
    """List all losses that pass the screening with 2 to 1,000 classes, from the smallest on.

    Args:
        kind: kind of the tasks.
        largest: number of nodes of the largest g, at least 1.
        predicted: classification: the weights w.

    Raises:
        ValueError: `largest` is less than 1.
    """
    losses = [loss for g in list_formulas(kind, largest) for loss in _apply_form(g, kind, predicted)]
    found: dict[str, Candidate] = {}
    for expr in sorted(losses, key=lambda loss: (size(loss), to_text(loss))):
        table = screening_table(expr, kind)
        if reject(table, kind, MOST_CLASSES) is None:
            key = fingerprint(table, kind)
            if key not in found:
                found[key] = Candidate(expr, key, describe_gradient(table, kind))
    return tuple(found.values())


def list_formulas(kind: Kind, largest: int) -> Iterator[Expr]:
    """Formulas of f, 1 and -1 with at most `largest` nodes that hold f and differ in value, from the smallest on.

    Raises:
        ValueError: `largest` is less than 1.
    """
    if largest < 1:
        raise ValueError(f"largest must be at least 1 node, got {largest}")
    known: set[bytes] = set()
    by_size: list[list[tuple[Expr, np.ndarray]]] = [[]]
    for number in range(1, largest + 1):
        new: list[tuple[Expr, np.ndarray]] = []
        for expr, value in _build(number, by_size, _GRID[kind]):
            key = _round(value)
            if np.isfinite(value).all() and key not in known:
                known.add(key)
                new.append((expr, value))
                if Var("f") in nodes(expr):
                    yield expr
        by_size.append(new)


def _apply_form(g: Expr, kind: Kind, predicted: Sequence[float]) -> Iterator[Expr]:
    y, f = Var("y"), Var("f")
    if kind == "regression":
        for place in reversed([i for i, node in enumerate(nodes(g)) if node == f]):
            g = replace(g, place, Op("sub", (f, y)))
        yield g
        return
    for w in predicted:
        share = f if w == 1 else Op("mul", (Const(w), f))
        yield Op("mul", (y if w == 0 else Op("add", (y, share)), g))


def _build(
    number: int, by_size: list[list[tuple[Expr, np.ndarray]]], f: np.ndarray
) -> Iterator[tuple[Expr, np.ndarray]]:
    """Formulas of exactly `number` nodes with their values, made of the kept ones that are smaller."""
    if number == 1:
        yield from ((Var("f"), f), (Const(1.0), np.ones_like(f)), (Const(-1.0), -np.ones_like(f)))
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
