"""Learned optimizers: meta-parameters, and optax transformations made from them.

`load("compass")` is a meta-trained optimizer, ready to use; `make("compass")` is one to meta-train. `names()` lists
what `make` knows, `shipped()` what the package has weights of.
"""

from metalearn_models.optimizers.contract import LearnedOptimizer as LearnedOptimizer
from metalearn_models.optimizers.contract import first_order as first_order
from metalearn_models.optimizers.learned.celo import celo as celo
from metalearn_models.optimizers.learned.celo_published import celo_theta as celo_theta
from metalearn_models.optimizers.learned.compass import compass as compass
from metalearn_models.optimizers.learned.compass import scale_by_compass as scale_by_compass
from metalearn_models.optimizers.learned.component_rnn import component_cell as component_cell
from metalearn_models.optimizers.learned.component_rnn import component_rnn as component_rnn
from metalearn_models.optimizers.learned.dmd import dmd_lstm as dmd_lstm
from metalearn_models.optimizers.learned.learnable import learnable_adam as learnable_adam
from metalearn_models.optimizers.learned.learnable import learnable_momentum as learnable_momentum
from metalearn_models.optimizers.learned.learnable import learnable_sgd as learnable_sgd
from metalearn_models.optimizers.learned.lstm import identity as identity
from metalearn_models.optimizers.learned.lstm import log_and_sign as log_and_sign
from metalearn_models.optimizers.learned.lstm import lstm_optimizer as lstm_optimizer
from metalearn_models.optimizers.learned.mlp import mlp_optimizer as mlp_optimizer
from metalearn_models.optimizers.learned.nn_adam import nn_adam as nn_adam
from metalearn_models.optimizers.learned.rnn_mlp import rnn_mlp as rnn_mlp
from metalearn_models.optimizers.learned.rnnprop import rnnprop as rnnprop
from metalearn_models.optimizers.learned.schedule import learnable_adam_schedule as learnable_adam_schedule
from metalearn_models.optimizers.learned.schedule import learnable_schedule as learnable_schedule
from metalearn_models.optimizers.learned.small_fc import small_fc as small_fc
from metalearn_models.optimizers.learned.star import star as star
from metalearn_models.optimizers.library import LoadedOptimizer as LoadedOptimizer
from metalearn_models.optimizers.library import TrainedOptimizer as TrainedOptimizer
from metalearn_models.optimizers.library import load as load
from metalearn_models.optimizers.library import read as read
from metalearn_models.optimizers.library import save as save
from metalearn_models.optimizers.library import shipped as shipped
from metalearn_models.optimizers.orthogonal import orthogonal_adam as orthogonal_adam
from metalearn_models.optimizers.registry import make as make
from metalearn_models.optimizers.registry import names as names
from metalearn_models.optimizers.registry import setting_descriptions as setting_descriptions
from metalearn_models.optimizers.wrappers import GuardState as GuardState
from metalearn_models.optimizers.wrappers import Rounds as Rounds
from metalearn_models.optimizers.wrappers import gl2o as gl2o
from metalearn_models.optimizers.wrappers import guard_optimizer as guard_optimizer
from metalearn_models.optimizers.wrappers import lgl2o as lgl2o
from metalearn_models.optimizers.wrappers import lgl2o_rounds as lgl2o_rounds
from metalearn_models.optimizers.wrappers import lookahead as lookahead
from metalearn_models.optimizers.wrappers import slow_weights as slow_weights

__all__ = [
    "GuardState",
    "LearnedOptimizer",
    "LoadedOptimizer",
    "Rounds",
    "TrainedOptimizer",
    "celo",
    "celo_theta",
    "compass",
    "component_cell",
    "component_rnn",
    "dmd_lstm",
    "first_order",
    "gl2o",
    "guard_optimizer",
    "identity",
    "learnable_adam",
    "learnable_adam_schedule",
    "learnable_momentum",
    "learnable_schedule",
    "learnable_sgd",
    "lgl2o",
    "lgl2o_rounds",
    "load",
    "log_and_sign",
    "lookahead",
    "lstm_optimizer",
    "make",
    "mlp_optimizer",
    "names",
    "nn_adam",
    "orthogonal_adam",
    "read",
    "rnn_mlp",
    "rnnprop",
    "save",
    "scale_by_compass",
    "setting_descriptions",
    "shipped",
    "slow_weights",
    "small_fc",
    "star",
]
