"""`metalearn evaluate RUN`: learning curves of a meta-trained learner on any data set, beside reference learners."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from metalearn.curves import last_positions
from metalearn.pictures import draw_learning_curves, new_figure, save
from metalearn.recipes.in_context.build import load_data, prepare, restore_theta
from metalearn.recipes.in_context.config import REFERENCES, from_json
from metalearn.recipes.in_context.scoring import (
    LAST,
    check_references,
    curves,
    curves_as_json,
    evaluations,
    identity_kinds,
    score_learner,
    score_references,
    table,
)
from metalearn.runs.folder import open_run, write_result
from metalearn_models.learners.averaged import averaged
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data
from metalearn_tasks.families.regression import RegressionConfig


@dataclass(frozen=True)
class EvaluateCommand:
    """Learning curves of a run's learner on unseen tasks, with 95 % intervals over tasks.

    Without --data: the tasks it was meta-trained on. With it: projections of another data set, to the width the
    learner was built for, and with --identity its unprojected inputs too.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    data: str | None = None
    """A bundled set, a tensorflow-datasets name, or a prepared folder; none: the run's own."""
    size: int | None = None
    """With --data: resize images to size x size; none: leave them."""
    pca: int | None = None
    """With --data: reduce inputs to this many principal components; none: keep all."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its prepared sets, also those of the run; none: where the run found them."""
    identity: bool = False
    """Score the unprojected task too; needs inputs of the learner's own width."""
    average: int = 1
    """Average the learner over this many random rotations of its inputs and permutations of the labels."""
    references: tuple[str, ...] = REFERENCES
    """Reference learners on the same episodes."""
    tasks: int = 128
    """Tasks, the unit of the intervals."""
    sequences: int = 4
    """Sequences a task."""
    seed: int = 0
    """Names the episodes."""
    json: bool = False
    """Print one JSON object as the last line."""


def evaluate(command: EvaluateCommand) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """The result, the scores [tasks, T] of every learner, and whether it is regression. Writes result and picture."""
    if command.data is None and (command.size is not None or command.pca is not None):
        raise ValueError("--size and --pca go with --data: the run's own data are as its configuration has them")
    check_references(command.references)
    run = open_run(command.run)
    config = from_json(run.config)
    if command.data_dir is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=command.data_dir))
    dataset = load_data(config.data) if isinstance(config.family, ProjectedConfig) else None
    recipe = prepare(config, dataset)
    theta, signature = restore_theta(command.run, recipe), recipe.learner.signature
    family, kinds, name, task = recipe.family, evaluations(recipe), config.data.source, config.family
    if isinstance(task, RegressionConfig):
        if command.data is not None or command.identity:
            raise ValueError("a regression learner makes its own data: leave --data and --identity out")
        name = task.kind
    elif command.data is not None:
        name = command.data
        dataset = load_data(dataclasses.replace(config.data, source=name, size=command.size, pca=command.pca))
        # A small set gives shorter sequences, each example still at most once.
        length = min(task.length, len(dataset.test.labels))
        task = dataclasses.replace(task, project_to=signature.inputs, length=length)
        family = projected(dataset.inputs, dataset.classes, task)
        kinds = {"unseen": (family.unseen, projected_data(*dataset.test))}
    if command.identity and dataset is not None and dataset.inputs != signature.inputs:
        raise ValueError(
            f"--identity needs inputs of the learner's width {signature.inputs}, {name} has {dataset.inputs}: "
            f"set --size or --pca so that they agree"
        )
    learner = recipe.learner if command.average == 1 else averaged(recipe.learner, command.average, command.seed)
    shape = (command.tasks, command.sequences, command.seed)
    scores = score_learner(learner, theta, family, kinds, *shape)
    scores |= score_references(command.references, family, kinds["unseen"][1], *shape)
    if command.identity and dataset is not None and isinstance(task, ProjectedConfig):
        plain, identity = identity_kinds(dataset, dataclasses.replace(task, project_to=None))
        scores = {**score_learner(learner, theta, plain, identity, *shape), **scores}
    regression = recipe.chance is None
    label = "unseen_error" if regression else "unseen_accuracy"
    summary = {n: _mean_and_half(s) for n, s in scores.items()}
    result = {
        label: summary["unseen"]["mean"],
        "data": name,
        "run": str(command.run),
        "average": command.average,
        "last_positions": summary,
    }
    stem = "evaluate-" + Path(name).name + (f"-average{command.average}" if command.average > 1 else "")
    chance = None if regression or dataset is None else 1.0 / dataset.classes
    figure, (ax,) = new_figure()
    draw_learning_curves(ax, curves(scores), chance)
    ax.set_title(f"{Path(name).name}, learner meta-trained on {Path(config.data.source).name}", fontsize=9)
    save(figure, command.run / f"{stem}.png")
    write_result(
        run,
        {**result, "curves": curves_as_json(scores)},
        f"{stem}.json",
    )
    return {**result, "picture": str(command.run / f"{stem}.png")}, scores, regression


def _mean_and_half(scores: Any) -> dict[str, float | None]:
    mean, half = last_positions(scores, LAST)
    return {"mean": mean, "half": half if np.isfinite(half) else None}


def main(argv: Sequence[str]) -> None:
    """The command: parse, evaluate, print."""
    command = tyro.cli(EvaluateCommand, args=list(argv), prog="metalearn evaluate")
    result, scores, regression = evaluate(command)
    print(table(scores, regression))
    print(f"\npicture: {result['picture']}")
    if command.json:
        print(json.dumps(result))
