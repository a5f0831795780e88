"""The state of a sweep: one record per cell, in the order of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from metalearn.sweeps.plan import Cell
from metalearn.sweeps.study import Sweep, failure_reason, trials_by_cell

__all__ = ["ENDED", "Record", "State", "read_records"]

State = Literal["waiting", "running", "done", "stopped early", "failed"]
"""What a cell of a sweep may be in."""
ENDED = ("done", "stopped early", "failed")
"""States in which a cell stays until the sweep is started again."""


class Record(NamedTuple):
    """A cell and what is known about it.

    Attributes:
        name: the name of the cell.
        cell: its values.
        state: its state. A cell may have been tried several times; everything here is about the try that counts.
        value: the value that cells are compared by: the final one, or the last that was reported. None: there is none.
        step: the last step that was reported. None: none was.
        result: what the run returned. None: it has not ended.
        seconds: duration of the run. None: it has not ended.
        worker: host and process id. None: no worker has taken the cell.
        error: why the cell failed, or why it has to wait. None: neither.
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


def read_records(sweep: Sweep) -> list[Record]:
    """Read one record per cell from the sweep's storage, in the order of the plan."""
    return [_make_record(name, sweep.cells[name], trials) for name, trials in trials_by_cell(sweep).items()]


def _make_record(name: str, cell: Cell, trials: Sequence[Any]) -> Record:
    states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "stopped early", "RUNNING": "running", "FAIL": "failed"}
    order = {"FAIL": 0, "WAITING": 1, "RUNNING": 2, "PRUNED": 3, "COMPLETE": 4}
    trial = max(reversed(trials), key=lambda trial: order[trial.state.name], default=None)  # the last of equals
    error = failure_reason(trials) if trial is not None and trial.state.name == "FAIL" else None
    if trial is None or trial.state.name == "WAITING" or (trial.state.name == "FAIL" and error is None):
        last = next((trial for trial in reversed(trials) if trial.state.name == "FAIL"), None)
        return Record(name, cell, "waiting", error=None if last is None else last.user_attrs.get("waits"))
    step = max(trial.intermediate_values, default=None)
    value = trial.value if trial.value is not None else trial.intermediate_values.get(step)
    attrs = trial.user_attrs
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    state = states[trial.state.name]
    return Record(name, cell, state, value, step, attrs.get("result"), seconds, attrs.get("worker"), error)
