"""`metalearn train`: meta-train a learner, from a preset to a table and a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli.arguments import take
from metalearn.errors import unknown_name
from metalearn.recipes.in_context.config import TrainConfig, from_json, with_learner
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.run import meta_train
from metalearn.recipes.in_context.scoring import (
    table,
)
from metalearn.runs.folder import open_run
from metalearn.runs.progress import Quiet, default_progress
from metalearn_models.learners.registry import LEARNERS
from metalearn_tasks.families.regression import RegressionConfig


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


def main(argv: Sequence[str]) -> None:
    """The command: parse, meta-train, print."""
    preset, command, resume = parse(list(argv))
    folder = resume or command.run or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    regression = isinstance(command.config.family, RegressionConfig)
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
