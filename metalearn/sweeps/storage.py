"""Where a sweep is kept: optuna's tables in an SQLite file or on a database server, which many processes may share."""

from __future__ import annotations

import contextlib
import random
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from metalearn.errors import RunError
from metalearn.runs.addresses import hide_in_text, hide_password
from metalearn.sweeps.patience import make_patient, without_answer

__all__ = ["open_storage", "record_heartbeat", "storage_errors", "storage_url"]

_GRPC = "grpc://"
_READY = 10.0  # seconds to wait for a proxy
_TRIES = 10  # attempts to create the tables while other workers create them too


def storage_url(storage: str | None, folder: Path) -> str:
    """The URL of a storage: `storage` itself; if it is None, of the SQLite file `sweep.db` in the folder, created here.

    Raises:
        RunError: the folder cannot be created.
    """
    if storage is not None:
        return storage
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot create the folder of the sweep: {error}") from error
    path = str(folder / "sweep.db")
    for character in "%?{}":  # they have a meaning in URLs or in optuna's templates of URLs
        path = path.replace(character, f"%{ord(character):02X}")
    return f"sqlite:///{path}"


def open_storage(url: str, heartbeat: int, grace: int) -> Any:
    """Open optuna's storage at a URL, and create its tables if there are none.

    Args:
        url: see `open_sweep`.
        heartbeat: seconds between two signs of life of a worker.
        grace: seconds without one after which a worker counts as dead.

    Raises:
        RunError: the storage cannot be reached or used, see `storage_errors`; or another version of optuna wrote it.
    """
    import optuna
    import sqlalchemy.pool

    if url.startswith(_GRPC):
        return _open_proxy(url, heartbeat, grace)
    sqlite = url.startswith("sqlite")
    # Each transaction with a file closes its connection, so that none is open when a sweep is garbage-collected, of
    # which Python 3.13 warns. The timeout makes SQLite wait while other workers write.
    to_file = {"connect_args": {"timeout": 120}, "poolclass": sqlalchemy.pool.NullPool}
    options = to_file if sqlite else {"pool_pre_ping": True}
    tried = 0
    while True:
        tried += 1
        try:
            with storage_errors(url), warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats are experimental
                storage = optuna.storages.RDBStorage(
                    url, engine_kwargs=options, heartbeat_interval=heartbeat, grace_period=grace
                )
            break
        except (RunError, AssertionError) as error:  # AssertionError: the tables exist, but not yet their version
            half_made = isinstance(error, AssertionError) or any(
                word in str(error) for word in ("exists", "locked", "UNIQUE", "unique", "Duplicate")
            )
            if not half_made or tried == _TRIES:
                raise
            time.sleep(random.uniform(0.05, 0.3))
        except (RuntimeError, ValueError, LookupError) as error:  # another version of optuna; no port; braces
            reason, cause = hide_in_text(str(error), url), _harmless(error, url)
            if "invalid literal" in reason:  # it quotes what stands behind the last colon, perhaps part of a password
                reason = "its port is no number; in a user or a password, write @, : and / as %40, %3A and %2F"
                cause = None
            raise RunError(f"the storage {hide_password(url)} cannot be used: {reason}") from cause
    if sqlite:
        _lock_from_first_read(storage.engine)
        return storage
    patient = make_patient(optuna.storages.get_storage(storage), hide_password(url), heartbeat, grace)
    weakref.finalize(patient, storage.engine.dispose)  # psycopg warns of connections that are left open
    return patient


def _open_proxy(url: str, heartbeat: int, grace: int) -> Any:
    """Optuna's gRPC proxy at `grpc://HOST:PORT`, once it answers."""
    import optuna

    host, colon, port = url.removeprefix(_GRPC).rstrip("/").rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise RunError(f"the storage {hide_password(url)} must be {_GRPC}HOST:PORT, as in {_GRPC}localhost:13000")
    with storage_errors(url), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = optuna.storages.GrpcStorageProxy(host=host, port=int(port))
        proxy.wait_server_ready(_READY)
    return make_patient(proxy, hide_password(url), heartbeat, grace)


def record_heartbeat(storage: Any, study: str, number: int) -> None:
    """Record a sign of life of trial `number` of a study now, without waiting for optuna's thread."""
    study_id = storage.get_study_id_from_name(study)
    storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study_id, number))


@contextlib.contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Turn errors of a database that cannot be reached or used into a `RunError` without the password."""
    import optuna
    import sqlalchemy.exc

    try:
        yield
    except ImportError as error:
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        raise RunError(
            f"the storage {hide_password(url)} needs a package that is missing: {hide_in_text(str(cause), url)}. "
            "Install the database's driver, or omit --storage to use an SQLite file"
        ) from _harmless(error, url)
    except Exception as error:
        known = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, ConnectionError)
        if not isinstance(error, known) and not without_answer(error):
            raise
        reason = next(iter(str(error.__cause__ or error).splitlines()), type(error).__name__)
        raise RunError(
            f"the storage {hide_password(url)} cannot be used: {hide_in_text(reason, url)}. Use sqlite:///FILE in a "
            "writable folder, or the URL of a server that is running; what runs have saved in their folders is safe"
        ) from _harmless(error, url)


def _lock_from_first_read(engine: Any) -> None:
    """Make each transaction lock the SQLite file before its first read.

    By default, two workers can both read that a trial waits, and both take it.
    """
    import sqlalchemy.event

    @sqlalchemy.event.listens_for(engine, "connect")
    def _disable_implicit_transactions(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # otherwise the module sqlite3 begins transactions by itself

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begin_immediate(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _harmless(error: Exception, url: str) -> Exception | None:
    """An error as the cause of another one, which a trace shows; None if it names a secret."""
    said, cause = [], error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    return error if all(hide_in_text(text, url) == text for text in said) else None
