"""From the configuration of a learned optimizer's meta-training to the parts that it names."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metalearn.gradients import Estimator, log_uniform_horizon
from metalearn.inner import InnerLoop
from metalearn.ranges import check
from metalearn.recipes.driving import MetaTraining
from metalearn.recipes.gradient import make_estimator
from metalearn.recipes.learned_optimizer.config import (
    TrainOptimizerConfig,
    free_fields,
    rename_old_fields,
    to_json,
)
from metalearn.recipes.learned_optimizer.settings import settings_of
from metalearn.recipes.outer_optimizer import check_warmup, outer_optimizer
from metalearn.recipes.streams import stream
from metalearn_models.optimizers import library
from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_tasks import objectives
from metalearn_tasks.objectives import NamedObjective, cap_losses, log_transform_losses, training_loop

__all__ = ["FLOOR", "OptimizerRecipe", "prepare"]

FLOOR = 1e-4
"""Losses far below this count as equal: an optimizer need not drive separable data to a loss of 0."""


class OptimizerRecipe(NamedTuple):
    """What a configuration builds.

    Attributes:
        config: the configuration.
        problem: the objective and its data.
        optimizer: what is meta-trained.
        length: steps of a training run.
        training: its meta-training, ready to be driven.
    """

    config: TrainOptimizerConfig
    problem: NamedObjective
    optimizer: LearnedOptimizer
    length: int
    training: MetaTraining


def prepare(config: TrainOptimizerConfig) -> OptimizerRecipe:
    """Build everything that a configuration names; nothing is compiled.

    Raises:
        ValueError: unknown names, numbers out of range, or parts that do not fit each other.
    """
    check(config)
    check_warmup(config.outer_optimizer, config.steps)
    problem = objectives.load(config.objective, config.size, config.data_dir)
    settings = dataclasses.asdict(config.settings or settings_of(config.optimizer))
    optimizer = library.make(config.optimizer, **settings)
    if config.gradient.method == "backprop":
        optimizer = first_order(optimizer)
    length = problem.length if config.length is None else config.length
    loop = cap_losses(training_loop(problem.objective, optimizer, length), config.ceiling)
    if config.measure == "log-loss":
        loop = log_transform_losses(loop, FLOOR)
    values = to_json(config)

    def save_theta(path: Path, theta: Any, step: int) -> None:
        card = {"config": values, "objective": config.objective, "steps": step}
        library.save(path, config.optimizer, theta, values["settings"], card)

    training = MetaTraining(
        values,
        free_fields(config),
        lambda: jax.jit(optimizer.init)(stream(config.seed, "theta")),
        stream(config.seed, "outer"),
        problem.data,
        _estimator(loop, length, config),
        outer_optimizer(config.outer_optimizer, config.steps),
        config.steps,
        config.steps_per_call,
        rename_old_fields,
        save_theta,
    )
    return OptimizerRecipe(config, problem, optimizer, length, training)


def _estimator(loop: InnerLoop, length: int, config: TrainOptimizerConfig) -> Estimator:
    """The estimator of a configuration; the starts of training runs are staggered.

    Raises:
        ValueError: numbers that do not fit.
    """
    horizon = length if config.shortest is None else log_uniform_horizon(config.shortest, length)
    # Whole runs have no window: the default one is for all other methods.
    gradient = dataclasses.replace(config.gradient, window=None) if config.gradient.method == "es" else config.gradient
    return make_estimator(loop, gradient, config.batch, horizon=horizon)
