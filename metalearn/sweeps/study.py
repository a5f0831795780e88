"""A sweep in its storage: an optuna study that holds the plan and the trials of its cells.

Optuna (Akiba, Sano, Yanase, Ohta, Koyama 2019, arXiv 1907.10902) keeps the trials in an SQLite file, or on a database
server if several machines take part. A cell is planned by enqueueing a trial; workers take enqueued trials, and each
living worker records heartbeats for its trial.

Any number of workers may call the functions here at the same time, and be killed at any point: planning enqueues
whatever is missing, and of two trials of one cell the one with the lower number counts.
"""

from __future__ import annotations

import contextlib
import datetime
import random
import time
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from metalearn.errors import RunError
from metalearn.runs.json_values import check_same_config
from metalearn.sweeps.plan import Cell, Plan, cells_by_name
from metalearn.sweeps.storage import open_storage, storage_errors

__all__ = [
    "RETRIES",
    "Halving",
    "Sweep",
    "enqueue_missing",
    "failure_reason",
    "is_owner",
    "open_sweep",
    "trials_by_cell",
]

_WAITS = 20  # tenths of a second

RETRIES = 3
"""Retries of a cell whose worker vanished. It may be the cell that kills its worker each time."""


WAITING = 64
"""Cells that wait in the storage at a time. Each worker reads all of them several times per cell; others are enqueued
as these are taken."""


class Halving(NamedTuple):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): runs that are behind at a rung are stopped.

    Attributes:
        first: reported step of the first rung.
        factor: ratio of the steps of two consecutive rungs; one in `factor` runs continues past a rung.
    """

    first: int
    factor: int = 3


class Sweep(NamedTuple):
    """An open sweep.

    Attributes:
        study: the study of optuna.
        storage: the storage of optuna that holds it.
        plan: what is run.
        cells: the plan's cells by name.
        grace: seconds without a heartbeat after which a worker counts as dead.
    """

    study: Any
    storage: Any
    plan: Plan
    cells: dict[str, Cell]
    grace: int


def open_sweep(
    plan: Plan, url: str, *, halving: Halving | None = None, heartbeat: int = 10, grace: int = 60, again: bool = True
) -> Sweep:
    """Begin a sweep, or join the sweep of the same name and plan; a plan with further cells extends the sweep.

    Args:
        plan: what to run.
        url: the storage: `sqlite:///FILE`, a server such as `postgresql+psycopg://user:password@host/database`, or
            optuna's gRPC proxy of one, `grpc://host:port`.
        halving: how to stop runs early that are behind others. None: every run continues to its end.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds without one after which the worker's cell is given to another.
        again: whether cells that failed before are planned again.

    Raises:
        RunError: the storage cannot be reached; or it holds a sweep of this name with another plan or from another
            version, or a study of this name that is not a sweep of metalearn.
        ValueError: the plan has no cells, or a cell twice.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # a server that is away is no error yet, see patience.py
    cells = cells_by_name(plan.cells)
    values = {**plan.as_json(), "halving": None if halving is None else list(halving)}
    pruner = optuna.pruners.NopPruner()
    if halving is not None:
        pruner = optuna.pruners.SuccessiveHalvingPruner(halving.first, halving.factor, 0)
    storage = open_storage(url, heartbeat, grace)
    with storage_errors(url):
        study, found = _begin_or_join(plan.name, storage, pruner, values)
        if _check_same_plan(plan.name, found, values, study.get_trials(deepcopy=False), cells):
            study.set_user_attr("plan", values)
        sweep = Sweep(study, storage, plan, cells, grace)
        enqueue_missing(sweep, again)
    return sweep


def _begin_or_join(name: str, storage: Any, pruner: Any, values: dict[str, Any]) -> tuple[Any, Any]:
    """Create or load the study of this name; returns it and its plan, which is `values` if the study is new."""
    import optuna

    with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", pruner=pruner)
        return study, _set_plan_once(study, values)
    study = optuna.load_study(storage=storage, study_name=name, pruner=pruner)
    for _ in range(_WAITS):  # the worker that created the study writes the plan now, unless it was killed
        foreign = study.get_trials(deepcopy=False) or [d.name for d in study.directions] != ["MAXIMIZE"]
        if "plan" in study.user_attrs:
            return study, study.user_attrs["plan"]
        if foreign:
            raise RunError(f"the storage holds a study {name!r} that is not a sweep of metalearn: choose another name")
        time.sleep(0.1)
    return study, _set_plan_once(study, values)


def _set_plan_once(study: Any, values: dict[str, Any]) -> Any:
    """Write the plan unless another worker already has; returns the plan that is there.

    The other worker may have created the study, or may have waited in vain for the one that did.
    """
    if "plan" not in study.user_attrs:
        study.set_user_attr("plan", values)
    return study.user_attrs["plan"]


