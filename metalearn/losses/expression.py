"""Formulas of learned losses: small immutable trees over y (the target) and f (the prediction).

Functions, terminals and edge coefficients are those of EvoMAL: Raymond, Chen, Xue, Zhang, "Learning Symbolic
Model-Agnostic Loss Functions via Meta-Learning" (2023, arXiv 2209.08907). Values and slopes are bounded at every
node, so that each formula has a finite value and a finite gradient everywhere.

The structure of a tree is hashable and holds no arrays. Its coefficients, one for each edge, are a separate vector:
the value of every node but the root is multiplied by its coefficient before it enters its parent. Coefficient i
belongs to node i + 1 in prefix order.
"""

from metalearn.losses.notation import MAX_TEXT as MAX_TEXT
from metalearn.losses.notation import VERSION as VERSION
from metalearn.losses.notation import from_json as from_json
from metalearn.losses.notation import from_record as from_record
from metalearn.losses.notation import parse as parse
from metalearn.losses.notation import read_json as read_json
from metalearn.losses.notation import to_json as to_json
from metalearn.losses.notation import to_record as to_record
from metalearn.losses.notation import to_text as to_text
from metalearn.losses.tree import FLOOR as FLOOR
from metalearn.losses.tree import LIMIT as LIMIT
from metalearn.losses.tree import MAX_HEIGHT as MAX_HEIGHT
from metalearn.losses.tree import MAX_SIZE as MAX_SIZE
from metalearn.losses.tree import OPERATORS as OPERATORS
from metalearn.losses.tree import TERMINALS as TERMINALS
from metalearn.losses.tree import Const as Const
from metalearn.losses.tree import Expr as Expr
from metalearn.losses.tree import Op as Op
from metalearn.losses.tree import Operator as Operator
from metalearn.losses.tree import Var as Var
from metalearn.losses.tree import check_loss as check_loss
from metalearn.losses.tree import height as height
from metalearn.losses.tree import nodes as nodes
from metalearn.losses.tree import number_of_coefficients as number_of_coefficients
from metalearn.losses.tree import replace as replace
from metalearn.losses.tree import size as size
from metalearn.losses.tree import variables as variables
from metalearn.losses.values import at_least_single as at_least_single
from metalearn.losses.values import bounded as bounded
from metalearn.losses.values import evaluate as evaluate
