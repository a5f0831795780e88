"""Losses of regression in the unit that a user has: 30 % outliers, targets scaled by their own median and MAD.

A user does not know which targets are outliers, so no standard deviation without them. Here targets are scaled by
median and MAD (or, as a second condition, by mean and standard deviation) of the training targets as they are. The
search lists functions of the residual and lets a model choose (`losses.search.enumeration`), on diabetes and
friedman1 in that unit, with three seeds; the loss with the least validation error on further splits is compared on
friedman2 and friedman3. Each loss has its own learning rate and its own scale, of half, once and twice the unit, by
clean validation examples.

The rule of the verdict, written before the run: holds if, with outliers and scaled by median and MAD, the geometric
mean over the held-out tasks of the test error of the found loss is at most that of Welsch's (1978); short otherwise.
The same is said of the shipped `robust-regression`.

    python -m experiments robust_units
    python -m experiments robust_units quick      # one seed, fewer splits
    python -m experiments robust_units --help
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.losses._comparison import FRESH, HeldOut, compare, draw_errors, share_compilations
from experiments.losses._searching import CHOICE
from experiments.suite.cells import remember, settings_of
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns
from metalearn.intervals import half_width
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import SymbolicLoss, load
from metalearn_models.losses.formulas import parse, to_text
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.losses.search.search import SearchConfig, prefer_small, search
from metalearn_tasks.datasets.corrupted import Unit, clean_splits, loss_task
from metalearn_tasks.objectives.baselines import learning_rates

META_TRAINING = ("diabetes", "friedman1")
HELD_OUT = ("friedman2", "friedman3")
CONDITIONS: tuple[tuple[float, Unit], ...] = ((0.3, "robust"), (0.3, "deviation"), (0.0, "robust"))
RATES = learning_rates(1e-3, 3e-2, per_decade=2, digits=1)
SCALES = (0.5, 1.0, 2.0)
NAMES = ("mae", "huber", "welsch", "robust-regression")


@dataclass(frozen=True)
class RobustUnitsConfig:
    """Search for a loss in the unit of median and MAD, and compare it on two other tasks."""

    seeds: int = 3
    """Searches."""
    trained: int = 60
    """Distinct losses that each search trains."""
    population: int = 12
    """Losses per generation."""
    splits: int = 2
    """Splits per task, in each search and for its finalists."""
    choice_splits: int = 8
    """Further splits, for choosing one of the seeds' losses."""
    fresh_seeds: int = 12
    """Splits, outliers and networks on which losses are compared."""
    steps: int = 400
    """Steps of each training."""
    out: Path = Path("runs/robust_units")
    """Folder for the picture, the table and the parts that are done."""


PRESETS = {
    "standard": RobustUnitsConfig(),
    "quick": RobustUnitsConfig(seeds=1, trained=24, splits=1, choice_splits=2, fresh_seeds=4),
}


