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
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from metalearn.errors import RunError
from metalearn.runs import check_same_config
from metalearn.sweeps.plan import Cell, Plan, named_cells

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
        plan: what is to be run.
        cells: the plan's cells by name.
        grace: seconds without a heartbeat after which a worker counts as dead.
    """

    study: Any
    plan: Plan
    cells: dict[str, Cell]
    grace: int


def storage_url(storage: str | None, folder: Path) -> str:
    """The URL of a storage: `storage` itself, or the SQLite file `sweep.db` in the folder, which is made."""
    if storage is not None:
        return storage
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder of the sweep: {error}") from error
    return f"sqlite:///{folder / 'sweep.db'}"


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
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat is one
        # SQLite waits for a lock instead of failing: other workers write too
        wait = {"connect_args": {"timeout": 120}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        storage = optuna.storages.RDBStorage(url, engine_kwargs=wait, heartbeat_interval=heartbeat, grace_period=grace)
        study = optuna.create_study(
            storage=storage, study_name=plan.name, direction="maximize", load_if_exists=True, pruner=pruner
        )
        found = study.user_attrs.get("plan")
        if found is None:
            if study.get_trials(deepcopy=False):
                raise RunError(
                    f"the storage holds a study {plan.name!r} that is no sweep of metalearn: name yours another"
                )
            study.set_user_attr("plan", values)
            found = study.user_attrs["plan"]  # of two workers that come at once, the last to write
    _check_same_plan(plan.name, found, values)
    sweep = Sweep(study, plan, cells, grace)
    with storage_errors(url):
        enqueue_missing(sweep, again)
    return sweep


def enqueue_missing(sweep: Sweep, again: bool = False) -> None:
    """Plan every cell that is neither done, nor waiting, nor being run, and may still be tried.

    Args:
        sweep: the sweep.
        again: also those that failed by an error of their own, or too often.
    """
    _fail_the_dead(sweep)
    trials: dict[str, list[Any]] = {name: [] for name in sweep.cells}
    for trial in sweep.study.get_trials(deepcopy=False):
        if "spare" not in trial.user_attrs:
            trials.setdefault(trial.user_attrs.get("cell", ""), []).append(trial)
    for name, cell in sweep.cells.items():
        if any(trial.state.name != "FAIL" for trial in trials[name]):
            continue
        failed = any("error" in trial.user_attrs for trial in trials[name])
        lost = sum("stopped" not in trial.user_attrs for trial in trials[name])
        if again or (not failed and lost <= RETRIES):
            sweep.study.enqueue_trial(cell, user_attrs={"cell": name})


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


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a database says when it cannot be reached into a `RunError`, without the password."""
    import optuna
    import sqlalchemy

    try:
        yield
    except ModuleNotFoundError as error:
        raise RunError(
            f"the storage {_without_password(url)} needs the package {error.name}: install the database's driver, or "
            "leave --storage out for an SQLite file"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        if isinstance(error, RunError):
            raise
        reason = str(error.__cause__ or error).splitlines()[0]
        raise RunError(
            f"the storage {_without_password(url)} cannot be used: {reason}. A storage is sqlite:///FILE in a "
            "folder that can be written, or the URL of a server that is up; what runs have saved in their folders is safe"
        ) from error


def _without_password(url: str) -> str:
    import sqlalchemy

    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return repr(url.rpartition("@")[2])


def _check_same_plan(name: str, old: Any, new: dict[str, Any]) -> None:
    if not isinstance(old, dict) or old.get("format") != new["format"]:
        got = old.get("format") if isinstance(old, dict) else old
        raise RunError(
            f"the sweep {name!r} was begun by another version of metalearn (format {got}, this one has "
            f"{new['format']}): finish it with that version, or give this one another name or folder"
        )
    check_same_config(old, new, (), f"there is a sweep {name!r} with another plan")
