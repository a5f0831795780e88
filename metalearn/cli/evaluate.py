"""`metalearn evaluate RUN`: learning curves of a meta-trained learner on any data set, beside reference learners."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from metalearn.cli.config import REFERENCES, from_json
from metalearn.cli.recipe import (
    LAST,
    curves,
    evaluations,
    identity_kinds,
    load_data,
    prepare,
    restore_theta,
    score_learner,
    score_references,
    table,
)
from metalearn.curves import last_positions
from metalearn.pictures import draw_learning_curves, new_figure, save
from metalearn.runs import open_run, write_result
from metalearn_models.averaged import averaged
from metalearn_tasks.projected import ProjectedConfig, projected, projected_data


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
    """Resize images to size x size; none: as the run did, for images."""
    pca: int | None = None
    """Reduce inputs to this many principal components; none: as the run did, where the data are wide enough."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its prepared sets."""
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
    run = open_run(command.run)
    config = from_json(run.config)
    recipe = prepare(config)
    theta = restore_theta(command.run)
    name = command.data or config.data.source
    if recipe.chance is None:
        if command.data is not None:
            raise ValueError("a regression learner makes its own data: leave --data out")
        family, kinds, dataset, name = recipe.family, evaluations(recipe), None, config.task.kind
    elif command.data is None:
        family, kinds, dataset = recipe.family, evaluations(recipe), load_data(config.data)
    else:
        wanted = dataclasses.replace(
            config.data,
            source=command.data,
            size=command.size,
            pca=command.pca,
            data_dir=command.data_dir or config.data.data_dir,
        )
        dataset = load_data(wanted)
        task = dataclasses.replace(config.task, project_to=recipe.learner.signature.inputs)
        family = projected(dataset.inputs, dataset.classes, task)
        kinds = {"unseen": (family.unseen, projected_data(*dataset.test))}
    learner = recipe.learner if command.average == 1 else averaged(recipe.learner, command.average, command.seed)
    shape = (command.tasks, command.sequences, command.seed)
    scores = score_learner(learner, theta, family, kinds, *shape)
    scores |= score_references(command.references, family, kinds["unseen"][1], *shape)
    if command.identity:
        if dataset is None or not isinstance(config.task, ProjectedConfig):
            raise ValueError("--identity is for projected classification")
        width = recipe.learner.signature.inputs
        if dataset.inputs != width:
            raise ValueError(
                f"--identity needs inputs of the learner's width {width}, {name} has {dataset.inputs}: "
                f"set --size or --pca so that they agree"
            )
        plain, identity = identity_kinds(dataset, dataclasses.replace(config.task, project_to=None))
        extra = score_learner(learner, theta, plain, identity, *shape)
        scores = {**extra, **scores}
    regression = recipe.chance is None
    label = "unseen_error" if regression else "unseen_accuracy"
    summary = {n: dict(zip(("mean", "half"), last_positions(s, LAST), strict=True)) for n, s in scores.items()}
    result = {
        label: summary["unseen"]["mean"],
        "data": name,
        "run": str(command.run),
        "average": command.average,
        "last_positions": summary,
    }
    stem = "evaluate-" + Path(name).name
    chance = None if regression or dataset is None else 1.0 / dataset.classes
    figure, (ax,) = new_figure()
    draw_learning_curves(ax, curves(scores), chance)
    ax.set_title(f"{Path(name).name}, learner meta-trained on {Path(config.data.source).name}", fontsize=9)
    save(figure, command.run / f"{stem}.png")
    write_result(
        run,
        {**result, "curves": {n: c.mean.tolist() for n, c in curves(scores).items()}},
        f"{stem}.json",
    )
    return {**result, "picture": str(command.run / f"{stem}.png")}, scores, regression


def main(argv: Sequence[str]) -> None:
    """The command: parse, evaluate, print."""
    command = tyro.cli(EvaluateCommand, args=list(argv), prog="metalearn evaluate")
    result, scores, regression = evaluate(command)
    print(table(scores, regression))
    print(f"\npicture: {result['picture']}")
    if command.json:
        print(json.dumps(result))
