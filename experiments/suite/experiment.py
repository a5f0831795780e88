"""What an experiment on in-context learners is: cells, configurations, what is measured, a rule for the verdict.

An experiment is a list of cells (a seed and whatever it varies), the configuration of the meta-training of each cell,
and what is measured of its outcome. `experiments.suite.run` runs experiments.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metalearn.recipes.in_context.config import TrainConfig
from metalearn.sweeps import Cell

__all__ = ["Experiment", "Row", "Trained", "load", "read_evaluations"]

Row = dict[str, Any]
"""A cell and what was measured of it, in one dict."""


class Trained(NamedTuple):
    """A meta-training that has ended, as `Experiment.measure` receives it.

    Attributes:
        config: its configuration.
        scores: [tasks, T] for each kind of task, "seen" (or "training") and "unseen"; empty if it was ended early.
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
        name: of the experiment in the catalogue, of its folder and of its picture.
        claim: what the paper says, in one sentence.
        presets: settings by name; the first is the default.
        cells: `(settings) -> cells`.
        config: `(settings, cell) -> TrainConfig`.
        measure: `(settings, cell, trained) -> JSON values`. `"value"` among them is shown during the sweep.
        summarise: `(settings, rows) -> JSON values`, with `"verdict"` (reproduced, not reproduced, beyond, open) and
            `"words"` that give the reasons. Cells that failed have no row.
        draw: `(result, path)`, draws the picture from result.json alone.
        table: `(result) -> text`.
        is_finished: `(settings, cell, step, numbers) -> bool`, whether a run may end at this evaluation. None: no run
            ends early.
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
    is_finished: Callable[[Any, Cell, int, Mapping[str, float]], bool] | None = None


def load(module: str) -> Experiment:
    """The `EXPERIMENT` of a module."""
    return importlib.import_module(module).EXPERIMENT


def read_evaluations(lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """The steps and the numbers of the evaluations in a run's lines, in order."""
    evaluations = []
    for line in lines:
        numbers = {key.removeprefix("eval/"): value for key, value in line.items() if key.startswith("eval/")}
        if numbers:
            evaluations.append((line["step"], numbers))
    return evaluations
