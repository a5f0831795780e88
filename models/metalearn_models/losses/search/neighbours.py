"""All formulas one change away from a formula, for a systematic search around the best one.

Recombination rarely makes the one small change that the best formula lacks. Point mutation (Koza 1992) does; here all
its results are listed.
"""

from __future__ import annotations

from metalearn_models.losses.formulas import OPERATORS, Expr, Op, nodes, replace, variables
from metalearn_models.losses.search.evolution import TERMINALS

__all__ = ["neighbours"]


def neighbours(expr: Expr) -> tuple[Expr, ...]:
    """List the formulas that differ from `expr` in one place, contain y and f, and are not larger.

    An operator is replaced by each other operator of as many arguments, and by each of its arguments. A terminal is
    replaced by each other terminal.

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
