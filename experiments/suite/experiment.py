"""What an experiment on in-context learners is: cells, configurations, what is measured, a rule for the verdict.

An experiment is a list of cells (a seed and whatever it varies), the configuration of the meta-training of each, and
what is measured of its outcome. `experiments.suite.run` runs them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn.recipes.in_context.config import TrainConfig
from metalearn.sweeps import Cell

Row = dict[str, Any]
"""A cell with what was measured of it, side by side."""


class Trained(NamedTuple):
    """A meta-training that has ended, as `Experiment.measure` gets it.

    Attributes:
        config: what was run.
        scores: [tasks, T] of each kind of task, "seen" (or "training") and "unseen"; empty when it was ended early.
        lines: what was logged, see `metalearn.runs.metrics.read_metrics`.
        folder: of the run, with its checkpoints.
    """

    config: TrainConfig
    scores: dict[str, np.ndarray]
    lines: list[dict[str, Any]]
    folder: Path


class Experiment(NamedTuple):
    """An experiment as data; its settings are a frozen dataclass.

    Attributes:
        name: of its file, folder and picture.
        claim: what the paper says, in a sentence.
        presets: settings by name; the first is the default.
        cells: `(settings) -> cells`.
        config: `(settings, cell) -> TrainConfig`.
        measure: `(settings, cell, trained) -> JSON values`, `"value"` among them, which is shown while the sweep goes.
        summarise: `(settings, rows) -> JSON values`, with `"verdict"` (reproduced, not reproduced, beyond, open) and
            `"words"` that say why; rows of cells that failed are missing.
        draw: `(result, path)`, from what is in result.json alone.
        table: `(result) -> text`.
        finished: `(settings, cell, step, numbers) -> bool`, whether a run may end at this evaluation; None: never.
    """

    name: str
    claim: str
    presets: Mapping[str, Any]
    cells: Callable[[Any], Sequence[Cell]]
    config: Callable[[Any, Cell], TrainConfig]
    measure: Callable[[Any, Cell, Trained], Mapping[str, Any]]
    summarise: Callable[[Any, list[Row]], Mapping[str, Any]]
    draw: Callable[[dict[str, Any], Path], None]
    table: Callable[[dict[str, Any]], str]
    finished: Callable[[Any, Cell, int, Mapping[str, float]], bool] | None = None


def load(module: str) -> Experiment:
    """The experiment of a module, `EXPERIMENT` in it."""
    return importlib.import_module(module).EXPERIMENT


def evaluations(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """Steps and numbers of the evaluations in a run's lines, in order."""
    found = []
    for line in lines:
        numbers = {key.removeprefix("eval/"): value for key, value in line.items() if key.startswith("eval/")}
        if numbers:
            found.append((line["step"], numbers))
    return found
