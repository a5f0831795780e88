"""A sweep in its storage: an optuna study that holds the plan, and which of its cells are done.

Optuna (Akiba, Sano, Yanase, Ohta, Koyama 2019, arXiv 1907.10902) keeps the trials: in an SQLite file by default, in any
of its database servers by URL where several machines join. A cell is planned by being enqueued; workers take what
is enqueued, and each trial of a living worker has a heartbeat.

Everything here may be done by any number of workers at the same time and be cut short at any point: to plan is to
enqueue whatever is missing, and of two trials of one cell the one with the lower number counts.
"""

from __future__ import annotations

import contextlib
import datetime
import time
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from metalearn.errors import RunError
from metalearn.runs.json_values import check_same_config
from metalearn.sweeps.plan import Cell, Plan, named_cells
from metalearn.sweeps.storage import open_storage, storage_errors
from metalearn.sweeps.storage import storage_url as storage_url

_WAITS = 20  # tenths of a second

RETRIES = 3
"""How often a cell is taken up again after its worker vanished: it may be the cell that kills its worker each time."""


class Halving(NamedTuple):
    """Asynchronous successive halving (Li et al. 2018, arXiv 1810.05934): what is behind at a rung is stopped.

    Attributes:
        first: reported step of the first rung.
        factor: a rung is this many times as far as the one before, and one in so many goes on from it.
    """

    first: int
    factor: int = 3


class Sweep(NamedTuple):
    """An open sweep.

    Attributes:
        study: optuna's.
        storage: optuna's storage, which holds the study.
        plan: what is to be run.
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
    """Begin a sweep, or join the one of the same name and plan.

    Args:
        plan: what to run.
        url: of the storage: `sqlite:///FILE`, or a server's such as `postgresql+psycopg2://user:password@host/database`.
        halving: stop runs early that are behind others; None: all run to their end.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds without one after which its cell is given to another.
        again: plan cells that failed before once more.

    Raises:
        RunError: the storage cannot be reached; it holds a sweep of this name with another plan, or from another
            version; or a study of this name that is no sweep of ours.
        ValueError: the plan has no cells, or one twice.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells = named_cells(plan.cells)
    values = {**plan.as_json(), "halving": None if halving is None else list(halving)}
    pruner = optuna.pruners.NopPruner()
    if halving is not None:
        pruner = optuna.pruners.SuccessiveHalvingPruner(halving.first, halving.factor, 0)
    storage = open_storage(url, heartbeat, grace)
    with storage_errors(url):
        study, found = _begin_or_join(plan.name, storage, pruner, values)
        _check_same_plan(plan.name, found, values, study.get_trials(deepcopy=False), cells)
        sweep = Sweep(study, storage, plan, cells, grace)
        enqueue_missing(sweep, again)
    return sweep


def _begin_or_join(name: str, storage: Any, pruner: Any, values: dict[str, Any]) -> tuple[Any, Any]:
    """The study of this name and the plan in it, which is `values` where it is new."""
    import optuna

    with contextlib.suppress(optuna.exceptions.DuplicatedStudyError):
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize", pruner=pruner)
        return study, _planned(study, values)
    study = optuna.load_study(storage=storage, study_name=name, pruner=pruner)
    for _ in range(_WAITS):  # for whoever made it to say what is planned, unless they were killed before
        foreign = study.get_trials(deepcopy=False) or [d.name for d in study.directions] != ["MAXIMIZE"]
        if "plan" in study.user_attrs:
            return study, study.user_attrs["plan"]
        if foreign:
            raise RunError(f"the storage holds a study {name!r} that is no sweep of metalearn: give yours another name")
        time.sleep(0.1)
    return study, _planned(study, values)


def _planned(study: Any, values: dict[str, Any]) -> Any:
    """The plan of a new study: that of whoever came first, who may have made the study or waited for it too long."""
    if "plan" not in study.user_attrs:
        study.set_user_attr("plan", values)
    return study.user_attrs["plan"]