def run(config: RobustUnitsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, choose, compare and draw; returns what result.json holds, errors in the unit of the targets."""
    start, settings = time.monotonic(), settings_of(config)
    searching = {name: settings[name] for name in ("trained", "population", "splits", "steps")}
    with share_compilations():
        found = [
            remember(config.out, f"search-{seed}", searching, lambda seed=seed: find_loss(seed, config, progress))
            for seed in range(config.seeds)
        ]
        asked = {"found": found, **settings}
        chosen = remember(config.out, "choice", asked, lambda: _choose(found, config))
        results = remember(config.out, "compare", asked, lambda: _compare_all(chosen["chosen"], config))
    result = {
        "found": found,
        "choice": chosen,
        "results": results,
        "verdict": judge(results),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "robust_units.png"),
    }
    draw(config, result)
    return write_result(config.out, result)


def find_loss(seed: int, config: RobustUnitsConfig, progress: Progress | None = None) -> str:
    """The loss that a search with one seed finds, as text."""
    noise, unit = CONDITIONS[0]

    def tasks(first: int) -> list[LossTask]:
        return [loss_task(name, noise, (32,), first + i, unit) for name in META_TRAINING for i in range(config.splits)]

    settings = SearchConfig(
        EvolutionConfig(population=config.population, seeds=SEEDS["regression"]),
        TrainingConfig(steps=config.steps, seeds=1, rows=128, learning_rates=RATES),
        generations=100,
        strategy="model",
        max_trained=config.trained,
        finalists=4,
        average="geometric",
        seed=seed,
    )
    first = 2 * seed * config.splits
    result = search(tasks(first), settings, progress=progress, final_tasks=tasks(first + config.splits))
    return to_text(prefer_small(result.best).expr)


def as_loss(formula: str, scale: float = 1.0) -> SymbolicLoss:
    """A formula that was found, in a unit."""
    return SymbolicLoss(parse(formula), link="identity", scale=scale)


def held_out(name: str, noise: float, unit: Unit, seeds: range) -> list[HeldOut]:
    """A task once per seed, its test targets in the same unit as its training targets."""
    rows = []
    for seed in seeds:
        task, clean = loss_task(name, noise, (32,), seed, unit), clean_splits(name, seed)
        # The unit, from two clean validation targets: `loss_task` scales them as it does the training targets.
        before, after = clean.valid[1], np.asarray(task.valid[1])
        low, high = int(before.argmin()), int(before.argmax())
        factor = (after[high] - after[low]) / (before[high] - before[low])
        targets = (clean.test[1] - before[low]) * factor + after[low]
        rows.append(HeldOut(task, (clean.test[0], targets.astype(np.float32))))
    return rows


def _choose(found: list[str], config: RobustUnitsConfig) -> dict[str, Any]:
    """The formula with the least geometric mean of validation errors on further splits of the search's tasks."""
    noise, unit = CONDITIONS[0]
    tasks = {name: held_out(name, noise, unit, range(CHOICE, CHOICE + config.choice_splits)) for name in META_TRAINING}
    losses = {one: as_loss(one) for one in dict.fromkeys(found)}
    scores = compare(losses, tasks, TrainingConfig(steps=config.steps, learning_rates=RATES))
    means = {one: float(np.exp(np.mean([np.log(row[one].valid.mean()) for row in scores.values()]))) for one in losses}
    return {"chosen": min(means, key=lambda one: means[one]), "validation": means}


def _compare_all(formula: str, config: RobustUnitsConfig) -> dict[str, Any]:
    """Test errors by condition and loss, each with the scale and learning rate of the least validation error."""
    losses: dict[tuple[str, float], Any] = {("found", scale): as_loss(formula, scale) for scale in SCALES}
    for name, scale in itertools.product(NAMES, SCALES):
        if name != "mae" or scale == 1:  # a scale only multiplies the absolute error
            losses[name, scale] = load(name, scale=scale)
    seeds = range(FRESH, FRESH + config.fresh_seeds)
    tasks = {
        title(name, noise, unit): held_out(name, noise, unit, seeds) for noise, unit in CONDITIONS for name in HELD_OUT
    }
    named = {f"{name} {scale:g}": loss for (name, scale), loss in losses.items()}
    scores = compare(named, tasks, TrainingConfig(steps=config.steps, learning_rates=RATES))
    results: dict[str, Any] = {}
    for task, row in scores.items():
        results[task] = {}
        for name in ("found", *NAMES):
            options = [label for label in row if label.rpartition(" ")[0] == name]
            best = min(options, key=lambda label: float(row[label].valid.mean()))
            results[task][name] = {
                "each": row[best].test.tolist(),
                "scale": float(best.rpartition(" ")[2]),
                "rate": row[best].rate,
            }
    return results


def title(name: str, noise: float, unit: Unit) -> str:
    """The name of a condition in tables."""
    return f"{name}, {noise:.0%} outliers, {unit} unit"


def judge(results: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict by the rule at the head of this file, and the ratios of errors that it rests on."""
    rows = [results[title(name, *CONDITIONS[0])] for name in HELD_OUT]
    ratios = {
        label: [float(np.mean(row[label]["each"]) / np.mean(row["welsch"]["each"])) for row in rows]
        for label in ("found", "robust-regression", "huber", "mae")
    }
    over = {label: float(np.exp(np.mean(np.log(row)))) for label, row in ratios.items()}
    verdict = {label: "holds" if over[label] <= 1 else "short" for label in ("found", "robust-regression")}
    return {"over welsch": ratios, "geometric mean over welsch": over, **verdict}


def format_result(result: Mapping[str, Any]) -> str:
    """The table of mean squared errors with their intervals, and the verdict."""
    rows = result["results"]
    columns = {
        label: [
            f"{np.mean(row[label]['each']):.4f} ± {half_width(row[label]['each']):.4f} ({row[label]['scale']:g})"
            for row in rows.values()
        ]
        for label in next(iter(rows.values()))
    }
    verdict = result["verdict"]
    over = ", ".join(f"{label} {ratio:.3f}" for label, ratio in verdict["geometric mean over welsch"].items())
    return "\n".join(
        [
            f"found: {result['choice']['chosen']}",
            format_columns(list(rows), columns, "test MSE (scale)"),
            f"error over Welsch's, outliers, unit of median and MAD: {over}",
            f"verdict: found: {verdict['found']}, robust-regression: {verdict['robust-regression']}",
            f"picture: {result['picture']} ({result['seconds']} s)",
        ]
    )


def draw(config: RobustUnitsConfig, result: Mapping[str, Any]) -> None:
    """Draw the test errors with outliers, in both units."""
    figure, axes = new_figure(columns=4, width=3.2)
    shown = [name for name in result["results"] if "30%" in name]
    for ax, name in zip(axes, shown, strict=True):
        draw_errors(ax, {label: row["each"] for label, row in result["results"][name].items()}, "test MSE", log=True)
        ax.set_title(name, fontsize=8)
    save(figure, config.out / "robust_units.png")
