"""A storage that waits for its server: a restart of the database, or a network that is away, ends no worker.

Optuna's storages raise at the first call that is not answered. Here the call is made again until the server answers or
`PATIENCE` is over. A call may have taken effect although its answer was lost. Making it again then has one of these
effects, which sweeps know how to handle: a second trial of a cell (it becomes a spare), a trial that is taken by nobody
(it counts as dead after the grace period), or an error that says that the trial has ended (it is compared with what was
to be written).

Optuna's gRPC proxy has no signs of life, and its server may have another clock. `GrpcHeartbeats` counts them in an
attribute of the trial, and each reader measures with its own clock for how long the count has not changed.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["PATIENCE", "make_patient", "without_answer"]

PATIENCE = 300.0
"""Seconds for which a worker waits for a server that has answered before."""

_ALIVE = "metalearn:alive"


def make_patient(storage: Any, name: str, heartbeat: int, grace: int, patience: float = PATIENCE) -> Any:
    """Wrap a storage of optuna whose server has answered once, so that calls wait for the server.

    Args:
        storage: a `_CachedStorage` around an `RDBStorage`, or a `GrpcStorageProxy`.
        name: how the storage is called in messages; without a password.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds without one after which a worker counts as dead. The time without a server does not count.
        patience: seconds to wait for an answer.

    Returns:
        A storage of optuna with signs of life. Its calls raise what the last try raised if patience is over.
    """
    from optuna.storages import BaseStorage
    from optuna.storages._heartbeat import BaseHeartbeat

    inner = storage if isinstance(storage, BaseHeartbeat) else None
    methods: dict[str, Any] = {
        method: _delegate(method)
        for base in (BaseStorage, BaseHeartbeat)
        for method, _ in inspect.getmembers(base, inspect.isfunction)
        if not method.startswith("__")
    }
    methods["_get_stale_trial_ids"] = _Patient.stale_trial_ids
    kind = type("PatientStorage", (_Patient, BaseStorage, BaseHeartbeat), methods)
    calls = storage if inner is not None else GrpcHeartbeats(storage, heartbeat, grace)
    return kind(calls, name, grace, patience)


class _Patient:
    """The part of a patient storage that is not one of optuna's methods."""

    def __init__(self, calls: Any, name: str, grace: int, patience: float):
        self._calls, self._name, self._grace, self._patience = calls, name, grace, patience
        self._back = -float("inf")  # when the server came back last
        self._away, self._lock = False, threading.Lock()  # the thread of signs of life meets the same silence

    def __reduce__(self) -> Any:
        raise TypeError("an open storage stays in its process: give another process its URL")

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the storage, again and again while nobody answers."""
        from optuna.exceptions import UpdateFinishedTrialError

        began, pause, lost = time.monotonic(), 0.1, False
        while True:
            try:
                answer = getattr(self._calls, method)(*args, **kwargs)
            except UpdateFinishedTrialError:
                if not (lost and method == "set_trial_state_values" and self._has_taken_effect(*args, **kwargs)):
                    raise
                answer = True
            except Exception as error:
                if not without_answer(error) or time.monotonic() - began > self._patience:
                    raise
                self._notice(away=True)
                lost = True
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
                continue
            if lost:
                self._notice(away=False)
            return answer

    def stale_trial_ids(self, study_id: int) -> list[int]:
        """The trials of dead workers; none directly after the server was away, when nobody could show signs of life."""
        found = self.call("_get_stale_trial_ids", (study_id,), {})
        return [] if time.monotonic() - self._back < self._grace else found

    def _has_taken_effect(self, trial_id: int, state: Any, values: Any = None) -> bool:
        trial = self.call("get_trial", (trial_id,), {})
        return trial.state == state and (values is None or list(trial.values or ()) == list(values))

    def _notice(self, *, away: bool) -> None:
        """Say once that the server is away, and once that it is back."""
        with self._lock:
            if away == self._away:
                return
            self._away = away
            if not away:
                self._back = time.monotonic()
            text = f"does not answer; waiting for up to {self._patience:.0f} s" if away else "is back"
            print(f"metalearn (process {os.getpid()}): the storage {self._name} {text}", file=sys.stderr, flush=True)


class GrpcHeartbeats:
    """A `GrpcStorageProxy` with signs of life: a count in an attribute of each running trial."""

    def __init__(self, proxy: Any, heartbeat: int, grace: int):
        self._proxy, self._heartbeat, self._grace = proxy, heartbeat, grace
        self._counts: dict[int, int] = {}
        self._seen: dict[int, tuple[Any, float]] = {}  # by trial: its count, and since when this process knows it

    def __getattr__(self, name: str) -> Any:
        return getattr(self._proxy, name)

    def record_heartbeat(self, trial_id: int) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        self._counts[trial_id] = self._counts.get(trial_id, 0) + 1
        with contextlib.suppress(UpdateFinishedTrialError):  # this worker counts as dead; it learns so at its next call
            self._proxy.set_trial_system_attr(trial_id, _ALIVE, self._counts[trial_id])

    def get_heartbeat_interval(self) -> int:
        return self._heartbeat

    def get_heartbeat_stale_trial_callback(self) -> None:
        return None

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        from optuna.trial import TrialState

        now, stale, before = time.monotonic(), [], self._seen
        self._seen = {}
        for trial in self._proxy.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            count = trial.system_attrs.get(_ALIVE)
            known, since = before.get(trial._trial_id, (None, now))
            since = since if trial._trial_id in before and known == count else now
            self._seen[trial._trial_id] = (count, since)
            if now - since > self._grace:
                stale.append(trial._trial_id)
        return stale


def without_answer(error: BaseException | None) -> bool:
    """Whether an error of a storage says that its server was not reached or went away during a call."""
    import sqlalchemy.exc

    while error is not None:
        if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
            return True
        if isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated:
            return True
        code = getattr(error, "code", None)  # of an error of gRPC, which may not be installed
        if type(error).__module__.startswith("grpc") and callable(code):
            return getattr(code(), "name", "") == "UNAVAILABLE"
        error = error.__cause__
    return False


def _delegate(method: str) -> Callable[..., Any]:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(method, args, kwargs)

    call.__name__ = method
    return call
