"""One worker of a sweep: takes a cell, runs it, stores what came out, until nothing is left."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from metalearn.errors import RunLockedError
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.sweeps.plan import Cell
from metalearn.sweeps.storage import record_heartbeat
from metalearn.sweeps.study import Sweep, enqueue_missing, is_owner


class Report:
    """What a cell says of itself while it runs."""

    def __init__(self, trial: Any):
        self._trial, self._seen = trial, set[int]()
        self.latest: dict[str, Any] = {}

    def __call__(
        self, step: int, value: float, numbers: Mapping[str, Any] | None = None, *, final: bool = False
    ) -> None:
        """Tell the value reached at a step; the last `numbers` are kept as the result of a run that is stopped early.

        Args:
            step: how far the run is.
            value: what it is compared by.
            numbers: what else is known of it.
            final: this was the last step, and there is nothing left to stop.

        Raises:
            optuna.TrialPruned: the sweep halves, and this run is behind.
        """
        import optuna

        self.latest = {"step": step, "value": value, **(numbers or {})}
        if step in self._seen:
            return
        self._seen.add(step)
        self._trial.report(value, step)
        if not final and self._trial.should_prune():
            raise optuna.TrialPruned(f"behind others at step {step}")


Run = Callable[[Cell, Report], Mapping[str, Any]]
"""Runs a cell and returns what came out as JSON values; `"value"` is what the sweep compares by, more is better."""


def work(sweep: Sweep, run: Run, *, poll: float = 2.0, note: Callable[[str], None] = lambda text: None) -> int:
    """Run cells until every one is done or has failed.

    When nothing is waiting but others are still at work, it waits for them: one of them may die and leave its cell. A
    cell whose folder another process is writing goes back to those that wait.

    Args:
        sweep: the sweep.
        run: what to do with a cell. It should go on from what an earlier, killed try of the same cell has left.
        poll: seconds between two looks while waiting for others.
        note: gets a sentence for each cell that failed.

    Returns:
        How many cells this worker ran to their end.

    Raises:
        KeyboardInterrupt: the cell in hand has gone back to those that wait.
    """
    import optuna

    done, taken, stopping, locked = 0, -1, False, 0

    def objective(trial: Any) -> float:
        nonlocal taken, stopping, locked
        taken = trial.number
        name = trial.user_attrs.get("cell")
        if name not in sweep.cells or not is_owner(sweep, trial.number, name):
            # two workers came for the last cell, or two planned the same one
            trial.set_user_attr("spare", True)
            raise optuna.TrialPruned("spare")
        # Before it is said whose it is (see `_fail_the_dead`), and not only by the thread that may come too late:
        # without a sign of life optuna would never hold it for dead.
        record_heartbeat(sweep.storage, sweep.plan.name, trial.number)
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        report = Report(trial)
        try:
            _record_values(sweep, trial, sweep.cells[name])
            result = _checked(run(sweep.cells[name], report))
        except optuna.TrialPruned:
            trial.set_user_attr("result", finite_or_null(as_json({**report.latest, "stopped_early": True})))
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            stopping = True
            trial.set_user_attr("stopped", True)
            raise KeyboardInterrupt(str(error)) from error
        except RunLockedError as error:  # a worker that was held for dead too early, or a run outside of the sweep
            locked += 1
            trial.set_user_attr("stopped", True)
            trial.set_user_attr("waits", str(error))
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            note(f"{name} failed: {type(error).__name__}: {error}")
            raise
        trial.set_user_attr("result", result)
        return float(result["value"])

    states = optuna.trial.TrialState
    while True:
        left = sweep.study.get_trials(deepcopy=False, states=(states.WAITING, states.RUNNING))
        if enqueue_missing(sweep) or any(trial.state == states.WAITING for trial in left):
            taken, before = -1, locked
            try:
                sweep.study.optimize(objective, n_trials=1, catch=(Exception,))
            except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
                # what optuna says to a worker that slept for so long that it was held for dead
                trial = sweep.study.get_trials(deepcopy=False)[taken]
                if stopping:
                    raise KeyboardInterrupt from None
                if taken < 0 or trial.state != states.FAIL:
                    raise
                name = trial.user_attrs.get("cell")
                note(f"{name} was given to another worker: this one gave no sign of life for {sweep.grace} seconds")
            else:
                done += sweep.study.get_trials(deepcopy=False)[taken].state == states.COMPLETE
                if locked == before:
                    locked = 0
                else:  # ever longer, as the other cells come before it only once
                    time.sleep(min(poll * 2 ** (locked - 1), sweep.grace))
        elif left:
            time.sleep(poll)
        else:
            return done


def _checked(returned: Any) -> dict[str, Any]:
    """What a run returned, as JSON values."""
    if not isinstance(returned, Mapping):
        raise TypeError(f"a run must return a mapping with a value, got {type(returned).__name__}")
    result = as_json(returned)
    value = result.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a run must return a finite number as its value, got {value!r}")
    return finite_or_null(result)


def _record_values(sweep: Sweep, trial: Any, cell: Cell) -> None:
    """Show optuna the cell's values, for its own tables and dashboards."""
    for key, value in cell.items():
        choices = list(dict.fromkeys(c[key] for c in sweep.plan.cells if key in c))
        trial.suggest_categorical(key, choices if value in choices else [value])
