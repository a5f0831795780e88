"""`metalearn train-optimizer`: meta-train a learned optimizer, from a name to weights, a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli.arguments import run_folder, take, take_name
from metalearn.cli.processes import connect, help_for
from metalearn.errors import UsageError
from metalearn.outer import use_all_cores
from metalearn.ranges import PathName
from metalearn.recipes.learned_optimizer.config import TrainOptimizerConfig, from_json, optimizer_names, recommended
from metalearn.recipes.learned_optimizer.run import meta_train, table
from metalearn.recipes.options import read
from metalearn.runs.folder import open_run
from metalearn.runs.json_values import finite_or_null
from metalearn.runs.processes import all_do, is_first
from metalearn.runs.progress import Quiet, Silent, default_progress

__all__ = ["TrainOptimizerCommand", "main", "parse"]


@dataclass(frozen=True)
class TrainOptimizerCommand:
    """Meta-train a learned optimizer, from a name to weights, a table and a picture.

    OPTIMIZER, the first word, chooses what is learned and all defaults; without it, small-fc. --resume RUN continues a
    run with its saved configuration. The result is a file that metalearn_models.optimizers.load turns into an optax
    transformation, and a comparison with hand-designed optimizers whose learning rates are tuned.

    Optimizers: {optimizers}.

    {processes}
    """

    config: Annotated[TrainOptimizerConfig, tyro.conf.arg(name="")]
    run: PathName | None = None
    """Folder of the run; None: runs/OPTIMIZER-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: parse, meta-train, print."""
    words = list(argv)
    if not connect(words):
        use_all_cores()  # before anything that starts JAX
    command, resume = all_do(lambda: parse(words))
    name = command.config.optimizer
    progress = Quiet() if command.quiet else default_progress("loss")
    progress = progress if is_first() else Silent()
    with run_folder(resume or command.run, name) as folder:
        result = meta_train(
            command.config, folder, resume=resume is not None, overwrite=command.overwrite, progress=progress
        )
    if not is_first():
        return
    print(table(result, name))
    print(f"\npicture: {folder / 'training_curves.png'}\nweights: {folder / 'theta.safetensors'}")
    print(f'use:     metalearn_models.optimizers.load("{folder}", num_steps=STEPS)')
    print(f"run:     {folder} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(finite_or_null(result)))


def parse(argv: list[str]) -> tuple[TrainOptimizerCommand, Path | None]:
    """The parsed command and the run to resume; optimizer and run decide which options there are."""
    resume, optimizer = take(argv, "--resume"), take_name(argv)
    if resume is None:
        config = recommended(optimizer or "small-fc")
    elif optimizer is not None:
        raise UsageError("--resume continues a run with its saved configuration: remove the optimizer's name")
    else:
        resume = str(Path(resume).expanduser())
        config = from_json(open_run(resume).config)
    description = str(TrainOptimizerCommand.__doc__).replace("{optimizers}", ", ".join(optimizer_names()))
    description = description.replace("{processes}", help_for())
    usage = "[OPTIMIZER] [options]\n--resume RUN [options]"
    command = read(TrainOptimizerCommand(config), argv, "metalearn train-optimizer", usage, description)
    if resume is not None and (command.run is not None or command.overwrite):
        raise UsageError("--resume continues in the run's own folder: remove --run and --overwrite")
    return command, Path(resume) if resume is not None else None
