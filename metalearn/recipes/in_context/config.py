"""The configuration of the meta-training of a learner, and its JSON form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from metalearn.errors import RunError, UnknownNameError, unknown_name
from metalearn.ranges import Count, Existing, Named, Place, Seed, Size, Steps, check
from metalearn.recipes.gradient import GradientConfig
from metalearn.recipes.kinds import LEARNER, refuse_other_kinds
from metalearn.recipes.outer_optimizer import OptimizerConfig, check_warmup
from metalearn_models.learners.registry import LEARNERS, learner_entry, learner_name
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.datasets import absolute
from metalearn_tasks.families.projected import ProjectedConfig
from metalearn_tasks.families.registry import entry_of, family_entry

__all__ = [
    "DATA_HASH",
    "CurriculumConfig",
    "DataConfig",
    "Reference",
    "TrainConfig",
    "free_fields",
    "from_json",
    "learner_names",
    "predicts_numbers",
    "reference_names",
    "rename_old_fields",
    "to_json",
    "validate",
    "with_absolute_places",
    "with_learner",
]

DATA_HASH = "data_sha256"
"""In the JSON form of a run's configuration, the hash of the data at `data.source`, if it is a place."""

REFERENCES = ("1nn", "centroid", "ridge", "logistic")


def reference_names() -> tuple[str, ...]:
    """The learners that need no meta-training, with which a learner is compared."""
    return tuple(name for name, entry in LEARNERS.items() if not entry.meta_learned)


Reference = Annotated[str, Named("reference learner", reference_names)]
"""The name of a reference learner."""


@dataclass(frozen=True)
class DataConfig:
    """Where the examples come from."""

    source: Annotated[str, Place()] = "digits"
    """A bundled set (`metalearn list`), a tensorflow-datasets name or prepared folder, FILE.npz with X and y, or
    FILE.csv with the label in its last column or in the one that FILE.csv:LABEL names."""
    size: Size | None = None
    """Resize images to size x size; None: leave them as they are."""
    pca: Size | None = None
    """Reduce inputs to this many principal components, fitted on the training examples; None: keep all."""
    data_dir: Annotated[str, Place(), Existing("folder")] | None = None
    """Where tensorflow-datasets keeps its prepared sets; None: its own default."""
    copies: Steps = 1
    """How many times each training image is there: once as it is, then shifted, turned and scaled a little."""


@dataclass(frozen=True)
class CurriculumConfig:
    """Short contexts first: only the first examples of each sequence count in the loss, and their number grows."""

    first: Size = 10
    """Examples that count at the first outer step."""
    steps: Count = 0
    """Outer steps over which that number grows linearly to all examples; 0: all count from the start."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the numbers of a meta-training run."""

    data: DataConfig = field(default_factory=DataConfig)
    """The examples; families that make their own data, such as regression, do not use them."""
    family: Any = field(default_factory=ProjectedConfig)
    """The distribution of tasks."""
    learner: Any = field(default_factory=TransformerConfig)
    """The learner that is meta-trained; choose another with --learner NAME."""
    outer_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The outer optimizer."""
    batch: Steps = 64
    """Tasks per outer step."""
    sequences: Steps = 1
    """Sequences per task."""
    gradient: GradientConfig = field(default_factory=GradientConfig)
    """Where meta-gradients come from."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Short contexts first."""
    steps: Steps = 1500
    """Outer steps."""
    steps_per_call: Steps = 25
    """Outer steps per dispatch to the device; results are equal up to rounding."""
    start: Annotated[str, Place(), Existing("run")] | None = None
    """Begin from the meta-parameters of this run's newest checkpoint, as a further phase; None: from fresh ones."""
    seed: Seed = 0
    """The seed of everything random except the tasks, which have family.seed."""
    evaluate_every: Count = 250
    """Outer steps between evaluations on held-out examples."""
    checkpoint_every: Count = 500
    """Outer steps between checkpoints."""
    eval_tasks: Steps = 512
    """Tasks in an evaluation."""
    eval_sequences: Steps = 1
    """Sequences per task in an evaluation."""
    references: tuple[Reference, ...] = REFERENCES
    """Reference learners in the final table and picture."""


