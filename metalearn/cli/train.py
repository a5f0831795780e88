"""`metalearn train`: meta-train a learner, from a preset to a table and a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli.arguments import describe, take, take_name, take_preset
from metalearn.recipes.in_context.config import TrainConfig, from_json, predicts_numbers
from metalearn.recipes.in_context.run import meta_train
from metalearn.recipes.in_context.scoring import table
from metalearn.runs.folder import open_run
from metalearn.runs.progress import Quiet, default_progress

__all__ = ["TrainCommand", "main", "parse"]


@dataclass(frozen=True)
class TrainCommand:
    """Meta-train a learner: metalearn train [PRESET] [--learner NAME] [--resume RUN] [options].

    Presets: {presets}. Learners: {learners}. The options below are those of the chosen preset and learner, with
    their defaults.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """Folder of the run; None: runs/PRESET-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: parse, meta-train, print."""
    name, command, resume = parse(list(argv))
    folder = resume or command.run or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    regression = predicts_numbers(command.config)
    progress = Quiet() if command.quiet else default_progress("squared error" if regression else "accuracy")
    result, scores = meta_train(
        command.config, folder, resume=resume is not None, overwrite=command.overwrite, progress=progress
    )
    print(table(scores, regression))
    print(f"\npicture: {folder / 'learning_curves.png'}\nrun:     {folder} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))


def parse(argv: list[str]) -> tuple[str, TrainCommand, Path | None]:
    """The preset's name, the parsed command and the run to resume, from the words after `metalearn train`.

    Raises:
        UnknownNameError: there is no such preset or learner.
        ValueError: options that do not go together.
        RunError: there is no run to resume.
    """
    resume = take(argv, "--resume")
    if resume is None:
        name, config = take_preset(argv)
    else:
        if take(argv, "--learner") is not None or take_name(argv) is not None:
            raise ValueError("--resume continues a run with its saved configuration: remove the preset and --learner")
        name, config = "", from_json(open_run(resume).config)
    command = tyro.cli(
        TrainCommand,
        default=TrainCommand(config),
        args=argv,
        prog="metalearn train",
        description=describe(TrainCommand),
    )
    if resume is not None and (command.run is not None or command.overwrite):
        raise ValueError("--resume continues in the run's own folder: remove --run and --overwrite")
    return name, command, None if resume is None else Path(resume)
