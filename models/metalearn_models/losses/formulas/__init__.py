"""Formulas of learned losses: small immutable trees over y (the target) and f (the prediction).

Operators, terminals and edge coefficients are those of EvoMAL: Raymond, Chen, Xue, Zhang, "Learning Symbolic
Model-Agnostic Loss Functions via Meta-Learning" (2023, arXiv 2209.08907). Values and slopes are clipped at every node,
so that each formula has a finite value and a finite gradient everywhere.

A tree is hashable and holds no arrays. Its coefficients, one per edge, are a separate vector: the value of every node
but the root is multiplied by its coefficient before it enters its parent. Coefficient i belongs to node i + 1 in
prefix order.

    tree        node types, operators, and functions on the structure of a tree
    notation    formulas as text and as JSON
    values      values and gradients
"""

from metalearn_models.losses.formulas.notation import from_json as from_json
from metalearn_models.losses.formulas.notation import parse as parse
from metalearn_models.losses.formulas.notation import to_json as to_json
from metalearn_models.losses.formulas.notation import to_text as to_text
from metalearn_models.losses.formulas.tree import FLOOR as FLOOR
from metalearn_models.losses.formulas.tree import LIMIT as LIMIT
from metalearn_models.losses.formulas.tree import MAX_HEIGHT as MAX_HEIGHT
from metalearn_models.losses.formulas.tree import MAX_SIZE as MAX_SIZE
from metalearn_models.losses.formulas.tree import OPERATORS as OPERATORS
from metalearn_models.losses.formulas.tree import TERMINALS as TERMINALS
from metalearn_models.losses.formulas.tree import Const as Const
from metalearn_models.losses.formulas.tree import Expr as Expr
from metalearn_models.losses.formulas.tree import Op as Op
from metalearn_models.losses.formulas.tree import Operator as Operator
from metalearn_models.losses.formulas.tree import Var as Var
from metalearn_models.losses.formulas.tree import check_loss as check_loss
from metalearn_models.losses.formulas.tree import height as height
from metalearn_models.losses.formulas.tree import nodes as nodes
from metalearn_models.losses.formulas.tree import number_of_coefficients as number_of_coefficients
from metalearn_models.losses.formulas.tree import replace as replace
from metalearn_models.losses.formulas.tree import size as size
from metalearn_models.losses.formulas.tree import variables as variables
from metalearn_models.losses.formulas.values import evaluate as evaluate

__all__ = [
    "FLOOR",
    "LIMIT",
    "MAX_HEIGHT",
    "MAX_SIZE",
    "OPERATORS",
    "TERMINALS",
    "Const",
    "Expr",
    "Op",
    "Operator",
    "Var",
    "check_loss",
    "evaluate",
    "from_json",
    "height",
    "nodes",
    "number_of_coefficients",
    "parse",
    "replace",
    "size",
    "to_json",
    "to_text",
    "variables",
]
