"""One worker of a sweep: takes a cell, runs it and stores its result, until no cell is left."""

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

__all__ = ["Report", "Run", "work"]


class Report:
    """What a run calls to report its progress.

    Attributes:
        latest: the last report: step, value and numbers.
    """

    def __init__(self, trial: Any):
        self._trial, self._seen = trial, set[int]()
        self.latest: dict[str, Any] = {}

    def __call__(
        self, step: int, value: float, numbers: Mapping[str, Any] | None = None, *, final: bool = False
    ) -> None:
        """Report the value at a step. The last report becomes the result of a run that is stopped early.

        Args:
            step: steps done.
            value: the value that cells are compared by; more is better.
            numbers: other numbers of the run, as JSON values.
            final: whether this was the last step, after which a run is not stopped.

        Raises:
            optuna.TrialPruned: the sweep uses successive halving and this run is behind.
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
"""Runs a cell and returns its result as JSON values; cells are compared by `"value"`, and more is better."""


def work(sweep: Sweep, run: Run, *, poll: float = 2.0, note: Callable[[str], None] = lambda text: None) -> int:
    """Run cells until every cell is done or has failed.

    If no cell is waiting but other workers are still running some, it waits for these workers, since one of them may
    die and leave its cell. A cell whose folder another process is writing becomes a waiting cell again.

    Args:
        sweep: the sweep.
        run: runs a cell. It should continue from what an earlier, killed try of the same cell has left.
        poll: seconds between two checks while it waits for other workers.
        note: called with a sentence per cell that failed.

    Returns:
        The number of cells that this worker ran to their end.

    Raises:
        KeyboardInterrupt: after Ctrl-C; the present cell is a waiting cell again.
    """
    import optuna

    done, taken, stopping, locked = 0, -1, False, 0

    def objective(trial: Any) -> float:
        nonlocal taken, stopping, locked
        taken = trial.number
        name = trial.user_attrs.get("cell")
        if name not in sweep.cells or not is_owner(sweep, trial.number, name):
            # Two workers took the last cell, or two planned the same one.
            trial.set_user_attr("spare", True)
            raise optuna.TrialPruned("spare")
        # A worker that dies without any heartbeat never counts as dead for optuna, and optuna's own thread may be too
        # late. The worker's name must come after it, see `_fail_trials_of_dead_workers`.
        record_heartbeat(sweep.storage, sweep.plan.name, trial.number)
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        report = Report(trial)
        try:
            _record_values(sweep, trial, sweep.cells[name])
            result = _check_result(run(sweep.cells[name], report))
        except optuna.TrialPruned:
            trial.set_user_attr("result", finite_or_null(as_json({**report.latest, "stopped_early": True})))
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            stopping = True
            trial.set_user_attr("stopped", True)
            raise KeyboardInterrupt(str(error)) from error
        except RunLockedError as error:  # by a worker that counted as dead too early, or from outside of the sweep
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
                # Optuna raises these in a worker that was suspended for so long that it counted as dead.
                trial = sweep.study.get_trials(deepcopy=False)[taken]
                if stopping:
                    raise KeyboardInterrupt from None
                if taken < 0 or trial.state != states.FAIL:
                    raise
                name = trial.user_attrs.get("cell")
                note(f"{name} was given to another worker: there was no sign of life here for {sweep.grace} seconds")
            else:
                done += sweep.study.get_trials(deepcopy=False)[taken].state == states.COMPLETE
                if locked == before:
                    locked = 0
                else:  # wait longer each time: a locked cell goes behind the other waiting cells only once
                    time.sleep(min(poll * 2 ** (locked - 1), sweep.grace))
        elif left:
            time.sleep(poll)
        else:
            return done


def _check_result(returned: Any) -> dict[str, Any]:
    """What a run returned, as JSON values; an error if it has no finite value."""
    if not isinstance(returned, Mapping):
        raise TypeError(f"a run must return a mapping with a value, got {type(returned).__name__}")
    result = as_json(returned)
    value = result.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a run must return a finite number as its value, got {value!r}")
    return finite_or_null(result)


def _record_values(sweep: Sweep, trial: Any, cell: Cell) -> None:
    """Pass the cell's values to optuna, for its tables and dashboards."""
    for key, value in cell.items():
        choices = list(dict.fromkeys(c[key] for c in sweep.plan.cells if key in c))
        try:
            trial.suggest_categorical(key, choices if value in choices else [value])
        except ValueError:  # optuna keeps the choices of the first trial; an extended sweep has others
            trial.set_user_attr(f"value of {key}", value)
