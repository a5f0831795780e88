"""Where a sweep is kept: optuna's tables in an SQLite file or on a database server, opened by many at the same time."""

from __future__ import annotations

import contextlib
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalearn.errors import RunError

_TRIES = 10  # to make the tables, while others make them too


def storage_url(storage: str | None, folder: Path) -> str:
    """The URL of a storage: `storage` itself, or the SQLite file `sweep.db` in the folder, which is made."""
    if storage is not None:
        return storage
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot make the folder of the sweep: {error}") from error
    path = str(folder / "sweep.db")
    for sign in "%?{}":  # signs that mean something in a URL, or in optuna's template of one
        path = path.replace(sign, f"%{ord(sign):02X}")
    return f"sqlite:///{path}"


def open_storage(url: str, heartbeat: int, grace: int) -> Any:
    """Optuna's storage at a URL, its tables made where there are none.

    Raises:
        RunError: it cannot be reached or used, see `storage_errors`; or it is another version's of optuna.
    """
    import optuna
    import sqlalchemy.pool

    sqlite = url.startswith("sqlite")
    # A connection to a file is closed after each transaction, so that none is left open when a sweep is dropped
    # (Python 3.13 warns of one). SQLite waits for a lock instead of failing: other workers write too.
    to_file = {"connect_args": {"timeout": 120}, "poolclass": sqlalchemy.pool.NullPool}
    options = to_file if sqlite else {"pool_pre_ping": True}
    tried = 0
    while True:
        tried += 1
        try:
            with storage_errors(url), warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat is one
                storage = optuna.storages.RDBStorage(
                    url, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=grace
                )
            break
        except (RunError, AssertionError) as error:  # the assertion: tables without their version
            half_made = isinstance(error, AssertionError) or any(
                word in str(error) for word in ("exists", "locked", "UNIQUE", "unique", "Duplicate")
            )
            if not half_made or tried == _TRIES:
                raise
            time.sleep(random.uniform(0.05, 0.3))
        except (RuntimeError, ValueError) as error:  # of another version; a port that is no number
            raise RunError(f"the storage {_without_password(url)} cannot be used: {error}") from error
    if sqlite:
        _one_at_a_time(storage.engine)
    return storage


def record_heartbeat(storage: Any, study: str, number: int) -> None:
    """Record a sign of life of trial `number` of a study now, without waiting for optuna's own thread."""
    study_id = storage.get_study_id_from_name(study)
    storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study_id, number))


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn what a database says when it cannot be reached into a `RunError`, without the password."""
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise RunError(
            f"the storage {_without_password(url)} needs a package that is missing: {cause}. Install the database's "
            "driver, or leave --storage out for an SQLite file"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise RunError(
            f"the storage {_without_password(url)} cannot be used: {reason}. A storage is sqlite:///FILE in a folder "
            "that can be written, or the URL of a server that is up; what runs have saved in their folders is safe"
        ) from error


def _one_at_a_time(engine: Any) -> None:
    """Have each transaction hold the SQLite file from its first read on.

    By itself SQLite lets two workers read that a trial waits, and both take it.
    """
    import sqlalchemy.event

    @sqlalchemy.event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # Python's module begins no transaction of its own

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _without_password(url: str) -> str:
    import sqlalchemy.exc

    try:
        return sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return repr(url.rpartition("@")[2])
