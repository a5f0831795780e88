"""Asynchronous successive halving: many workers, none of which waits for the others at a rung.

Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht and Talwalkar 2018 (arXiv 1810.05934), in the form of optuna: a
candidate that is not among the best of those that have reached a rung so far stops there. It runs on the sweeps of
`metalearn.sweeps`, so workers may join, die, and share a database. Every candidate has a folder with its checkpoints
and the scores of its rungs, and a candidate whose worker was killed continues from there. On one machine the
synchronous form trains the same candidates in one program and is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metalearn.search.folder import search_in_folder
from metalearn.search.population import Search
from metalearn.search.random_search import whole_trainings
from metalearn.search.rank_correlation import RungCorrelation, rung_correlations
from metalearn.search.successive_halving import HalvingState
from metalearn.sweeps import Cell, Plan, Record, Report, cell_name, run_sweep
from metalearn.sweeps.storage import storage_url
from metalearn.sweeps.study import Halving
from metalearn.sweeps.watch import Watch

__all__ = ["Make", "asynchronous_correlations", "run_asynchronously", "train_cell"]

Make = Callable[[Cell], tuple[Search, Any, Any]]
"""Makes the search, the `theta` and the data of a cell; a function of a module, which workers can import."""


def train_cell(
    make: Make, folder: Path, steps: tuple[int, ...], seed: int, cell: Cell, report: Report
) -> Mapping[str, Any]:
    """Train one candidate, with a checkpoint and a report at each rung; continues where an earlier try ended.

    Raises:
        optuna.TrialPruned: it is behind the others at a rung.
    """
    search, theta, data = make(cell)

    def tell(state: HalvingState) -> None:
        for step, score in zip(steps, np.asarray(state.scores[:, 0], np.float64), strict=True):
            if step <= int(state.step):  # an earlier try may have ended between a checkpoint and its report
                report(step, -float(score), final=step == steps[-1])

    alone = jax.tree.map(lambda leaf: np.asarray(leaf)[None], theta)
    state = search_in_folder(
        folder / "cells" / cell_name(cell),
        {"cell": dict(cell), "seed": seed},
        search,
        alone,
        data,
        jax.random.key(seed),
        whole_trainings(1, steps),
        chunk=1,
        saved=tell,
    )
    tell(state)
    scores = np.asarray(state.scores[:, 0], np.float64).tolist()
    return {"value": -scores[-1], "scores": scores}


def run_asynchronously(
    plan: Plan,
    make: Make,
    folder: Path,
    steps: tuple[int, ...],
    *,
    eta: int = 4,
    seed: int = 0,
    workers: int | None = None,
    storage: str | None = None,
    watch: Watch | None = None,
) -> list[Record]:
    """Search with many workers, or continue the search in the folder.

    Args:
        plan: the candidates as cells, such as `{"architecture": 17, "rate": 0.1}`.
        make: see `Make`.
        folder: of the candidates, and of the storage unless that is given.
        steps: of the rungs, each `eta` times the one before.
        eta: one in eta candidates of a rung is kept.
        seed: of the trajectories.
        workers: see `metalearn.sweeps.run_sweep`.
        storage: the URL of a database for workers on several machines.
        watch: see `metalearn.sweeps.run_sweep`.

    Returns:
        A record per cell; `step` and `value` of those that were stopped are of the rung where they were, and values are
        negated scores.

    Raises:
        ValueError: the rungs are not powers of `eta` apart.
    """
    if any(after != before * eta for before, after in pairwise(steps)):
        raise ValueError(f"each rung must be {eta} times the one before, got {', '.join(map(str, steps))}")
    folder.mkdir(parents=True, exist_ok=True)
    run = partial(train_cell, make, folder, steps, seed)
    return run_sweep(
        plan,
        storage_url(storage, folder),
        run,
        workers=workers,
        compiled=folder / "compiled",
        halving=Halving(steps[0], eta),
        watch=watch,
    )


def asynchronous_correlations(records: Sequence[Record], steps: tuple[int, ...]) -> list[RungCorrelation]:
    """How early scores ranked the candidates that were trained to the end; see `rung_correlations`.

    These are survivors that early scores have chosen, so the numbers are lower than those of all candidates. Few
    survivors say little: each row has their number.

    Args:
        records: what `run_asynchronously` returned.
        steps: of the rungs.
    """
    ended = [record.result["scores"] for record in records if record.state == "done" and record.result]
    return rung_correlations(steps, np.asarray(ended, np.float64).reshape(-1, len(steps)).T)
