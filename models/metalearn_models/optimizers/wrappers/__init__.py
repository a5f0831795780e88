"""Wrappers around an optimizer: guards of a learned one, and Lookahead around any."""

from metalearn_models.optimizers.wrappers.gl2o import gl2o as gl2o
from metalearn_models.optimizers.wrappers.guard import GuardState as GuardState
from metalearn_models.optimizers.wrappers.guard import guard_optimizer as guard_optimizer
from metalearn_models.optimizers.wrappers.lgl2o import Rounds as Rounds
from metalearn_models.optimizers.wrappers.lgl2o import lgl2o as lgl2o
from metalearn_models.optimizers.wrappers.lgl2o import lgl2o_rounds as lgl2o_rounds
from metalearn_models.optimizers.wrappers.lookahead import LookaheadState as LookaheadState
from metalearn_models.optimizers.wrappers.lookahead import lookahead as lookahead
from metalearn_models.optimizers.wrappers.lookahead import slow_weights as slow_weights

__all__ = [
    "GuardState",
    "LookaheadState",
    "Rounds",
    "gl2o",
    "guard_optimizer",
    "lgl2o",
    "lgl2o_rounds",
    "lookahead",
    "slow_weights",
]
