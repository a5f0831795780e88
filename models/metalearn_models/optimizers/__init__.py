"""Learned optimizers: meta-parameters, and optax transformations made from them."""

from metalearn_models.optimizers.contract import LearnedOptimizer as LearnedOptimizer
from metalearn_models.optimizers.mlp_optimizer import mlp_optimizer as mlp_optimizer
from metalearn_models.optimizers.small_fc import small_fc as small_fc
