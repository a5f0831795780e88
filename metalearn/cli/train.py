"""`metalearn train`: meta-train a learner, from a preset to a table and a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from metalearn.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.cli.arguments import take
from metalearn.cli.config import PRESETS, TrainConfig, from_json, to_json, with_learner
from metalearn.cli.recipe import (
    LAST,
    Recipe,
    check_references,
    curves,
    curves_as_json,
    initial_state,
    learner_scorers,
    outer_loop,
    prepare,
    score_references,
    table,
)
from metalearn.curves import last_positions
from metalearn.errors import unknown_name
from metalearn.metrics import read_metrics
from metalearn.pictures import draw_learning_curves, draw_training, named, new_figure, save
from metalearn.progress import Progress, Quiet, default_progress
from metalearn.runs import Run, create_run, open_run, resume_run, write_result
from metalearn.training import train as drive
from metalearn.weights import theta_sha256
from metalearn_models.registry import LEARNERS
from metalearn_tasks.regression import RegressionConfig


@dataclass(frozen=True)
class TrainCommand:
    """Meta-train a learner: metalearn train [PRESET] [--learner NAME] [--resume RUN] [options].

    Presets: {presets}. Learners: {learners}. The options below are those of the chosen preset and learner, with
    their defaults.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder of the run; none: runs/PRESET-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def described(command: type) -> str:
    """The docstring of a command, with the names of the presets and of what can be meta-trained in it."""
    learners = ", ".join(name for name, entry in LEARNERS.items() if entry.meta_learned)
    return str(command.__doc__).replace("{presets}", ", ".join(PRESETS)).replace("{learners}", learners)


def free_fields(config: TrainConfig) -> tuple[str, ...]:
    """Fields that may change on resume: those that leave the numbers of the steps already done as they are."""
    looks = ("evaluate_every", "checkpoint_every", "eval_tasks", "eval_sequences", "references")
    free = ("steps_per_call", "data.data_dir", *looks)
    return free if config.optimizer.schedule == "cosine" else ("steps", *free)


def meta_train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    evaluated: Callable[[int, dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Meta-train as configured, in a run's folder; go on from its newest checkpoint if asked to.

    Args:
        config: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        resume: go on from the newest readable checkpoint.
        overwrite: remove an older run in that folder first.
        progress: what a person sees.
        evaluated: called with the outer step and the scores of each evaluation, `unseen_score` and so on, once they
            are on disk. What it raises ends the run, which can be resumed.

    Returns:
        The result (also in the run's result.json): `unseen_accuracy` over the last 10 positions (`unseen_error` in
        regression), `seconds` of this call, `steps`, `theta_sha256`, `run`; and the scores [tasks, T] of every learner.

    Raises:
        RunError: the folder cannot be used as asked.
        ValueError: the configuration does not fit together.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    began = time.monotonic()
    # Everything that can be refused is refused before a folder is made or an older run removed.
    recipe = prepare(config)
    check_references(config.references)
    loop, _ = outer_loop(recipe, config.steps)
    state, scorers = initial_state(recipe, loop), learner_scorers(recipe)
    values = to_json(config)
    if resume:
        run = resume_run(folder, values, free=free_fields(config))
        if checkpoint_steps(run):
            state = restore_checkpoint(run, state)
    else:
        run = create_run(folder, values, free=free_fields(config), overwrite=overwrite)
    if progress is not None:
        progress.note(f"meta-training in {run.folder}")
    loop, per_call = outer_loop(recipe, config.steps - int(state.step))
    state = drive(
        loop.step,
        state,
        recipe.data,
        run,
        steps=config.steps,
        steps_per_call=per_call,
        log_every=max(1, config.steps // 1000),
        checkpoint_every=config.checkpoint_every,
        evaluate=lambda theta: {f"{n}_score": last_positions(f(theta), LAST)[0] for n, f in scorers.items()},
        evaluate_every=config.evaluate_every,
        progress=progress,
        evaluated=evaluated,
    )
    scores = {name: score(state.theta) for name, score in scorers.items()}
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
    draw_run(recipe, run, scores)
    return result, scores


def draw_run(recipe: Recipe, run: Run, scores: dict[str, Any]) -> Path:
    """The picture of a run: learning curves on the left, meta-training on the right."""
    figure, (left, right) = new_figure(columns=2)
    draw_learning_curves(left, named(curves(scores)), recipe.chance)
    draw_training(right, read_metrics(run), recipe.chance)
    path = run.folder / "learning_curves.png"
    save(figure, path)
    return path


def main(argv: Sequence[str]) -> None:
    """The command: parse, meta-train, print."""
    preset, command, resume = parse(list(argv))
    folder = resume or command.run or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    regression = isinstance(command.config.task, RegressionConfig)
    progress = Quiet() if command.quiet else default_progress("squared error" if regression else "accuracy")
    result, scores = meta_train(
        command.config, folder, resume=resume is not None, overwrite=command.overwrite, progress=progress
    )
    print(table(scores, regression))
    print(f"\npicture: {folder / 'learning_curves.png'}\nrun:     {folder} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))


def parse(argv: list[str]) -> tuple[str, TrainCommand, Path | None]:
    """Preset, parsed command and the run to resume, from the words after `metalearn train`.

    The preset, `--learner NAME` and `--resume RUN` decide which options there are, so they are read first.
    """
    resume, learner = take(argv, "--resume"), take(argv, "--learner")
    named = bool(argv) and not argv[0].startswith("-")
    preset = argv.pop(0) if named else "digits"
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    config = PRESETS[preset][1]
    if resume is not None:
        if named or learner is not None:
            raise ValueError("--resume goes on with a run as it was: leave the preset and --learner out")
        config = from_json(open_run(resume).config)
    if learner is not None:
        config = with_learner(config, learner)
    command = tyro.cli(
        TrainCommand,
        default=TrainCommand(config),
        args=argv,
        prog="metalearn train",
        description=described(TrainCommand),
    )
    if resume is not None and (command.run is not None or command.overwrite):
        raise ValueError("--resume goes on in the run's own folder: leave --run and --overwrite out")
    return preset, command, Path(resume) if resume is not None else None
