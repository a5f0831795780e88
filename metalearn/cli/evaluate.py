"""`metalearn evaluate RUN`: learning curves of a meta-trained learner on any data set, beside reference learners."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from metalearn.ranges import PathName
from metalearn.recipes.in_context.evaluation import EvaluationConfig, evaluate
from metalearn.recipes.in_context.scoring import table
from metalearn.recipes.options import read

__all__ = ["EvaluateCommand", "main"]


@dataclass(frozen=True)
class EvaluateCommand:
    """Learning curves of a run's learner on unseen tasks, with 95 % intervals over tasks.

    Without --data: the tasks it was meta-trained on. With --data: projections of another data set to the width of the
    learner, and with --identity its unprojected inputs too.
    """

    run: Annotated[PathName, tyro.conf.Positional] = tyro.MISSING
    """Folder of the run."""
    options: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)
    json: bool = False
    """Print one JSON object as the last line."""


def main(argv: Sequence[str]) -> None:
    """The command: parse, evaluate, print."""
    command = read(EvaluateCommand(), argv, "metalearn evaluate", "RUN [options]")
    found = evaluate(command.run, command.options)
    print(table(found.scores, found.regression))
    print(f"\npicture: {found.result['picture']}")
    if command.json:
        print(json.dumps(found.result))
