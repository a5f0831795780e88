"""`metalearn plot RUN`: draw a run from its files, finished or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from metalearn.errors import RunError
from metalearn.pictures import save
from metalearn.ranges import PathName
from metalearn.recipes.gpt import run as gpt
from metalearn.recipes.in_context import run as in_context
from metalearn.recipes.kinds import GENERATOR, LEARNER, OPTIMIZER, TABLES, refuse_other_kinds
from metalearn.recipes.learned_optimizer import run as learned_optimizer
from metalearn.recipes.options import read
from metalearn.recipes.tables import run as tables
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics

__all__ = ["PlotCommand", "main"]


_PICTURES = {
    LEARNER: in_context.picture_of,
    TABLES: tables.picture_of,
    OPTIMIZER: learned_optimizer.picture_of,
    GENERATOR: gpt.picture_of,
}


@dataclass(frozen=True)
class PlotCommand:
    """Draw a run from its files, as it draws itself when it ends: its meta-training so far and what it has reached."""

    run: Annotated[PathName, tyro.conf.Positional] = tyro.MISSING
    """Folder of the run."""
    out: PathName | None = None
    """The PNG to write; None: training.png in the run's folder."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: parse, draw, say where."""
    command = read(PlotCommand(), argv, "metalearn plot", "RUN [options]")
    run = open_run(command.run)
    records = read_metrics(run)
    if not records:
        raise RunError(f"{command.run} has no metrics yet: nothing to draw")
    kind = run.config.get("kind")
    if not isinstance(kind, str | None) or kind not in _PICTURES:
        refuse_other_kinds(run.config, LEARNER)
    figure = _PICTURES[kind](run)
    path = save(figure, command.out or command.run / "training.png")
    print(f"picture: {path}")
    if command.json:
        print(json.dumps({"picture": str(path), "run": str(command.run), "steps": records[-1]["step"]}))
