"""All formulas one change away from a formula: what is left to try around the best one, systematically.

A search by recombination rarely makes the one small change that its best formula lacks; point mutation (Koza 1992),
here in all its possibilities, does.
"""

from __future__ import annotations

from metalearn_models.losses.formulas import OPERATORS, Expr, Op, nodes, replace, variables
from metalearn_models.losses.search.evolution import TERMINALS

__all__ = ["neighbours"]


def neighbours(expr: Expr) -> tuple[Expr, ...]:
    """Formulas that differ from `expr` in one place, contain y and f, and are not larger.

    At each place: an operator is exchanged for each other one with as many arguments, or gives way to one of its
    arguments; a terminal is exchanged for each other one.

    Args:
        expr: a loss.

    Returns:
        Distinct formulas, in the order of the places.
    """
    found: dict[Expr, None] = {}
    for place, node in enumerate(nodes(expr)):
        if isinstance(node, Op):
            alike = [name for name in OPERATORS if OPERATORS[name].arity == len(node.args)]
            others: list[Expr] = [Op(name, node.args) for name in alike]
            others += node.args
        else:
            others = list(TERMINALS)
        found |= dict.fromkeys(replace(expr, place, other) for other in others)
    found.pop(expr, None)
    return tuple(one for one in found if variables(one) >= {"y", "f"})
