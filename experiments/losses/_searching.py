"""Searching for losses with several seeds, each beside a random search of equal budget, and choosing one to keep.

What `robust_regression.py` and `label_noise.py` share. Only the meta-training tasks are used here. A search sees some
splits of them, its finalists are judged on others, and the seed whose loss is kept is chosen on others again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from experiments.losses._comparison import (
    Scores,
    compare,
    format_mean,
    held_out_tasks,
    summarise_losses,
    summarise_seeds,
)
from experiments.suite.tables import format_columns
from metalearn.runs.json_values import finite_or_null
from metalearn.runs.progress import Progress
from metalearn_models.losses import SymbolicLoss
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.losses.search.search import SearchConfig, SearchResult, as_loss, random_control, search
from metalearn_tasks.datasets.corrupted import loss_task

CHOICE = 500
"""The first split for choosing between searches; searches use smaller ones."""


class MetaTraining(NamedTuple):
    """The tasks of a search and of its finalists: the same data sets, with other splits and other noise.

    Attributes:
        search: tasks that candidates are trained on.
        final: tasks that the finalists are judged on.
    """

    search: list[LossTask]
    final: list[LossTask]


def meta_training_tasks(
    names: Sequence[str], noise: float, hidden: tuple[int, ...], seed: int, splits: tuple[int, int]
) -> MetaTraining:
    """The tasks of one seed.

    Args:
        names: of the data sets.
        noise: share of the training labels that is corrupted.
        hidden: widths of the networks' hidden layers.
        seed: seed of the search; two seeds share no split.
        splits: number of splits per data set, for the search and for its finalists.

    Raises:
        ValueError: the seed would need splits that are kept for other uses.
    """
    first = seed * sum(splits)
    if first + sum(splits) > CHOICE:
        raise ValueError(f"search seed {seed} with {sum(splits)} splits reaches split {CHOICE}, kept for other uses")
    parts = (range(first, first + splits[0]), range(first + splits[0], first + sum(splits)))
    return MetaTraining(*([loss_task(name, noise, hidden, i) for name in names for i in part] for part in parts))


@dataclass(frozen=True)
class Found:
    """What the two searches of one seed found.

    Attributes:
        evolved: best loss of the evolution.
        random: best loss of a random search that trained as many losses.
        trained: losses trained by each search.
        slots: formulas in all generations of the evolution.
        fitness: mean validation error of the two losses on the finalists' tasks.
        seconds: wall time of the two searches.
    """

    evolved: SymbolicLoss
    random: SymbolicLoss
    trained: int
    slots: int
    fitness: tuple[float, float]
    seconds: tuple[float, float]


def search_with_control(tasks: MetaTraining, config: SearchConfig, progress: Progress | None = None) -> Found:
    """Run an evolution, and a random search that trains the same number of distinct losses."""
    start = time.monotonic()
    evolved = search(tasks.search, config, progress=progress, final_tasks=tasks.final)
    between = time.monotonic()
    control = search(tasks.search, random_control(config, evolved), progress=progress, final_tasks=tasks.final)
    end = time.monotonic()

    def best(result: SearchResult) -> SymbolicLoss:
        return as_loss(result.best[0].expr, tasks.search)

    return Found(
        best(evolved),
        best(control),
        len(evolved.trained),
        len(evolved.generations) * config.evolution.population,
        (evolved.best[0].fitness, control.best[0].fitness),
        (between - start, end - between),
    )


def choose(
    losses: Mapping[str, SymbolicLoss],
    names: Sequence[str],
    noise: float,
    hidden: tuple[int, ...],
    splits: int,
    training: TrainingConfig,
) -> tuple[str, dict[str, float]]:
    """Choose the loss with the least validation error on splits of the meta-training tasks that no search has seen.

    Returns:
        The label of that loss, and the geometric mean over tasks of the validation error of each loss.
    """
    scores = compare(losses, {name: held_out_tasks(name, noise, hidden, splits, CHOICE) for name in names}, training)
    means = {label: _geometric_mean([row[label] for row in scores.values()]) for label in losses}
    return min(means, key=lambda label: means[label]), means


def _geometric_mean(scores: Sequence[Scores]) -> float:
    return float(np.exp(np.mean([np.log(max(one.valid.mean(), 1e-4)) for one in scores])))


def list_found(found: Sequence[Found]) -> list[dict[str, Any]]:
    """What the searches found, as JSON values."""
    return [
        {
            **{name: getattr(one, name) for name in ("trained", "slots", "fitness")},
            "evolved": str(one.evolved),
            "random": str(one.random),
            "seconds": [round(s, 1) for s in one.seconds],
        }
        for one in found
    ]


def save_losses(
    folder: Path, found: Sequence[Found], kept: int, results: Mapping[str, Any], losses: Mapping[str, str], **more: Any
) -> None:
    """Write the loss of each seed, and the kept one as it can be shipped: with where it comes from and its errors.

    Args:
        folder: gets `evolved-SEED.json` per seed, and `chosen.json`.
        found: by the searches, one entry per seed.
        kept: seed of the search whose loss is kept.
        results: by task, then by label, as `summarise_seeds` and `summarise_losses` return them.
        losses: by label, the name under which a loss can be loaded.
        more: further entries of the provenance.
    """
    for seed, one in enumerate(found):
        one.evolved.save(folder / f"evolved-{seed}.json")
    scores = {
        name: {"this": row["evolved"]["each"][kept], **{losses[label]: row[label]["mean"] for label in losses}}
        for name, row in results.items()
    }
    one = found[kept]
    record = {"kind": "searched", "seed": kept, "trained": one.trained, "validation_error": one.fitness[0], **more}
    rounded = {task: {name: float(f"{error:.3g}") for name, error in row.items()} for task, row in scores.items()}
    shipped = dataclasses.replace(one.evolved, provenance=finite_or_null({**record, "scores": rounded}))
    shipped.save(folder / "chosen.json")


def tabulate(
    scores: Mapping[str, Mapping[str, Scores]], evolved: Sequence[str], random: Sequence[str], baselines: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """The errors on each task as JSON values: of all evolved losses, of all random ones, and of each baseline.

    Args:
        scores: by task, then by label, as `compare` returns them.
        evolved: labels of the losses of the evolutions, one per seed.
        random: labels of the losses of the random searches.
        baselines: labels of the losses made by hand.
    """
    return {
        task: {
            "evolved": summarise_losses(row, evolved),
            "random": summarise_losses(row, random),
            **{label: summarise_seeds(row[label]) for label in baselines},
        }
        for task, row in scores.items()
    }


def format_table(results: Mapping[str, Any], corner: str, digits: int, unit: float = 1.0) -> str:
    """The table of errors by task and loss, as text; the arguments are those of `tabulate` and `format_mean`."""
    labels = list(next(iter(results.values())))
    titles = {label: f"{label} (worst seed)" if label in ("evolved", "random") else label for label in labels}
    columns = {titles[label]: [format_mean(row[label], digits, unit) for row in results.values()] for label in labels}
    return format_columns(list(results), columns, corner)


def scale_to_unit(values: Float[ArrayLike, "N"]) -> Float[np.ndarray, "N"]:
    """Values moved and scaled to reach from 0 to 1; zeros if they are all equal. For curves in one picture."""
    exact = np.asarray(values, np.float64)
    return (exact - exact.min()) / max(float(np.ptp(exact)), 1e-12)


def label_losses(ax: Any, inputs: str) -> None:
    """Name the axes of a plot of the losses found, scaled by `scale_to_unit`, against `inputs`."""
    ax.set_xlabel(inputs)
    ax.set_ylabel("loss, from 0 to 1 on this range")
    ax.set_title("losses found", fontsize=9)
    ax.legend(fontsize=7, frameon=False)
