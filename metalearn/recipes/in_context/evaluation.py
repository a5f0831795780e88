"""Evaluation of a run: learning curves of its learner on any data set, beside reference learners."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from metalearn.curves import last_positions
from metalearn.errors import DataNotPreparedError
from metalearn.learner import Family, Signature
from metalearn.pictures import draw_learning_curves, new_figure, save_or_note, with_readable_names
from metalearn.ranges import Existing, Place, Seed, Size, Steps, check
from metalearn.recipes.driving import WEIGHTS
from metalearn.recipes.in_context.build import load_data, load_dataset, prepare, read_theta
from metalearn.recipes.in_context.config import (
    DATA_HASH,
    REFERENCES,
    Reference,
    TrainConfig,
    from_json,
    rename_old_fields,
)
from metalearn.recipes.in_context.scoring import (
    LAST,
    curves,
    curves_as_json,
    evaluations,
    score_learner,
    score_references,
)
from metalearn.runs.folder import note_on_stderr, open_run, write_result
from metalearn_models.learners import library
from metalearn_models.learners.averaged import averaged
from metalearn_models.learners.mixed import mixed
from metalearn_models.learners.reference import kernel_ridge
from metalearn_models.learners.registry import build_learner
from metalearn_tasks.datasets import Dataset, absolute, content_sha256
from metalearn_tasks.families.registry import FamilyEntry, entry_of

__all__ = ["Evaluation", "EvaluationConfig", "evaluate"]


@dataclass(frozen=True)
class EvaluationConfig:
    """On which tasks a learner is scored, and beside whom."""

    data: Annotated[str, Place()] | None = None
    """A bundled set, a tensorflow-datasets name or prepared folder, FILE.npz, FILE.csv or FILE.csv:LABEL; None: the
    run's own data."""
    size: Size | None = None
    """With --data: resize images to size x size; None: leave them as they are."""
    pca: Size | None = None
    """With --data: reduce inputs to this many principal components; None: keep all."""
    data_dir: Annotated[str, Place(), Existing("folder")] | None = None
    """Where tensorflow-datasets keeps its prepared sets, also those of the run; None: where the run found them."""
    identity: bool = False
    """Score the unprojected task too; needs inputs of the learner's own width."""
    average: Size = 1
    """Average predictions over this many random rotations of the inputs and permutations of the labels."""
    references: tuple[Reference, ...] = REFERENCES
    """Reference learners on the same episodes."""
    tasks: Steps = 128
    """Tasks, the unit of the intervals."""
    sequences: Steps = 4
    """Sequences per task."""
    seed: Seed = 0
    """Names the episodes."""
    mix_kernel: bool = False
    """Average probabilities, half and half, with those of kernel ridge regression on the same examples."""