def enqueue_missing(sweep: Sweep, again: bool = False) -> int:
    """Plan every cell that is neither done, nor waiting, nor being run, and may still be tried.

    Args:
        sweep: the sweep.
        again: also those that failed by an error of their own, or too often.

    Returns:
        How many.
    """
    _fail_the_dead(sweep)
    count = 0
    for name, trials in trials_by_cell(sweep).items():
        if any(trial.state.name != "FAIL" for trial in trials):
            continue
        failed = failure(trials) is not None
        if again or not failed:
            attrs = {"cell": name, "again": True} if failed else {"cell": name}
            sweep.study.enqueue_trial(sweep.cells[name], user_attrs=attrs)
            count += 1
    return count


def trials_by_cell(sweep: Sweep) -> dict[str, list[Any]]:
    """The trials of each cell of the plan, in their order."""
    trials: dict[str, list[Any]] = {name: [] for name in sweep.cells}
    for trial in sweep.study.get_trials(deepcopy=False):
        if trial.user_attrs.get("cell") in trials and "spare" not in trial.user_attrs:
            trials[trial.user_attrs["cell"]].append(trial)
    return trials


def failure(trials: Sequence[Any]) -> str | None:
    """Why a cell whose trials have all failed gets no other one until it is planned again; None where it does."""
    first = max((i for i, trial in enumerate(trials) if "again" in trial.user_attrs), default=0)
    errors = [trial.user_attrs["error"] for trial in trials[first:] if "error" in trial.user_attrs]
    if errors:
        return errors[-1]
    lost = sum("stopped" not in trial.user_attrs for trial in trials[first:])
    return f"its worker vanished {lost} times" if lost > RETRIES else None


def is_owner(sweep: Sweep, number: int, name: str) -> bool:
    """Whether trial `number` is the one of its cell that counts: no earlier one is done, waiting or being run."""
    return not any(
        trial.number < number
        and trial.user_attrs.get("cell") == name
        and trial.state.name != "FAIL"
        and "spare" not in trial.user_attrs
        for trial in sweep.study.get_trials(deepcopy=False)
    )


def _fail_the_dead(sweep: Sweep) -> None:
    """Mark the trials of workers that vanished as failed."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(sweep.study)
    # Optuna overlooks a worker that vanished between taking a trial and its first heartbeat.
    old = datetime.datetime.now() - datetime.timedelta(seconds=sweep.grace)
    for trial in sweep.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if "worker" not in trial.user_attrs and trial.datetime_start is not None and trial.datetime_start < old:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):
                sweep.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _check_same_plan(name: str, old: Any, new: dict[str, Any], trials: list[Any], cells: dict[str, Cell]) -> None:
    if not isinstance(old, dict) or old.get("format") != new["format"]:
        got = old.get("format") if isinstance(old, dict) else old
        raise RunError(
            f"the sweep {name!r} was begun by another version of metalearn (format {got}, this one has "
            f"{new['format']}): finish it with that version, or give this one another name or folder"
        )
    if old["cells"] != new["cells"]:
        planned = {trial.user_attrs["cell"]: None for trial in trials if "cell" in trial.user_attrs}
        new = {**new, "cells": _counted(cells, planned, "new")}
        old = {**old, "cells": _counted(planned, cells, "gone", old["cells"]["count"])}
    check_same_config(old, new, (), f"there is a sweep {name!r} with another plan")


def _counted(cells: Iterable[str], others: Collection[str], word: str, count: int | None = None) -> str:
    """`12 cells, 3 of them new: a, b, ...`."""
    cells = list(cells)
    only = [cell for cell in cells if cell not in others]
    text = f"{len(cells) if count is None else count} cells"
    names = ", ".join(only[:3]) + (", ..." if len(only) > 3 else "")
    return f"{text}, {len(only)} of them {word}: {names}" if only else f"{text} in an order of their own"
