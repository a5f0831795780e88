"""Learned losses: formulas, and a library of losses with one signature, `loss(logits, labels)` for each example."""

from metalearn.losses.expression import OPERATORS as OPERATORS
from metalearn.losses.expression import Const as Const
from metalearn.losses.expression import Expr as Expr
from metalearn.losses.expression import Op as Op
from metalearn.losses.expression import Operator as Operator
from metalearn.losses.expression import Var as Var
from metalearn.losses.expression import check_loss as check_loss
from metalearn.losses.expression import evaluate as evaluate
from metalearn.losses.expression import from_json as from_json
from metalearn.losses.expression import height as height
from metalearn.losses.expression import nodes as nodes
from metalearn.losses.expression import number_of_coefficients as number_of_coefficients
from metalearn.losses.expression import parse as parse
from metalearn.losses.expression import replace as replace
from metalearn.losses.expression import size as size
from metalearn.losses.expression import to_json as to_json
from metalearn.losses.expression import to_text as to_text
from metalearn.losses.expression import variables as variables
from metalearn.losses.handmade import HandmadeLoss as HandmadeLoss
from metalearn.losses.library import load as load
from metalearn.losses.library import names as names
from metalearn.losses.loss import SymbolicLoss as SymbolicLoss
from metalearn.losses.loss import check_inputs as check_inputs
from metalearn.losses.loss import cotangent as cotangent
