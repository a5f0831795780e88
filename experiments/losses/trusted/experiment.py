"""Losses one can trust: found by searches of equal budget, then compared on data sets that no search has seen.

Four ways to search, five seeds each (`contest.py`), see data sets of 2 to 100 classes with 0 to 60 % wrong labels. Of
the losses that the searches with a model found, the one with the least validation error on further splits is chosen;
among those within one standard error of it, the smallest. It is compared on eight other data sets (`data.py`): clean,
with 30 % symmetric and with 30 % class-dependent noise. Beside it stand generalised cross-entropy, probability-MAE,
label smoothing and bootstrapping. Each loss has its own learning rate of Adam, from 1e-4 to 1e-2, for each data set,
by clean validation examples. At last all train with 1,000 classes.

The rule of the verdict, written before the run. Scores are mean logarithms of ratios of test errors over the eight data
sets.

- search: the held-out score of the losses that the searches with a model found, minus that of random search, per seed.
  Holds if its 95 % interval over seeds lies below 0, behind if it lies above; otherwise open.
- noise: for both kinds of noise, the score of the chosen loss over each of the four others is at most 0, else short. It
  holds if the upper ends of the 95 % intervals over data sets are at most 0 too, and is open otherwise.
- clean: holds if the chosen loss has at most half a point more error than label smoothing on each data set, else short.
- many classes: holds if with 1,000 classes, clean, it has at most half a point more error than label smoothing.

    python -m experiments trusted_losses            # kept part by part; the same command continues
    python -m experiments trusted_losses quick      # one seed, four data sets to search on
    python -m experiments trusted_losses --help
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.losses.trusted.comparison import LEAST, Condition, as_candidate, compare, log_ratios
from experiments.losses.trusted.contest import RATES, SEARCHED, STRATEGIES, find_loss
from experiments.losses.trusted.data import HELD_OUT, NOISES
from experiments.losses.trusted.report import BASELINES, draw, format_tables, judge, judge_contest, save_loss
from experiments.suite.cells import remember, settings_of
from experiments.suite.results import write_result
from metalearn.runs.progress import Progress
from metalearn_models.losses import load
from metalearn_models.losses.formulas import parse, size
from metalearn_models.losses.search.config import Strategy
from metalearn_tasks.objectives.baselines import learning_rates

__all__ = ["PRESETS", "TrustedLossesConfig", "format_result", "run"]

COMPARED = learning_rates(1e-4, 1e-2, per_decade=2, digits=1)
CHOICE = 500
"""The first split for choosing among the losses found; searches use smaller ones."""
FRESH = 1000
"""The first split for comparisons."""


@dataclass(frozen=True)
class TrustedLossesConfig:
    """Search in four ways, choose a loss, and compare it on eight other data sets."""

    seeds: int = 5
    """Seeds of the searches."""
    trained: int = 20
    """Distinct losses that each search trains."""
    population: int = 8
    """Losses per generation of a search."""
    sets: int = len(SEARCHED)
    """Data sets of the searches, from the first on."""
    choice_splits: int = 2
    """Further splits of them, for choosing one loss."""
    contest_seeds: int = 2
    """Splits, noises and networks on which the losses of all searches are compared."""
    fresh_seeds: int = 5
    """Those on which the chosen loss is compared."""
    held_out: tuple[str, ...] = HELD_OUT
    """Data sets of the comparisons."""
    share: float = 0.3
    """Of wrong labels in the comparisons."""
    many: str = "template-1000"
    """The data set for the last check; empty for none."""
    steps: int = 400
    """Steps of each training."""
    out: Path = Path("runs/trusted_losses")
    """Folder for the picture, the table and the parts that are done."""


PRESETS = {
    "standard": TrustedLossesConfig(),
    "quick": TrustedLossesConfig(
        seeds=2,
        trained=16,
        sets=4,
        choice_splits=1,
        contest_seeds=1,
        fresh_seeds=2,
        held_out=("breast_cancer", "rings", "iris", "digits-high"),
        many="",
    ),
}


def run(config: TrustedLossesConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, choose, compare and draw; returns what result.json holds, errors as shares."""
    start = time.monotonic()
    if progress is not None:
        progress.start(0, config.seeds)
    choice = _choose([search_once("model", seed, config) for seed in range(config.seeds)], config)
    names = ("cross-entropy", *BASELINES, "label-noise")
    contestants = {"found": as_candidate(choice["chosen"]), **{name: load(name) for name in names}}
    conditions: list[Condition] = [(name, noise, config.share) for noise in NOISES for name in config.held_out]
    results = _compare_each(contestants, conditions, range(FRESH, FRESH + config.fresh_seeds), COMPARED, config)
    many: dict[str, Any] = {}
    if config.many:
        conditions = [(config.many, noise, config.share) for noise in ("symmetric", "clean")]
        many = _compare_each(contestants, conditions, range(FRESH, FRESH + 1), RATES, config)
    found = []
    for seed in range(config.seeds):
        found.append({name: search_once(name, seed, config) for name in STRATEGIES})
        if progress is not None:
            progress.update(seed + 1, {})
    contest = _hold_contest(sorted({one for row in found for one in row.values()}), config)
    if progress is not None:
        progress.close()
    result = {
        "found": found,
        "choice": choice,
        "contest": judge_contest(contest, found),
        "results": results,
        "many": many,
        "verdict": judge(results, many),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "trusted_losses.png"),
    }
    result["verdict"]["search"] = result["contest"]["verdict"]
    draw(config.out / "trusted_losses.png", result)
    facts = {
        "trained": config.trained,
        "tasks": "; ".join(
            name + (f", {share:.0%} {noise} noise" if share else ", clean")
            for name, noise, share in SEARCHED[: config.sets]
        ),
        "unit": "test error as a share, held-out data sets, with 30 % wrong labels or clean; mean over "
        f"{config.fresh_seeds} splits, noises and networks (one with 1,000 classes)",
        "chosen": f"of {config.seeds} searches, by validation error on further splits of their data sets: the smallest "
        "within one standard error of the best",
    }
    save_loss(config.out / "chosen.json", result, facts)
    return write_result(config.out, result)


