"""From the configuration of a learned optimizer's meta-training to the parts that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from metalearn.gradients import Estimator, log_uniform_horizon, together
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
from metalearn_tasks.objectives import (
    NamedObjective,
    cap_losses,
    log_transform_losses,
    reparametrise,
    training_loop,
    training_loop_of_lengths,
    weigh_late_losses,
)

__all__ = ["FLOOR", "OptimizerRecipe", "horizon", "prepare"]

FLOOR = 1e-4
"""Losses far below this count as equal: an optimizer need not drive separable data to a loss of 0."""


class OptimizerRecipe(NamedTuple):
    """What a configuration builds.

    Attributes:
        config: the configuration.
        problems: the objectives by name, each with its data and the number of steps of its training runs.
        optimizer: what is meta-trained.
        training: its meta-training, ready to be driven.
    """

    config: TrainOptimizerConfig
    problems: dict[str, NamedObjective]
    optimizer: LearnedOptimizer
    training: MetaTraining


def prepare(config: TrainOptimizerConfig) -> OptimizerRecipe:
    """Build everything that a configuration names; nothing is compiled.

    Raises:
        ValueError: unknown names, numbers out of range, or parts that do not fit each other.
    """
    check(config)
    check_warmup(config.outer_optimizer, config.steps)
    problems = {name: _load(name, config) for name in config.objective.split("+")}
    settings = dataclasses.asdict(config.settings or settings_of(config.optimizer))
    optimizer = library.make(config.optimizer, **settings)
    if config.second_order and config.gradient.method != "backprop":
        raise ValueError(
            "--second-order is for backpropagation, which evolution strategies do without: got --gradient.method "
            f"{config.gradient.method}; add --no-second-order, or choose --gradient.method backprop"
        )
    if config.shortest is not None and config.gradient.method == "backprop" and config.gradient.window is None:
        raise ValueError(
            f"--shortest {config.shortest} needs runs of several lengths, and backprop through whole runs has one: "
            "give --gradient.window, or leave --shortest out"
        )
    if config.gradient.method == "backprop" and not config.second_order:
        optimizer = first_order(optimizer)
    values = to_json(config)

    def save_theta(path: Path, theta: Any, step: int) -> None:
        card = {"config": values, "objective": config.objective, "horizon": horizon(problems), "steps": step}
        library.save(path, config.optimizer, theta, values["settings"], card)

    training = MetaTraining(
        values,
        free_fields(config),
        lambda: jax.jit(optimizer.init)(stream(config.seed, "theta")),
        stream(config.seed, "outer"),
        _only({name: problem.data for name, problem in problems.items()}, lambda data: data),
        _only({name: _estimator(problem, optimizer, config) for name, problem in problems.items()}, together),
        outer_optimizer(config.outer_optimizer, config.steps),
        config.steps,
        config.steps_per_call,
        rename_old_fields,
        save_theta,
    )
    return OptimizerRecipe(config, problems, optimizer, training)


def horizon(problems: Mapping[str, NamedObjective]) -> int:
    """Steps of the longest training runs."""
    return max(problem.length for problem in problems.values())


def _load(name: str, config: TrainOptimizerConfig) -> NamedObjective:
    has_data = name not in objectives.names()  # the options of data are for those that have any
    alone = "+" not in config.objective
    size, data_dir = (config.size, config.data_dir) if has_data or alone else (None, None)
    problem = objectives.load(name, size, data_dir)
    return problem if config.length is None else problem._replace(length=config.length)


def _estimator(problem: NamedObjective, optimizer: LearnedOptimizer, config: TrainOptimizerConfig) -> Estimator:
    """The estimator of a configuration on one objective; the starts of training runs are staggered.

    Raises:
        ValueError: numbers that do not fit.
    """
    objective = problem.objective if config.rescale is None else reparametrise(problem.objective, *config.rescale)
    make_loop = training_loop if config.shortest is None else training_loop_of_lengths
    loop = cap_losses(make_loop(objective, optimizer, problem.length), config.ceiling)
    if config.measure != "loss":
        loop = log_transform_losses(loop, FLOOR)
    if config.measure == "late-log-loss":
        loop = weigh_late_losses(loop)
    if config.shortest is not None and config.shortest > problem.length:
        raise ValueError(f"--shortest must be at most --length, got {config.shortest} and {problem.length}")
    lengths = problem.length if config.shortest is None else log_uniform_horizon(config.shortest, problem.length)
    # Whole runs have no window: the default one is for all other methods.
    gradient = dataclasses.replace(config.gradient, window=None) if config.gradient.method == "es" else config.gradient
    remat = config.second_order
    return make_estimator(
        loop, gradient, config.batch, longest=problem.length, length_option="--length", horizon=lengths, remat=remat
    )


def _only(parts: dict[str, Any], several: Callable[[dict[str, Any]], Any]) -> Any:
    """The only part, or what is made of several: a run on one objective has the forms of before there were mixtures."""
    return several(parts) if len(parts) > 1 else next(iter(parts.values()))
