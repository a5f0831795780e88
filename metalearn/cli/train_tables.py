"""`metalearn train tables`: meta-train a Transformer for tables, to a table of results and a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from metalearn.cli.arguments import run_folder, take
from metalearn.cli.processes import connect, help_for
from metalearn.errors import UsageError
from metalearn.ranges import PathName
from metalearn.recipes.kinds import TABLES
from metalearn.recipes.options import read
from metalearn.recipes.outer_optimizer import with_short_warmup
from metalearn.recipes.tables import feed
from metalearn.recipes.tables.config import TrainTablesConfig
from metalearn.recipes.tables.run import from_json, is_tables_run, meta_train_tables, table
from metalearn.runs.folder import note_from_first, open_run
from metalearn.runs.processes import all_do, is_first
from metalearn.runs.progress import Quiet, Silent, default_progress

__all__ = ["TrainTablesCommand", "is_meant", "main", "parse"]


@dataclass(frozen=True)
class TrainTablesCommand:
    """Meta-train a Transformer for tables on synthetic tables.

    These have {shapes} and 2 to --prior.classes classes. It is
    scored on scikit-learn's bundled sets while it trains. The run's folder can be given to
    InContextClassifier(weights=RUN). --resume RUN continues a run; --steps may change then as long as the learning rate
    has not begun to fall.

    {processes}
    """

    config: Annotated[TrainTablesConfig, tyro.conf.arg(name="")] = field(default_factory=TrainTablesConfig)
    run: PathName | None = None
    """Folder of the run; None: runs/tables-DATE-TIME."""
    overwrite: bool = False
    """Remove an older run in that folder first."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def is_meant(argv: Sequence[str]) -> bool:
    """Whether the words after `metalearn train` begin such a run, or resume one."""
    words = list(argv)
    if words[:1] == [TABLES]:
        return True
    if not any(word.partition("=")[0] == "--resume" for word in words):
        return False
    resume = take(words, "--resume")
    if resume is None:
        return False
    folder = Path(resume).expanduser()
    return (folder / "config.json").is_file() and is_tables_run(open_run(folder).config)


def main(argv: Sequence[str]) -> None:
    """The command: parse the words after `metalearn train`, meta-train, print.

    Raises:
        UsageError: an option that cannot be read, or options that do not go together.
        RunError: the run to resume, or the folder, cannot be used.
    """
    words = list(argv)
    connect(words)
    command, folder = all_do(lambda: parse(words))
    progress = Quiet() if command.quiet else default_progress()
    progress = progress if is_first() else Silent()
    with run_folder(folder or command.run, TABLES) as place:
        result, scores = meta_train_tables(
            command.config, place, resume=folder is not None, overwrite=command.overwrite, progress=progress
        )
    if not is_first():
        return
    print(table(scores))
    print(f"\npicture: {place / 'tables.png'}\nrun:     {place} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))


def parse(words: list[str]) -> tuple[TrainTablesCommand, Path | None]:
    """The parsed command and the run to resume, from the words after `metalearn train`."""
    resume = take(words, "--resume")
    if words[:1] == [TABLES]:
        words.pop(0)
    folder = None if resume is None else Path(resume).expanduser()
    config = TrainTablesConfig() if folder is None else from_json(open_run(folder).config)
    description = str(TrainTablesCommand.__doc__).replace("{processes}", help_for()).replace("{shapes}", _shapes())
    usage = "[options]\n--resume RUN [options]"
    command = read(TrainTablesCommand(config), words, "metalearn train tables", usage, description)
    if folder is None:
        optimizer = with_short_warmup(command.config.optimizer, config.optimizer, command.config.steps, note_from_first)
        command = dataclasses.replace(command, config=dataclasses.replace(command.config, optimizer=optimizer))
    if folder is not None and (command.run is not None or command.overwrite):
        raise UsageError("--resume continues in the run's own folder: remove --run and --overwrite")
    return command, folder


def _shapes() -> str:
    rows, columns = [shape.train for shape in feed.SHAPES], [shape.columns for shape in feed.SHAPES]
    return f"{min(rows)} to {max(rows)} training rows, {min(columns)} to {max(columns)} columns"
