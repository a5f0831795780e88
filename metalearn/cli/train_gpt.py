"""`metalearn train-gpt`: record checkpoints of many training runs, and train a generator of parameters on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli.arguments import run_folder, take, take_name
from metalearn.cli.processes import connect, help_for
from metalearn.errors import UsageError, unknown_name
from metalearn.outer import use_all_cores
from metalearn.ranges import PathName
from metalearn.recipes.gpt.config import PRESETS, TrainGPTConfig, from_json
from metalearn.recipes.gpt.run import table, train_gpt
from metalearn.recipes.options import read
from metalearn.recipes.outer_optimizer import with_short_warmup
from metalearn.runs.folder import note_from_first, open_run
from metalearn.runs.json_values import finite_or_null
from metalearn.runs.processes import all_do, is_first
from metalearn.runs.progress import Quiet, Silent, default_progress

__all__ = ["TrainGPTCommand", "main", "parse"]


@dataclass(frozen=True)
class TrainGPTCommand:
    """Record checkpoints of many training runs, and train a generator of parameters on them.

    PRESET, the first word, chooses all defaults; without it, mlp. --resume RUN continues a run with its saved
    configuration. The result is a file that metalearn_models.optimizers.load turns into an optax transformation, which
    jumps from the present parameters to ones of a wished loss, and its alignment: how well the achieved losses follow
    the wished ones.

    Presets: {presets}.

    {processes}
    """

    config: Annotated[TrainGPTConfig, tyro.conf.arg(name="")]
    run: PathName | None = None
    """Folder of the run; None: runs/gpt-PRESET-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: parse, record, train, print."""
    words = list(argv)
    if not connect(words):
        use_all_cores()  # before anything that starts JAX
    name, command, resume = all_do(lambda: parse(words))
    progress = Quiet() if command.quiet else default_progress("alignment")
    progress = progress if is_first() else Silent()
    with run_folder(resume or command.run, f"gpt-{name}") as folder:
        result = train_gpt(
            command.config, folder, resume=resume is not None, overwrite=command.overwrite, progress=progress
        )
    if not is_first():
        return
    print(table(result))
    print(f"\npicture: {folder / 'alignment.png'}\nweights: {folder / 'theta.safetensors'}")
    print(f'use:     metalearn_models.optimizers.load("{folder}", prompt=LOSS, jumps=1)')
    print(f"run:     {folder} ({result['seconds']} s, {result['recording_seconds']} s of them for checkpoints)")
    if command.json:
        print(json.dumps(finite_or_null(result)))


def parse(argv: list[str]) -> tuple[str, TrainGPTCommand, Path | None]:
    """The preset, the parsed command and the run to resume."""
    resume, preset = take(argv, "--resume"), take_name(argv)
    name = preset or "mlp"
    if name not in PRESETS:
        raise unknown_name("preset", name, PRESETS)
    config = PRESETS[name][0]
    if resume is not None:
        if preset is not None:
            raise UsageError("--resume continues a run with its saved configuration: remove the preset's name")
        resume = str(Path(resume).expanduser())
        config = from_json(open_run(resume).config)
    described = ", ".join(f"{name} ({text})" for name, (_, text) in PRESETS.items())
    description = str(TrainGPTCommand.__doc__).replace("{presets}", described)
    description = description.replace("{processes}", help_for())
    usage = "[PRESET] [options]\n--resume RUN [options]"
    command = read(TrainGPTCommand(config), argv, "metalearn train-gpt", usage, description)
    if resume is None:
        optimizer = with_short_warmup(
            command.config.outer_optimizer, config.outer_optimizer, command.config.steps, note_from_first
        )
        command = dataclasses.replace(command, config=dataclasses.replace(command.config, outer_optimizer=optimizer))
    if resume is not None and (command.run is not None or command.overwrite):
        raise UsageError("--resume continues in the run's own folder: remove --run and --overwrite")
    return name, command, Path(resume) if resume is not None else None
