"""From a configuration to the parts it names: data, tasks, learner, outer loop, and their scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.errors import RunError
from metalearn.gradients import (
    Estimator,
    lengthening,
    linear_growth,
    scheduled,
)
from metalearn.inner import InnerLoop
from metalearn.learner import Family, Learner, inner_loop
from metalearn.outer import OuterLoop, OuterState, local_mesh, outer_loop
from metalearn.recipes.gradient import make_estimator
from metalearn.recipes.in_context.config import DataConfig, TrainConfig, from_json
from metalearn.recipes.outer_optimizer import outer_optimizer
from metalearn.recipes.streams import stream
from metalearn.runs.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.runs.folder import open_run
from metalearn_models.learners.registry import build_learner
from metalearn_tasks.datasets.load import Dataset, load
from metalearn_tasks.families.projected import (
    ProjectedConfig,
    ProjectedData,
    anneal,
    projected,
    projected_data,
)
from metalearn_tasks.families.regression import RegressionConfig, regression


class Recipe(NamedTuple):
    """What a configuration builds.

    Attributes:
        config: the configuration.
        family: the meta-training tasks.
        data: their `data`, of training examples.
        test_data: the same of held-out examples.
        learner: what is meta-trained.
        estimator: where its meta-gradients come from.
        chance: accuracy of guessing; None in regression.
    """

    config: TrainConfig
    family: Family
    data: Any
    test_data: Any
    learner: Learner
    estimator: Estimator
    chance: float | None


def load_data(config: DataConfig) -> Dataset:
    """The data set a configuration names, prepared as it says. Errors are `metalearn_tasks.datasets.load.load`'s."""
    return load(config.source, size=config.size, pca=config.pca, data_dir=config.data_dir)


def prepare(config: TrainConfig, dataset: Dataset | None = None) -> Recipe:
    """Build everything a configuration names.

    Args:
        config: the configuration.
        dataset: the examples, when they are at hand already; loaded otherwise.

    Raises:
        ValueError: parts that do not fit each other, or numbers out of range.
    """
    for name in ("batch", "sequences", "steps_per_call", "eval_tasks", "eval_sequences"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if isinstance(config.family, RegressionConfig):
        family, data, test_data, chance = regression(config.family), (), (), None
    else:
        dataset = dataset or load_data(config.data)
        for split, (inputs, _) in (("training", dataset.train), ("held-out", dataset.test)):
            if len(inputs) < config.family.length:
                raise ValueError(
                    f"a sequence of {config.family.length} different examples cannot be drawn from the {len(inputs)} "
                    f"{split} examples of {dataset.name}: shorten task.length or take more data"
                )
        family = projected(dataset.inputs, dataset.classes, config.family)
        data = _numbered_by(projected_data(*dataset.train, config.family.permute_prob), config.family)
        test_data = _numbered_by(projected_data(*dataset.test), config.family)
        chance = 1.0 / dataset.classes
    learner = build_learner(family.signature, config.learner)
    loop = inner_loop(learner, family, config.sequences)
    estimator = (
        _with_curriculum(loop, config)
        if config.curriculum.steps
        else make_estimator(loop, config.gradient, config.batch)
    )
    if isinstance(config.family, ProjectedConfig) and config.family.anneal_steps:
        estimator = scheduled(estimator, anneal(config.family))
    return Recipe(config, family, data, test_data, learner, estimator, chance)


def _numbered_by(data: ProjectedData, task: ProjectedConfig) -> ProjectedData:
    # As data, so that runs of other seeds and numbers of tasks find their programs in JAX's compilation cache.
    count = None if task.num_tasks is None else jnp.int32(task.num_tasks)
    return data._replace(num_tasks=count, seed=jnp.uint32(task.seed % 2**32))  # the bits that `jax.random.key` takes


def _with_curriculum(loop: InnerLoop, config: TrainConfig) -> Estimator:
    first, steps, length = config.curriculum.first, config.curriculum.steps, config.family.length
    if not 1 <= first <= length or steps < 0:
        raise ValueError(
            f"a curriculum goes from 1 to {length} examples, the length of a sequence, in a positive number of steps; "
            f"got {first} examples at first and {steps} steps"
        )
    return lengthening(
        loop,
        lambda weighted: make_estimator(weighted, config.gradient, config.batch),
        linear_growth(first, length, steps),
    )


def compile_outer_loop(recipe: Recipe, steps_left: int) -> tuple[OuterLoop, int]:
    """The compiled outer loop, over all local devices that divide its batch, and the steps in one of its calls.

    The steps in a call are made to divide what is left, so that a run ends on the step it was asked to.
    """
    wish = range(1, recipe.config.steps_per_call + 1)
    per_call = max(d for d in wish if max(steps_left, 1) % d == 0 and recipe.config.steps % d == 0)
    optimizer = outer_optimizer(recipe.config.outer_optimizer, recipe.config.steps)
    return outer_loop(recipe.estimator, optimizer, per_call, local_mesh(recipe.estimator.batch)), per_call


def initial_state(recipe: Recipe, loop: OuterLoop) -> OuterState:
    """The state before the first outer step, from the one seed, and from another run's theta where one is named.

    Raises:
        RunError: the run to begin from has no readable checkpoint.
        ValueError: its meta-parameters have other shapes.
    """
    theta = jax.jit(recipe.learner.init)(stream(recipe.config.seed, "theta"))
    if recipe.config.start is not None:
        begun = Path(recipe.config.start)
        found = restore_theta(begun, prepare(from_json(open_run(begun).config)))
        if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, theta):
            raise ValueError(f"the learner of {recipe.config.start} has other sizes than this one: give it the same")
        theta = found
    return loop.init(theta, recipe.data, stream(recipe.config.seed, "outer"))


def restore_theta(folder: Path, recipe: Recipe) -> Any:
    """The meta-parameters of the newest readable checkpoint of a run.

    Args:
        folder: of the run.
        recipe: what the run's configuration builds.

    Raises:
        RunError: no run, no checkpoint, none readable, or of another configuration.
    """
    run = open_run(folder)
    if not checkpoint_steps(run):
        raise RunError(f"{folder} holds no checkpoint yet: train it first")
    # Only shapes are needed, so the run that this one began from need not be there any more.
    recipe = recipe._replace(config=dataclasses.replace(recipe.config, start=None))
    loop, _ = compile_outer_loop(recipe, recipe.config.steps)
    return restore_checkpoint(run, initial_state(recipe, loop)).theta