def enqueue_missing(sweep: Sweep, again: bool = False) -> int:
    """Enqueue cells that are neither done, nor waiting, nor running, and may still be tried.

    These are all that were tried before, and so many others that `WAITING` cells wait.

    Args:
        sweep: the sweep.
        again: whether to include cells that raised an error or lost too many workers.

    Returns:
        The number of cells enqueued.
    """
    _fail_trials_of_dead_workers(sweep)
    found = trials_by_cell(sweep)
    new = [name for name, trials in found.items() if not trials]
    free = WAITING - sum(any(trial.state.name == "WAITING" for trial in trials) for trials in found.values())
    if 0 < free < min(WAITING, len(new)):  # another worker may do the same at this moment: seldom with these cells
        new = random.SystemRandom().sample(new[:WAITING], free)
    chosen: dict[str, dict[str, Any]] = {name: {"cell": name} for name in new[: max(0, free)]}
    for name, trials in found.items():
        if trials and all(trial.state.name == "FAIL" for trial in trials):
            failed = failure_reason(trials) is not None
            if again or not failed:
                chosen[name] = {"cell": name, "again": True} if failed else {"cell": name}
    for name, attrs in chosen.items():
        sweep.study.enqueue_trial(sweep.cells[name], user_attrs=attrs)
    return len(chosen)


def trials_by_cell(sweep: Sweep) -> dict[str, list[Any]]:
    """The trials of each cell of the plan, in the order of their numbers."""
    trials: dict[str, list[Any]] = {name: [] for name in sweep.cells}
    for trial in sweep.study.get_trials(deepcopy=False):
        if trial.user_attrs.get("cell") in trials and "spare" not in trial.user_attrs:
            trials[trial.user_attrs["cell"]].append(trial)
    return trials


def failure_reason(trials: Sequence[Any]) -> str | None:
    """The reason why a cell whose trials have all failed is not retried automatically; None: it will be."""
    first = max((i for i, trial in enumerate(trials) if "again" in trial.user_attrs), default=0)
    errors = [trial.user_attrs["error"] for trial in trials[first:] if "error" in trial.user_attrs]
    if errors:
        return errors[-1]
    lost = sum("stopped" not in trial.user_attrs for trial in trials[first:])
    return f"its worker vanished {lost} times" if lost > RETRIES else None


def is_owner(sweep: Sweep, number: int, name: str) -> bool:
    """Whether trial `number` is the one that counts for its cell: no earlier one is done, waiting or running."""
    return not any(
        trial.number < number
        and trial.user_attrs.get("cell") == name
        and trial.state.name != "FAIL"
        and "spare" not in trial.user_attrs
        for trial in sweep.study.get_trials(deepcopy=False)
    )


def _fail_trials_of_dead_workers(sweep: Sweep) -> None:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(sweep.study)
    # Optuna overlooks a worker that vanished after it took a trial and before its first heartbeat.
    old = datetime.datetime.now() - datetime.timedelta(seconds=sweep.grace)
    for trial in sweep.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if "worker" not in trial.user_attrs and trial.datetime_start is not None and trial.datetime_start < old:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
                sweep.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _check_same_plan(name: str, old: Any, new: dict[str, Any], trials: list[Any], cells: dict[str, Cell]) -> bool:
    """Whether the new plan extends the old one: everything is equal, but it has all of the old cells and more.

    Raises:
        RunError: the plans differ in anything else.
    """
    if not isinstance(old, dict) or old.get("format") != new["format"]:
        got = old.get("format") if isinstance(old, dict) else old
        raise RunError(
            f"the sweep {name!r} was begun by another version of metalearn (format {got}, this version has "
            f"{new['format']}): finish it with that version, or choose another name or folder"
        )
    if old["cells"] != new["cells"]:
        planned = {trial.user_attrs["cell"]: None for trial in trials if "cell" in trial.user_attrs}
        if len(planned) < old["cells"]["count"] < len(cells) and planned.keys() <= cells.keys():
            raise RunError(
                f"the sweep {name!r} has {old['cells']['count']} cells, of which {len(planned)} have begun or wait: "
                "more cells can be added once all have. Finish it with the old plan, or choose another name"
            )
        if len(planned) == old["cells"]["count"] < len(cells) and planned.keys() <= cells.keys():
            check_same_config({**old, "cells": new["cells"]}, new, (), f"there is a sweep {name!r} with another plan")
            return True
        new = {**new, "cells": _describe_cells(cells, planned, "new")}
        old = {**old, "cells": _describe_cells(planned, cells, "gone", old["cells"]["count"])}
    check_same_config(old, new, (), f"there is a sweep {name!r} with another plan")
    return False


def _describe_cells(cells: Iterable[str], others: Collection[str], word: str, count: int | None = None) -> str:
    """`12 cells, 3 of them new: a, b, ...`."""
    cells = list(cells)
    only = [cell for cell in cells if cell not in others]
    text = f"{len(cells) if count is None else count} cells"
    names = ", ".join(only[:3]) + (", ..." if len(only) > 3 else "")
    return f"{text}, {len(only)} of them {word}: {names}" if only else f"{text} in another order"