def validate(config: TrainConfig) -> None:
    """Refuse what can be refused before data are loaded: values out of range, and fields that do not fit each other.

    Raises:
        ValueError: names the options, what they may be, and what they are.
    """
    check(config)
    check_warmup(config.outer_optimizer, config.steps)
    first, length = config.curriculum.first, config.family.length
    if config.curriculum.steps and first > length:
        raise ValueError(f"--curriculum.first must be at most --family.length, got {first} and {length}")


def free_fields(config: TrainConfig) -> tuple[str, ...]:
    """Fields that may change on resume, since they leave the numbers of the steps already done as they are."""
    looks = ("evaluate_every", "checkpoint_every", "eval_tasks", "eval_sequences", "references")
    free = ("steps_per_call", "data.data_dir", *looks)
    return free if config.outer_optimizer.knows_the_end else ("steps", *free)


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values; learner and family carry their names."""
    values = dataclasses.asdict(config)
    values["family"] = {"name": entry_of(config.family).name, **values["family"]}
    values["gradient"] = config.gradient.to_json()
    values["outer_optimizer"] = config.outer_optimizer.to_json()
    values["learner"] = {"name": learner_name(config.learner), **values["learner"]}
    if not config.curriculum.steps:
        del values["curriculum"]  # so that runs from before there were curricula can be resumed
    if config.data.copies == 1:
        values["data"] = {name: value for name, value in values["data"].items() if name != "copies"}  # the same
    if not values["family"].get("repeats", True):
        del values["family"]["repeats"]  # the same
    return values


def from_json(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that `to_json` wrote.

    Raises:
        RunError: another command wrote it; or fields are missing, unknown or out of range, as when another version
            did.
        UnknownNameError: an unknown learner or family of tasks.
    """
    refuse_other_kinds(values, LEARNER)
    try:
        values = {name: value for name, value in rename_old_fields(values).items() if name != DATA_HASH}
        family, learner = dict(values.pop("family")), dict(values.pop("learner"))
        config = TrainConfig(
            family=family_entry(family.pop("name")).config(**_tuples(family)),
            learner=learner_entry(learner.pop("name")).config(**_tuples(learner)),
            data=DataConfig(**values.pop("data")),
            outer_optimizer=OptimizerConfig(**values.pop("outer_optimizer")),
            gradient=GradientConfig(**values.pop("gradient", {})),
            curriculum=CurriculumConfig(**values.pop("curriculum", {})),
            references=tuple(values.pop("references")),
            **values,
        )
        check(config)
    except UnknownNameError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"the run's configuration was written by another version of metalearn: {error}") from error
    return config


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def rename_old_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of a configuration under the names of today; version 0.1 wrote task, tasks, optimizer, window."""
    values = dict(values)
    if "task" not in values:
        return values
    for old, new in (("task", "family"), ("tasks", "batch"), ("optimizer", "outer_optimizer")):
        values[new] = values.pop(old)
    values["gradient"] = {**values.get("gradient", {}), "window": values.pop("window")}
    return values


def predicts_numbers(config: TrainConfig) -> bool:
    """Whether the labels of its tasks are real numbers, so that scores are squared errors."""
    return entry_of(config.family).regression


def learner_names() -> tuple[str, ...]:
    """The learners that can be meta-trained."""
    return tuple(name for name, entry in LEARNERS.items() if entry.meta_learned)


def with_absolute_places(config: TrainConfig) -> TrainConfig:
    """The same configuration with absolute paths, so that a run finds its data from any working directory."""
    data_dir, start = (
        None if place is None else str(Path(place).expanduser().absolute())
        for place in (config.data.data_dir, config.start)
    )
    data = dataclasses.replace(config.data, source=absolute(config.data.source), data_dir=data_dir)
    return dataclasses.replace(config, data=data, start=start)


def with_learner(config: TrainConfig, name: str) -> TrainConfig:
    """The configuration with another learner in its default size.

    Raises:
        UnknownNameError: with the nearest names.
        ValueError: for a learner in which nothing is meta-learned.
    """
    if name not in LEARNERS:
        raise unknown_name("learner", name, learner_names())
    entry = LEARNERS[name]
    if not entry.meta_learned:
        raise ValueError(
            f"--learner {name} has nothing to meta-train: it is a reference learner, shown by `metalearn evaluate "
            f"RUN --references {name}`; take one of {', '.join(learner_names())}"
        )
    if type(config.learner) is entry.config:
        return config
    return dataclasses.replace(config, learner=entry.config())
