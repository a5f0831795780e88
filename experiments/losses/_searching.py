"""Searching for losses with several seeds, each beside a random search of equal budget, and choosing one to keep.

What `robust_regression.py` and `label_noise.py` share. Everything here looks at the meta-training tasks alone: a search
sees some splits of them, its finalists are judged on others, and which seed's loss is kept on others again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments.losses._comparison import Scores, compare, held_out
from metalearn.runs.progress import Progress
from metalearn_models.losses import SymbolicLoss
from metalearn_models.losses.elementwise import Link
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.losses.search.search import SearchConfig, SearchResult, random_control, search
from metalearn_tasks.datasets.corrupted import loss_task

CHOICE = 500  # splits from this seed on are for choosing between searches; theirs are smaller


class MetaTraining(NamedTuple):
    """Tasks of a search, and those that its finalists are judged on: the same data sets, split and corrupted anew."""

    search: list[LossTask]
    final: list[LossTask]


def meta_training(
    names: Sequence[str], noise: float, hidden: tuple[int, ...], seed: int, splits: tuple[int, int]
) -> MetaTraining:
    """The tasks of one seed.

    Args:
        names: of the data sets.
        noise: share of the training labels that is corrupted.
        hidden: widths of the networks.
        seed: of the search; two seeds share no split.
        splits: of each data set, for the search and for its finalists.
    """
    first = seed * sum(splits)
    if first + sum(splits) > CHOICE:
        raise ValueError(f"search seed {seed} with {sum(splits)} splits reaches split {CHOICE}, kept for other uses")
    parts = (range(first, first + splits[0]), range(first + splits[0], first + sum(splits)))
    return MetaTraining(*([loss_task(name, noise, hidden, i) for name in names for i in part] for part in parts))


@dataclass(frozen=True)
class Found:
    """What the searches of one seed found.

    Attributes:
        evolved: best loss of the evolution.
        random: best loss of a random search that trained as many losses.
        trained: how many that was.
        slots: formulas that the evolution looked at.
        fitness: of the two, mean validation error on the meta-training tasks, fresh networks.
        seconds: wall time of the two searches.
    """

    evolved: SymbolicLoss
    random: SymbolicLoss
    trained: int
    slots: int
    fitness: tuple[float, float]
    seconds: tuple[float, float]


def search_with_control(
    tasks: MetaTraining, config: SearchConfig, link: Link, progress: Progress | None = None
) -> Found:
    """One search, and a random one that trains the same number of distinct losses."""
    began = time.monotonic()
    evolved = search(tasks.search, config, progress=progress, final_tasks=tasks.final)
    between = time.monotonic()
    control = search(tasks.search, random_control(config, evolved), progress=progress, final_tasks=tasks.final)
    end = time.monotonic()

    def best(result: SearchResult) -> SymbolicLoss:
        return SymbolicLoss(result.best[0].expr, link=link)

    return Found(
        best(evolved),
        best(control),
        len(evolved.trained),
        len(evolved.generations) * config.evolution.population,
        (evolved.best[0].fitness, control.best[0].fitness),
        (between - began, end - between),
    )


def choose(
    losses: Mapping[str, SymbolicLoss],
    names: Sequence[str],
    noise: float,
    hidden: tuple[int, ...],
    splits: int,
    training: TrainingConfig,
) -> tuple[str, dict[str, float]]:
    """Which loss to keep: the least validation error on splits of the meta-training tasks that no search has seen.

    Returns:
        Its label, and of each loss the geometric mean over tasks of the mean validation error.
    """
    scores = compare(losses, {name: held_out(name, noise, hidden, splits, CHOICE) for name in names}, training)
    means = {label: _geometric([row[label] for row in scores.values()]) for label in losses}
    return min(means, key=lambda label: means[label]), means


def _geometric(scores: Sequence[Scores]) -> float:
    return float(np.exp(np.mean([np.log(max(one.valid.mean(), 1e-4)) for one in scores])))


def records(found: Sequence[Found]) -> list[dict[str, Any]]:
    """What the searches found, as JSON."""
    return [
        {
            **{name: getattr(one, name) for name in ("trained", "slots", "fitness")},
            "evolved": str(one.evolved),
            "random": str(one.random),
            "seconds": [round(s, 1) for s in one.seconds],
        }
        for one in found
    ]


def with_provenance(found: Found, seed: int, results: Mapping[str, Any], losses: Mapping[str, str], **more: Any) -> Any:
    """A loss as it can be shipped: with where it comes from, and its errors beside those of losses made by hand.

    Args:
        found: by the search of one seed.
        seed: of that search.
        results: by task, by label, as `summary` and `merged` give them.
        losses: by label, the name under which a loss can be loaded.
        more: entries of the provenance.
    """
    scores = {
        name: {"this": row["evolved"]["each"][seed], **{losses[label]: row[label]["mean"] for label in losses}}
        for name, row in results.items()
    }
    record = {"kind": "searched", "seed": seed, "trained": found.trained, "validation_error": found.fitness[0], **more}
    rounded = {task: {name: float(f"{error:.3g}") for name, error in row.items()} for task, row in scores.items()}
    return dataclasses.replace(found.evolved, provenance={**record, "scores": rounded})
