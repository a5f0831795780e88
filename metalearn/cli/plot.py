"""`metalearn plot RUN`: draw a run from its files, finished or not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import tyro

from metalearn.curves import Curve
from metalearn.errors import RunError
from metalearn.pictures import (
    draw_learning_curves,
    draw_meta_loss,
    draw_training,
    new_figure,
    save,
    with_readable_names,
)
from metalearn.ranges import PathName
from metalearn.recipes.in_context.config import from_json
from metalearn.recipes.in_context.run import what_scores_are
from metalearn.recipes.options import read
from metalearn.runs.folder import open_run
from metalearn.runs.metrics import read_metrics

__all__ = ["PlotCommand", "main"]


@dataclass(frozen=True)
class PlotCommand:
    """Draw a run from its files: its meta-training so far and, of a learner that has ended, its learning curves."""

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
    if "kind" in run.config:  # an optimizer, a learner of tables or a generator: no learning curves
        figure, (ax,) = new_figure()
        draw_meta_loss(ax, records)
    elif run.result.exists():  # finished: its learning curves are known
        result = json.loads(run.result.read_text())
        figure, (left, right) = new_figure(columns=2)
        found = {
            name: Curve(*(np.asarray(c[f], np.float64) for f in Curve._fields)) for name, c in result["curves"].items()
        }
        draw_learning_curves(left, with_readable_names(found), result["chance"])
        draw_training(right, records, result["chance"], *what_scores_are(from_json(run.config)))
    else:
        figure, (right,) = new_figure()
        draw_training(right, records, None, *what_scores_are(from_json(run.config)))
    path = save(figure, command.out or command.run / "training.png")
    print(f"picture: {path}")
    if command.json:
        print(json.dumps({"picture": str(path), "run": str(command.run), "steps": records[-1]["step"]}))
