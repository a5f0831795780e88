"""From a configuration to the parts that it names: tasks, learner, and the meta-training that is driven."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.compilation import jit_quickly
from metalearn.errors import DataNotPreparedError, RunError, UnknownNameError
from metalearn.gradients import Estimator, linear_growth, with_curriculum, with_schedule
from metalearn.inner import InnerLoop
from metalearn.learner import Family, Learner, inner_loop
from metalearn.recipes.driving import WEIGHTS, MetaTraining, compile_outer_loop, initial_state
from metalearn.recipes.gradient import make_estimator
from metalearn.recipes.in_context.config import (
    DATA_HASH,
    DataConfig,
    TrainConfig,
    free_fields,
    from_json,
    rename_old_fields,
    to_json,
    validate,
)
from metalearn.recipes.kinds import LEARNER, refuse_other_kinds
from metalearn.recipes.outer_optimizer import outer_optimizer
from metalearn.recipes.streams import stream
from metalearn.runs.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.runs.folder import open_run
from metalearn_models.learners import library
from metalearn_models.learners.registry import build_learner
from metalearn_tasks.datasets import Dataset, content_sha256, load
from metalearn_tasks.families.registry import entry_of

__all__ = ["Recipe", "load_data", "load_dataset", "prepare", "read_theta"]


class Recipe(NamedTuple):
    """What a configuration builds.

    Attributes:
        config: the configuration.
        family: the meta-training tasks.
        data: their `data`, of training examples.
        test_data: the same of held-out examples.
        seen_data: held-out examples for the tasks met in meta-training, see `TaskSource`.
        chance: accuracy of guessing; None in regression.
        learner: what is meta-trained.
        training: its meta-training, ready to be driven.
    """

    config: TrainConfig
    family: Family
    data: Any
    test_data: Any
    seen_data: Any
    chance: float | None
    learner: Learner
    training: MetaTraining


def load_data(config: TrainConfig) -> Dataset | None:
    """The data set of a configuration, prepared as it says; None if its tasks need none.

    Errors are those of `metalearn_tasks.datasets.load`.
    """
    if not entry_of(config.family).over_data:
        return None
    return load_dataset(config.data)


def load_dataset(config: DataConfig, source: str = "--data.source", others: str = "--data.") -> Dataset:
    """A data set, prepared as configured.

    Errors are those of `metalearn_tasks.datasets.load`, with the names of options.

    Args:
        config: which data set.
        source: the option that named it.
        others: the beginning of the options `size`, `pca`, `data-dir` and `copies`.
    """
    try:
        return load(config.source, size=config.size, pca=config.pca, data_dir=config.data_dir, copies=config.copies)
    except UnknownNameError as error:
        raise UnknownNameError(f"{source}: {error}") from error
    except DataNotPreparedError as error:
        raise DataNotPreparedError(f"{source}: {error}") from error
    except ValueError as error:
        text = re.sub(r"\b(size|pca|copies)=", rf"{others}\1 ", str(error))
        advice = f": lower it, or keep all inputs with {others}pca none" if "components" in text else ""
        raise ValueError(f"{source} {config.source}: {text}{advice}") from error


def prepare(config: TrainConfig, dataset: Dataset | None = None) -> Recipe:
    """Build everything that a configuration names; nothing is compiled.

    Args:
        config: the configuration.
        dataset: the examples, if they are at hand already; None: they are loaded.

    Raises:
        ValueError: parts that do not fit each other, or numbers out of range.
    """
    validate(config)
    source = entry_of(config.family).build(config.family, dataset or load_data(config))
    learner = build_learner(source.family.signature, config.learner)
    loop = inner_loop(learner, source.family, config.sequences)
    estimator = _estimator(loop, config)
    if source.schedule is not None:
        estimator = with_schedule(estimator, source.schedule)

    def save_theta(path: Path, theta: Any, step: int) -> None:
        library.save(path, config.learner, learner.signature, theta, {"config": to_json(config), "steps": step})

    content = content_sha256(config.data.source) if entry_of(config.family).over_data else None
    values = to_json(config) | ({} if content is None else {DATA_HASH: content})
    training = MetaTraining(
        values,
        free_fields(config),
        lambda: _initial_theta(learner, config),
        stream(config.seed, "outer"),
        source.data,
        estimator,
        outer_optimizer(config.outer_optimizer, config.steps),
        config.steps,
        config.steps_per_call,
        lambda old: _follow_data(rename_old_fields(old), values),
        save_theta,
    )
    parts = (source.family, source.data, source.test_data, source.seen_data, source.chance)
    return Recipe(config, *parts, learner, training)


def _follow_data(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The configuration with which a run was begun, with the place where the same data lie now.

    Raises:
        RunError: that place holds other data.
    """
    before, now, place = old.get(DATA_HASH), new.get(DATA_HASH), new["data"]["source"]
    if before is None and now is not None and old["data"]["source"] == place:
        return {**old, DATA_HASH: now}  # the run was begun when runs kept no hash
    if before is None or now is None:
        return old
    if before != now:
        raise RunError(
            f"{place} does not hold the data that the run was begun with, which were at {old['data']['source']}: their "
            "SHA-256 differs. Give the place of the same data with --data.source, or begin another run"
        )
    return {**old, "data": {**old["data"], "source": place}}


def _estimator(loop: InnerLoop, config: TrainConfig) -> Estimator:
    first, steps, length = config.curriculum.first, config.curriculum.steps, config.family.length

    def estimator(loop: InnerLoop) -> Estimator:
        return make_estimator(loop, config.gradient, config.batch, longest=length, length_option="--family.length")

    return with_curriculum(loop, estimator, linear_growth(first, length, steps)) if steps else estimator(loop)


def _initial_theta(learner: Learner, config: TrainConfig) -> Any:
    """Fresh meta-parameters from the one seed, or those of the run to begin from.

    Raises:
        RunError: the run to begin from has no readable checkpoint.
        ValueError: its meta-parameters have other shapes.
    """
    theta = jit_quickly(learner.init)(stream(config.seed, "theta"))
    if config.start is None:
        return theta
    found = read_theta(Path(config.start))
    if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, theta):
        raise ValueError(f"the learner of {config.start} has other sizes than this one: give it the same")
    return found


def read_theta(folder: Path, recipe: Recipe | None = None) -> Any:
    """The meta-parameters of the newest checkpoint of a run.

    Args:
        folder: of the run.
        recipe: what the run's configuration builds, if it is at hand; it is needed only for runs of version 0.1,
            which left no weights beside their checkpoints.

    Raises:
        RunError: no run, one of another kind, no checkpoint, none readable, or of another configuration.
    """
    run = open_run(folder, rename_old_fields)
    refuse_other_kinds(run.config, LEARNER)
    if (folder / WEIGHTS).exists():
        return library.load(folder).theta
    if not checkpoint_steps(run):
        raise RunError(f"{folder} holds no checkpoint yet: train it first")
    config = from_json(run.config) if recipe is None else recipe.config
    # Only shapes are needed, so the run that this one began from need not be there any more.
    training = prepare(dataclasses.replace(config, start=None)).training
    loop, _ = compile_outer_loop(training, config.steps)
    return restore_checkpoint(run, initial_state(training, loop)).theta
