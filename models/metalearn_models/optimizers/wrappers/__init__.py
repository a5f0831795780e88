"""Wrappers around a learned optimizer: guards."""

from metalearn_models.optimizers.wrappers.gl2o import gl2o as gl2o
from metalearn_models.optimizers.wrappers.guard import GuardState as GuardState
from metalearn_models.optimizers.wrappers.guard import guard_optimizer as guard_optimizer
from metalearn_models.optimizers.wrappers.lgl2o import Rounds as Rounds
from metalearn_models.optimizers.wrappers.lgl2o import lgl2o as lgl2o
from metalearn_models.optimizers.wrappers.lgl2o import lgl2o_rounds as lgl2o_rounds

__all__ = ["GuardState", "Rounds", "gl2o", "guard_optimizer", "lgl2o", "lgl2o_rounds"]
