"""What a sweep costs its storage: time, queries and rows per cell, with few cells done before and with many.

Cells do nothing: all of the time is the storage's and optuna's. Of the planned cells all but the last are stored as
done, and one worker runs the last ones. So the figures are those of the end of the sweep, its most expensive part.

Without `--storage` the storage is an SQLite file in a temporary folder. `--storage URL` measures a server, and `--proxy
grpc://HOST:PORT` the same sweeps also through optuna's gRPC proxy of that server. Queries are counted in this process,
so those of a proxy are not. The sweeps, whose names begin with `cost-`, are deleted when they are measured.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalearn.errors import RunError
from metalearn.ranges import Steps
from metalearn.runs.progress import Progress
from metalearn.sweeps import Plan, grid, open_sweep, work
from metalearn.sweeps.storage import storage_url

__all__ = ["PRESETS", "SweepStorageConfig", "format_result", "run"]

CHOICES = 100
"""Values of the second axis: a cell has two values, as in a grid of learning rates and seeds."""


@dataclass(frozen=True)
class SweepStorageConfig:
    """What is measured."""

    cells: tuple[Steps, ...] = (100, 1000, 10_000)
    """Cells of each sweep; multiples of 100."""
    measured: Steps = 50
    """The last cells of each, which are run."""
    storage: str | None = None
    """URL of a storage; None: an SQLite file."""
    proxy: str | None = None
    """URL of a proxy of this storage, to be measured too."""


PRESETS = {"standard": SweepStorageConfig(), "quick": SweepStorageConfig((100, 300), 20)}


def run(config: SweepStorageConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure each sweep in each storage.

    Returns:
        Under `"rows"`, per storage and number of cells: `ms`, `cpu_ms` and `queries` (None for a proxy) per cell,
        `joined` (seconds to open the sweep), and `table_rows`, statements that insert rows, per cell.

    Raises:
        ValueError: numbers of cells that are no multiples of 100, or fewer than are measured; a proxy without its
            storage, or in the place of a storage.
        RunError: another worker took cells.
    """
    bad = [count for count in config.cells if count % CHOICES or count < config.measured]
    if bad:
        raise ValueError(f"--cells must be multiples of {CHOICES} and at least --measured, got {bad}")
    if config.proxy is not None and config.storage is None:
        raise ValueError(f"--proxy must be a proxy of --storage: give its URL too, got --proxy {config.proxy} alone")
    if config.storage is not None and config.storage.startswith("grpc"):
        raise ValueError(f"--storage must be the URL of a database, got {config.storage}; give a proxy with --proxy")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        direct = storage_url(config.storage, Path(folder))
        for count in config.cells:
            for url in (direct,) if config.proxy is None else (direct, config.proxy):
                rows.append(_measure(direct, url, count, config.measured))
                if progress is not None:
                    progress.note(format_result({"rows": rows[-1:]}).splitlines()[-1])
    return {"rows": rows}


