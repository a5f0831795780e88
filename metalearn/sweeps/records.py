"""What a sweep has come to so far: one record a cell, in the order of the plan."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from metalearn.sweeps.plan import Cell
from metalearn.sweeps.study import RETRIES, Sweep

State = Literal["waiting", "running", "done", "stopped early", "failed"]


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
        error: why it failed.
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
    best: dict[str, Any] = {}
    order = {"FAIL": 0, "WAITING": 1, "RUNNING": 2, "PRUNED": 3, "COMPLETE": 4}
    for trial in sweep.study.get_trials(deepcopy=False):
        name = trial.user_attrs.get("cell")
        if name is None or "spare" in trial.user_attrs:
            continue
        if name not in best or order[trial.state.name] >= order[best[name].state.name]:
            best[name] = trial
    return [_record(name, cell, best.get(name)) for name, cell in sweep.cells.items()]


def _record(name: str, cell: Cell, trial: Any) -> Record:
    states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "stopped early", "RUNNING": "running", "FAIL": "failed"}
    if trial is None or trial.state.name not in states:
        return Record(name, cell, "waiting")
    step = max(trial.intermediate_values, default=None)
    value = trial.value if trial.value is not None else trial.intermediate_values.get(step)
    error = trial.user_attrs.get("error")
    if trial.state.name == "FAIL" and error is None:
        error = (
            f"its worker vanished, the last of {RETRIES + 1} times" if "stopped" not in trial.user_attrs else "stopped"
        )
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    attrs = trial.user_attrs
    state = states[trial.state.name]
    return Record(name, cell, state, value, step, attrs.get("result"), seconds, attrs.get("worker"), error)
