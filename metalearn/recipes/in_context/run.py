"""Meta-training of an in-context learner, from a configuration to results in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.curves import Curve, last_positions
from metalearn.errors import DataNotPreparedError
from metalearn.pictures import draw_learning_curves, draw_training, new_figure, save_or_note, with_readable_names
from metalearn.recipes.driving import drive
from metalearn.recipes.in_context.build import Recipe, prepare
from metalearn.recipes.in_context.config import DATA_HASH, TrainConfig, from_json, predicts_numbers
from metalearn.recipes.in_context.scoring import (
    LAST,
    check_references,
    curves_as_json,
    learner_scorers,
    score_references,
)
from metalearn.runs.folder import Run, note_from_first, open_run, write_result
from metalearn.runs.metrics import read_metrics
from metalearn.runs.processes import is_first
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256

__all__ = ["meta_train", "picture_of", "what_scores_are"]


def meta_train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    evaluated: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta-train as configured, in a run's folder; continue from its newest checkpoint if asked to.

    Args:
        config: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        resume: continue from the newest readable checkpoint.
        overwrite: remove an older run in that folder first.
        progress: what a person sees.
        evaluated: called with the outer step and the scores of each evaluation, `unseen_score` and so on, once they
            are on disk. What it raises ends the run, which can be resumed.

    Returns:
        The result (also in the run's result.json): `unseen_accuracy` over the last 10 positions (`unseen_error` in
        regression), `seconds` of this call, `steps`, `theta_sha256`, `run`; and the scores [tasks, T] of every learner.
        With several processes, those but the first return `steps`, `theta_sha256` and `run`, and no scores.

    Raises:
        RunError: the folder cannot be used as asked.
        ValueError: the configuration does not fit together.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    began = time.monotonic()
    note = note_from_first if progress is None else progress.note
    recipe = _prepare_again(config, folder, note) if resume else prepare(config)
    check_references(config.references)
    scorers, newest = learner_scorers(recipe), dict[str, Any]()

    def evaluate(theta: Any) -> dict[str, Any]:
        newest.update({name: score(theta) for name, score in scorers.items()})
        return {f"{name}_score": last_positions(value, LAST)[0] for name, value in newest.items()}

    run, state = drive(
        recipe.training,
        folder,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
        evaluated=evaluated,
    )
    if not is_first():
        return {"steps": int(state.step), "theta_sha256": theta_sha256(state.theta), "run": str(run.folder)}, {}
    if not newest:  # every run that makes a step is evaluated after its last one
        evaluate(state.theta)
    scores = dict(newest)
    shape = (config.eval_tasks, config.eval_sequences, config.seed)
    scores |= score_references(config.references, recipe.family, recipe.test_data, *shape)
    result = {
        "unseen_accuracy" if recipe.chance is not None else "unseen_error": last_positions(scores["unseen"], LAST)[0],
        "seconds": round(time.monotonic() - began, 1),
        "steps": int(state.step),
        "theta_sha256": theta_sha256(state.theta),
        "run": str(run.folder),
    }
    write_result(run, {**result, "chance": recipe.chance, "curves": curves_as_json(scores)})
    save_or_note(picture_of(run), run.folder / "learning_curves.png", note)
    return result, scores


def _prepare_again(config: TrainConfig, folder: Path, note: Callable[[str], None]) -> Recipe:
    """The recipe of a run to resume, whose data may have moved since."""
    try:
        recipe = prepare(config)
    except DataNotPreparedError as error:
        raise DataNotPreparedError(f"{error}; if the run's data have moved, add --data.source PLACE") from error
    before = from_json(open_run(folder).config).data.source
    if config.data.source != before and DATA_HASH in recipe.training.config:
        note(f"the data of the run were at {before} and are now at {config.data.source}")
    return recipe


def what_scores_are(config: TrainConfig) -> tuple[str, int]:
    """What the scores of evaluations are, and how many positions, the last of a sequence, they are means over."""
    return "squared error" if predicts_numbers(config) else "accuracy", min(LAST, config.family.length)


def picture_of(run: Run) -> Any:
    """A figure of a run, from its files: learning curves on the left if it has ended, and meta-training so far.

    Raises:
        RunError: the run is of another kind.
    """
    measured, records = what_scores_are(from_json(run.config)), read_metrics(run)
    if not run.result.exists():
        figure, (right,) = new_figure()
        draw_training(right, records, None, *measured)
        return figure
    result = json.loads(run.result.read_text())
    found = {n: Curve(*(np.asarray(c[f], np.float64) for f in Curve._fields)) for n, c in result["curves"].items()}
    figure, (left, right) = new_figure(columns=2)
    draw_learning_curves(left, with_readable_names(found), result["chance"])
    draw_training(right, records, result["chance"], *measured)
    return figure