def _measure(direct: str, url: str, count: int, measured: int) -> dict[str, Any]:
    cells = grid({"a": range(count // CHOICES), "b": range(CHOICES)})
    plan = Plan(f"cost-{uuid.uuid4().hex[:8]}", {}, cells)
    # Begun with the cells that will be done, then extended: as a user extends a sweep that has ended.
    if count > measured:
        _store_as_done(open_sweep(plan._replace(cells=cells[:-measured]), direct))
    start = time.perf_counter()
    sweep = open_sweep(plan, url)
    joined = time.perf_counter() - start
    queries = _count_queries(sweep.storage)
    start, cpu = time.perf_counter(), time.process_time()
    done = work(sweep, lambda cell, report: {"value": 1.0})
    ms, cpu_ms = 1000 * (time.perf_counter() - start) / measured, 1000 * (time.process_time() - cpu) / measured
    counts = None if queries is None else tuple(queries)  # before the sweep is deleted
    if done != measured:
        raise RunError(f"{done} cells were run, not {measured}: is another worker in the sweep {plan.name}?")
    sweep.storage.delete_study(sweep.storage.get_study_id_from_name(plan.name))
    return {
        "storage": url.partition(":")[0].partition("+")[0],
        "cells": count,
        "ms": ms,
        "cpu_ms": cpu_ms,
        "queries": None if counts is None else counts[0] / measured,
        "joined": joined,
        "table_rows": None if counts is None else counts[1] / measured,
    }


def _store_as_done(sweep: Any) -> None:
    """Store all cells as done by a worker, as `work` leaves them, in a few statements: trial by trial takes minutes."""
    import optuna
    import sqlalchemy
    from optuna.storages._rdb import models

    waiting = {trial.user_attrs["cell"]: trial for trial in sweep.study.get_trials(deepcopy=False)}
    for trial in waiting.values():
        sweep.storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.RUNNING)
        sweep.storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.COMPLETE, [0.0])
    now, study = datetime.datetime.now(), sweep.storage.get_study_id_from_name(sweep.plan.name)
    fields = {"state": optuna.trial.TrialState.COMPLETE, "datetime_start": now, "datetime_complete": now}
    choices = {key: list(dict.fromkeys(cell[key] for cell in sweep.plan.cells)) for key in ("a", "b")}
    to_json = optuna.distributions.distribution_to_json
    kinds = {key: to_json(optuna.distributions.CategoricalDistribution(values)) for key, values in choices.items()}
    trials, values, params, attributes, fixed = [], [], [], [], []
    with _engine(sweep.storage).begin() as connection:
        newest = connection.execute(sqlalchemy.select(sqlalchemy.func.max(models.TrialModel.trial_id))).scalar() or 0
        rest = [(name, cell) for name, cell in sweep.cells.items() if name not in waiting]
        for i, (name, cell) in enumerate(rest):
            one = {"trial_id": newest + 1 + i}
            trials.append({"number": len(waiting) + i, "study_id": study, **fields})
            values.append({**one, "objective": 0, "value": 0.0, "value_type": "FINITE"})
            for key, value in cell.items():
                place = {"param_name": key, "param_value": choices[key].index(value), "distribution_json": kinds[key]}
                params.append({**one, **place})
            for key, value in {"cell": name, "worker": "host:1", "result": {"value": 0.0}}.items():
                attributes.append({**one, "key": key, "value_json": json.dumps(value)})
            fixed.append({**one, "key": "fixed_params", "value_json": json.dumps(cell)})
        # Numbers of trials come from the database, in the order of the rows; the others refer to them.
        for model, rows in (
            (models.TrialModel, trials),
            (models.TrialValueModel, values),
            (models.TrialParamModel, params),
            (models.TrialUserAttributeModel, attributes),
            (models.TrialSystemAttributeModel, fixed),
        ):
            if rows:
                connection.execute(sqlalchemy.insert(model), rows)


def _engine(storage: Any) -> Any:
    """The engine of a storage in this process; None for a proxy."""
    calls = getattr(storage, "_calls", storage)
    return getattr(getattr(calls, "_backend", calls), "engine", None)


def _count_queries(storage: Any) -> list[int] | None:
    """A list whose items grow with each statement, and with each row that is inserted; None where no engine is here."""
    import sqlalchemy.event

    engine, counts = _engine(storage), [0, 0]
    if engine is None:
        return None

    def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        counts[0] += 1
        counts[1] += statement.lstrip().upper().startswith("INSERT")

    sqlalchemy.event.listen(engine, "before_cursor_execute", count)
    return counts


def format_result(result: dict[str, Any]) -> str:
    """A table, a row per storage and size."""
    lines = [
        "| storage | cells | ms per cell | CPU ms | queries | rows inserted | opened after |",
        "|---|---:|" + "---:|" * 5,
    ]
    for row in result["rows"]:
        counted = [f"{row[name]:.0f}" if row[name] is not None else "" for name in ("queries", "table_rows")]
        numbers = [f"{row['cells']:,}", f"{row['ms']:.0f}", f"{row['cpu_ms']:.0f}", *counted, f"{row['joined']:.1f} s"]
        lines.append(f"| {row['storage']} | {' | '.join(numbers)} |")
    return "\n".join(lines)
