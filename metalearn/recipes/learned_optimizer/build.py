"""From the configuration of a learned optimizer's meta-training to the parts it names."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from metalearn.gradients import Estimator, log_uniform
from metalearn.inner import InnerLoop
from metalearn.outer import OuterLoop, local_mesh, outer_loop
from metalearn.recipes.gradient import make_estimator
from metalearn.recipes.learned_optimizer.config import (
    TrainOptimizerConfig,
    settings_of,
)
from metalearn.recipes.outer_optimizer import outer_optimizer
from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_models.optimizers.library import make
from metalearn_tasks.objectives.library import NamedObjective, named_objective
from metalearn_tasks.objectives.training import capped, logarithmic, training_loop

FLOOR = 1e-4
"""Far below this a loss no longer counts as smaller: an optimizer need not drive separable data to a loss of 0."""


class OptimizerRecipe(NamedTuple):
    """What a configuration builds."""

    config: TrainOptimizerConfig
    problem: NamedObjective
    optimizer: LearnedOptimizer
    length: int
    estimator: Estimator


def prepare(config: TrainOptimizerConfig) -> OptimizerRecipe:
    """Build everything a configuration names.

    Raises:
        ValueError: unknown names, numbers out of range, or parts that do not fit each other.
    """
    for name in ("steps", "steps_per_call", "eval_runs"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    problem = named_objective(config.objective, config.size, config.data_dir)
    optimizer = make(config.optimizer, **dataclasses.asdict(config.settings or settings_of(config.optimizer)))
    if config.gradient.method == "backprop":
        optimizer = first_order(optimizer)
    length = problem.length if config.length is None else config.length
    loop = capped(training_loop(problem.objective, optimizer, length), config.ceiling)
    if config.measure == "log-loss":
        loop = logarithmic(loop, FLOOR)
    return OptimizerRecipe(config, problem, optimizer, length, meta_gradient(loop, length, config))


def meta_gradient(loop: InnerLoop, length: int, config: TrainOptimizerConfig) -> Estimator:
    """The estimator that a configuration names; starts of runs are staggered.

    Raises:
        ValueError: numbers that do not fit.
    """
    horizon = length if config.shortest is None else log_uniform(config.shortest, length)
    # Whole runs have no window: the default one is for all other methods.
    gradient = dataclasses.replace(config.gradient, window=None) if config.gradient.method == "es" else config.gradient
    return make_estimator(loop, gradient, config.batch, horizon=horizon)


def compile_outer_loop(recipe: OptimizerRecipe, steps_left: int) -> tuple[OuterLoop, int]:
    """The compiled outer loop, over the local devices that divide its runs, and the steps in one of its calls."""
    config = recipe.config
    wish = range(1, config.steps_per_call + 1)
    per_call = max(d for d in wish if max(steps_left, 1) % d == 0 and config.steps % d == 0)
    mesh = local_mesh(recipe.estimator.batch)
    return outer_loop(recipe.estimator, outer_optimizer(config.outer_optimizer, config.steps), per_call, mesh), per_call
