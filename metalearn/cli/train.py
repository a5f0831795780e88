"""`metalearn train`: meta-train a learner, from a preset to a table and a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli import train_tables
from metalearn.cli.arguments import describe, run_folder, take, take_name, take_preset
from metalearn.cli.processes import connect, help_for
from metalearn.errors import UsageError
from metalearn.outer import use_all_cores
from metalearn.ranges import PathName
from metalearn.recipes.in_context.config import (
    TrainConfig,
    free_fields,
    from_json,
    predicts_numbers,
    with_absolute_places,
)
from metalearn.recipes.in_context.run import meta_train
from metalearn.recipes.in_context.scoring import table
from metalearn.recipes.options import read
from metalearn.recipes.outer_optimizer import with_short_warmup
from metalearn.runs.folder import note_from_first, note_on_stderr, open_run
from metalearn.runs.processes import all_do, is_first
from metalearn.runs.progress import Quiet, Silent, default_progress

__all__ = ["TrainCommand", "main", "parse"]


@dataclass(frozen=True)
class TrainCommand:
    """Meta-train a learner, from a preset to a table and a picture.

    PRESET, the first word, chooses the data and all defaults; without it, digits. --learner NAME takes another learner
    in its default size. --resume RUN continues a run with its saved configuration. The options below are those of the
    chosen preset and learner, with their defaults.

    Presets: {presets}.

    `metalearn train tables` meta-trains a Transformer for tables and has options of its own: `metalearn train tables
    --help`.

    Learners: {learners}.

    {processes}
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: PathName | None = None
    """Folder of the run; None: runs/PRESET-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: parse, meta-train, print."""
    words = list(argv)
    if train_tables.is_meant(words):
        train_tables.main(words)
        return
    if connect(words):
        name, command, resume = all_do(lambda: parse(words, note_from_first))
    else:
        name, command, resume = parse(words)
        if command.config.gradient.method != "backprop":
            use_all_cores()  # before anything that starts JAX
    regression = predicts_numbers(command.config)
    progress = Quiet() if command.quiet else default_progress("squared error" if regression else "accuracy")
    progress = progress if is_first() else Silent()
    with run_folder(resume or command.run, name) as folder:
        result, scores = meta_train(
            command.config, folder, resume=resume is not None, overwrite=command.overwrite, progress=progress
        )
    if not is_first():
        return
    print(table(scores, regression))
    print(f"\npicture: {folder / 'learning_curves.png'}\nrun:     {folder} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))


def parse(argv: list[str], note: Callable[[str], None] = note_on_stderr) -> tuple[str, TrainCommand, Path | None]:
    """The preset's name, the parsed command and the run to resume, from the words after `metalearn train`.

    `note` is called with a sentence where the usual warm-up does not fit.

    Raises:
        UnknownNameError: there is no such preset or learner.
        UsageError: an option that cannot be read, or options that do not go together.
        RunError: there is no run to resume.
    """
    resume = take(argv, "--resume")
    if resume is None:
        name, config = take_preset(argv)
    else:
        if take(argv, "--learner") is not None or take_name(argv) is not None:
            raise UsageError("--resume continues a run with its saved configuration: remove the preset and --learner")
        resume = str(Path(resume).expanduser())
        name, config = "", from_json(open_run(resume).config)
    usage = "[PRESET] [--learner NAME] [options]\n--resume RUN [options]"
    command = read(
        TrainCommand(config), argv, "metalearn train", usage, describe(TrainCommand).replace("{processes}", help_for())
    )
    if resume is None:
        optimizer = with_short_warmup(
            command.config.outer_optimizer, config.outer_optimizer, command.config.steps, note
        )
        command = dataclasses.replace(command, config=dataclasses.replace(command.config, outer_optimizer=optimizer))
    if resume is not None and command.config.steps != config.steps and "steps" not in free_fields(config):
        raise UsageError(
            f"--steps must stay {config.steps}: --outer-optimizer.schedule {config.outer_optimizer.schedule} is "
            f"computed from it, got {command.config.steps}. To train further, begin a run "
            f"from this one with --start {resume}"
        )
    if resume is not None and (command.run is not None or command.overwrite):
        raise UsageError("--resume continues in the run's own folder: remove --run and --overwrite")
    command = dataclasses.replace(command, config=with_absolute_places(command.config))
    return name, command, None if resume is None else Path(resume)