def format_result(result: Mapping[str, Any]) -> str:
    """The tables of errors in per cent, the contest of the searches, and the verdict."""
    return format_tables(result)


def search_once(strategy: Strategy, seed: int, config: TrustedLossesConfig) -> str:
    """The formula that one search found, from the folder if it was run before."""
    settings = settings_of(config)
    return remember(
        config.out,
        f"{strategy}-{seed}",
        {name: settings[name] for name in ("trained", "population", "sets", "steps")},
        lambda: find_loss(strategy, seed, config.trained, config.population, config.steps, config.sets),
    )


def _compare_each(
    losses: Mapping[str, Any],
    conditions: Sequence[Condition],
    seeds: range,
    rates: Sequence[float],
    config: TrustedLossesConfig,
) -> dict[str, dict[str, Any]]:
    """What `compare` gives, condition by condition, from the folder where one was run before."""
    named, results = {name: str(loss) for name, loss in losses.items()}, {}
    for condition in conditions:
        asked = {"losses": named, "condition": condition, "seeds": list(seeds), "rates": rates, "steps": config.steps}
        name = f"compare-{condition[0]}-{condition[1]}"
        results |= remember(
            config.out, name, asked, lambda one=condition: compare(losses, [one], seeds, rates, config.steps)
        )
    return results


def _choose(formulas: list[str], config: TrustedLossesConfig) -> dict[str, Any]:
    """The formula with the least geometric mean of validation errors; a smaller one within a standard error of it."""
    losses = {one: as_candidate(one) for one in dict.fromkeys(formulas)}
    seeds = range(CHOICE, CHOICE + config.choice_splits)
    by_condition = _compare_each(losses, SEARCHED[: config.sets], seeds, RATES, config)
    scores = {
        one: np.log(np.maximum([row[one]["valid"] for row in by_condition.values()], LEAST)).ravel() for one in losses
    }
    best = min(scores, key=lambda one: float(scores[one].mean()))
    near = [best]
    for one, row in scores.items():
        apart = row - scores[best]
        if one != best and apart.mean() <= apart.std(ddof=1) / np.sqrt(len(apart)):
            near.append(one)
    return {
        "chosen": min(near, key=lambda one: (size(parse(one)), scores[one].mean())),
        "validation": {one: float(np.exp(row.mean())) for one, row in scores.items()},
    }


def _hold_contest(formulas: list[str], config: TrustedLossesConfig) -> dict[str, float]:
    """By formula, the mean logarithm of its test error over that of cross-entropy, on held-out data with noise."""
    losses: dict[str, Any] = {"cross-entropy": load("cross-entropy"), **{one: as_candidate(one) for one in formulas}}
    conditions: list[Condition] = [(name, noise, config.share) for noise in NOISES[:2] for name in config.held_out]
    seeds = range(CHOICE + 100, CHOICE + 100 + config.contest_seeds)
    results = _compare_each(losses, conditions, seeds, RATES, config)
    return {one: float(np.mean(log_ratios(results, one, "cross-entropy"))) for one in formulas}
