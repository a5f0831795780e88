"""What a sweep has come to so far: one record a cell, in the order of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from metalearn.sweeps.plan import Cell
from metalearn.sweeps.study import Sweep, failure, trials_by_cell

State = Literal["waiting", "running", "done", "stopped early", "failed"]
ENDED = ("done", "stopped early", "failed")
"""States of cells that nobody will go on with by himself."""


class Record(NamedTuple):
    """A cell and what is known of it.

    Attributes:
        name: the cell's.
        cell: its values.
        state: how far it is.
        value: what it is compared by: the final one, or while it runs the last that was reported.
        step: the last step that was reported.
        result: what its run returned; None before it is done.
        seconds: from the start of the try that counts to its end; None before.
        worker: host and process of that try.
        error: why it failed, or why it has to wait.
    """

    name: str
    cell: Cell
    state: State
    value: float | None = None
    step: int | None = None
    result: dict[str, Any] | None = None
    seconds: float | None = None
    worker: str | None = None
    error: str | None = None


def records(sweep: Sweep) -> list[Record]:
    """One record for each cell of the plan, in its order."""
    return [_record(name, sweep.cells[name], trials) for name, trials in trials_by_cell(sweep).items()]


def _record(name: str, cell: Cell, trials: Sequence[Any]) -> Record:
    states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "stopped early", "RUNNING": "running", "FAIL": "failed"}
    order = {"FAIL": 0, "WAITING": 1, "RUNNING": 2, "PRUNED": 3, "COMPLETE": 4}
    trial = max(reversed(trials), key=lambda trial: order[trial.state.name], default=None)  # the last of equals
    error = failure(trials) if trial is not None and trial.state.name == "FAIL" else None
    if trial is None or trial.state.name == "WAITING" or (trial.state.name == "FAIL" and error is None):
        last = next((trial for trial in reversed(trials) if trial.state.name == "FAIL"), None)
        return Record(name, cell, "waiting", error=None if last is None else last.user_attrs.get("waits"))
    step = max(trial.intermediate_values, default=None)
    value = trial.value if trial.value is not None else trial.intermediate_values.get(step)
    attrs = trial.user_attrs
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    state = states[trial.state.name]
    return Record(name, cell, state, value, step, attrs.get("result"), seconds, attrs.get("worker"), error)