_IN_RESULT = ("size", "pca", "identity", "average", "tasks", "sequences", "seed", "mix_kernel")
"""The options that decide an evaluation's numbers, beside its data; they are in its result and in its files' names."""


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
        result: JSON values: the score on unseen tasks, and mean and half width of the interval of every learner.
        scores: [tasks, T] of every learner on every kind of task.
        regression: whether scores are squared errors; they are accuracies otherwise.
    """

    result: dict[str, Any]
    scores: dict[str, Any]
    regression: bool


class _Tasks(NamedTuple):
    title: str
    family: Family
    kinds: dict[str, Any]
    chance: float | None
    dataset: Dataset | None


def evaluate(folder: Path, options: EvaluationConfig) -> Evaluation:
    """Score the learner of a run; writes a JSON file and a picture into its folder.

    Args:
        folder: of the run.
        options: tasks and reference learners.

    Raises:
        ValueError: options that do not fit each other or the run.
        RunError: no run, or none that can be read.
    """
    if options.data is None and (options.size is not None or options.pca is not None):
        raise ValueError("--size and --pca go with --data: the run's own data are as its configuration has them")
    check(options)
    run = open_run(folder, rename_old_fields)
    config = from_json(run.config)
    if options.data_dir is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=options.data_dir))
    entry = entry_of(config.family)
    if entry.transfer is None and (options.data is not None or options.identity):
        raise ValueError(
            f"the run's tasks are of the family {entry.name}, which makes its own data: leave --data and --identity out"
        )
    if options.data is not None and _holds_own_data(options, config, run.config.get(DATA_HASH)):
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=absolute(options.data)))
        options = dataclasses.replace(options, data=None, size=None, pca=None)
        note_on_stderr(f"{config.data.source} holds the data that the run was trained on: its own tasks are scored")
    if options.data is None or not (folder / WEIGHTS).exists():
        try:
            dataset = load_data(config)
        except DataNotPreparedError as error:
            raise DataNotPreparedError(f"{error}; if the run's data have moved, say where with --data") from error
        recipe = prepare(config, dataset)
        signature, learner = recipe.learner.signature, recipe.learner
        title = config.data.source if entry.over_data else _title(entry, config)
        tasks = _Tasks(title, recipe.family, evaluations(recipe), recipe.chance, dataset)
        theta = read_theta(folder, recipe)
    else:  # the weights say what they are for, so that the run's own data need not be here
        tasks, found = None, library.load(folder)
        signature, theta = found.signature, found.theta
        learner = build_learner(signature, found.config)
    if options.data is not None or tasks is None:
        tasks = _transfer(entry, config, options, signature)
    if options.identity and tasks.dataset is not None and tasks.dataset.inputs != signature.inputs:
        raise ValueError(
            f"--identity needs inputs of the learner's width {signature.inputs}, {tasks.title} has "
            f"{tasks.dataset.inputs}: set --size or --pca so that they agree"
        )
    if options.average > 1:
        classes = None if entry.regression else tasks.family.signature.outputs
        learner = averaged(learner, options.average, options.seed, classes)
    if options.mix_kernel:
        if entry.regression:
            raise ValueError("--mix-kernel averages probabilities of classes, and the run's tasks are of real numbers")
        learner = mixed(learner, kernel_ridge(learner.signature), classes=tasks.family.signature.outputs)
    shape = (options.tasks, options.sequences, options.seed)
    scores = score_learner(learner, theta, tasks.family, tasks.kinds, *shape)
    scores |= score_references(options.references, tasks.family, tasks.kinds["unseen"][1], *shape)
    if options.identity and entry.identity is not None and tasks.dataset is not None:
        plain, data = entry.identity(config.family, tasks.dataset)
        kinds = {name: (plain.unseen, values) for name, values in data.items()}
        scores = {**score_learner(learner, theta, plain, kinds, *shape), **scores}
    summary = {name: _mean_and_half(values) for name, values in scores.items()}
    result = {
        "unseen_error" if entry.regression else "unseen_accuracy": summary["unseen"]["mean"],
        "data": tasks.title,
        "run": str(folder),
        **{name: getattr(options, name) for name in _IN_RESULT},
        "last_positions": summary,
    }
    name = tasks.title if Path(tasks.title).name == tasks.title else f".../{Path(tasks.title).name}"
    stem = _stem(options, tasks.title)
    write_result(run, {**result, "curves": curves_as_json(scores)}, f"{stem}.json")
    figure, (ax,) = new_figure()
    draw_learning_curves(ax, with_readable_names(curves(scores)), tasks.chance)
    own = config.data.source if entry.over_data else _title(entry, config)
    trained_on = own if Path(own).name == own else f".../{Path(own).name}"
    ax.set_title(f"run {folder.resolve().name}, meta-trained on {trained_on}; tasks over {name}", fontsize=9)
    save_or_note(figure, folder / f"{stem}.png", note_on_stderr)
    return Evaluation({**result, "picture": str(folder / f"{stem}.png")}, scores, entry.regression)


def _holds_own_data(options: EvaluationConfig, config: TrainConfig, own: str | None) -> bool:
    """Whether `--data` names the place to which the run's own data have moved, prepared as they were."""
    if own is None or options.data is None or absolute(options.data) == config.data.source:
        return False
    asked = (options.size or config.data.size, options.pca or config.data.pca)
    try:
        return asked == (config.data.size, config.data.pca) and content_sha256(options.data) == own
    except OSError:
        return False  # the error comes when it is loaded


def _transfer(entry: FamilyEntry, config: TrainConfig, options: EvaluationConfig, signature: Signature) -> _Tasks:
    """Tasks over another data set."""
    assert options.data is not None and entry.transfer is not None
    source = dataclasses.replace(config.data, source=options.data, size=options.size, pca=options.pca, copies=1)
    dataset = load_dataset(source, "--data", "--")
    made = entry.transfer(config.family, dataset, signature)
    return _Tasks(
        options.data, made.family, {"unseen": (made.family.unseen, made.test_data)}, 1.0 / dataset.classes, dataset
    )


def _title(entry: FamilyEntry, config: TrainConfig) -> str:
    return entry.title(config.family) if entry.title else entry.name


def _stem(options: EvaluationConfig, title: str) -> str:
    """The name of an evaluation's files; evaluations with other options have other names."""
    # Not every file system and no path with a drive takes a colon, as FILE.csv:LABEL has.
    defaults, parts = EvaluationConfig(), [f"evaluate-{Path(title).name.replace(':', '-')}"]
    for name in _IN_RESULT:
        value = getattr(options, name)
        if value != getattr(defaults, name):
            parts.append(name if value is True else f"{name}{value}")
    if options.data is not None and Path(options.data).name != options.data:  # two folders may have one name
        parts.append(hashlib.sha256(str(Path(options.data).resolve()).encode()).hexdigest()[:6])
    return "-".join(parts)


def _mean_and_half(scores: Any) -> dict[str, float | None]:
    mean, half = last_positions(scores, LAST)
    return {"mean": mean, "half": half if np.isfinite(half) else None}
