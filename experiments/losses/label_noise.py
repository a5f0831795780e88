"""A loss learned from tasks with wrong labels, on three data sets that the search has not seen.

Labels of 40 % of the training examples are drawn again, uniformly from all classes. Genetic programming searches for
losses with five seeds (the representation of EvoMAL, Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907). Its tasks are
the digits 0 to 4, the same with half of them turned as five more classes, and wine. Networks are then trained with the
losses found on the digits 5 to 9, breast cancer and iris. Beside them stand cross-entropy, label smoothing, two losses
made for wrong labels, and a random search that trained as many formulas, each loss with its own learning rate. The last
rows compare the same losses without noise.

    python -m experiments label_noise            # about seven minutes on two cores
    python -m experiments label_noise quick      # one small search, about a minute
    python -m experiments label_noise --help
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.losses._comparison import (
    Scores,
    choose_rate,
    compare,
    draw_errors,
    held_out_tasks,
    share_compilations,
)
from experiments.losses._searching import (
    Found,
    choose,
    format_table,
    label_losses,
    list_found,
    meta_training_tasks,
    save_losses,
    scale_to_unit,
    search_with_control,
    tabulate,
)
from experiments.suite.results import write_result
from experiments.suite.tables import read_number
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import load
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_models.losses.search.search import SearchConfig
from metalearn_tasks.objectives.baselines import learning_rates

BASELINES = {"CE": "cross-entropy", "LS .1": "label-smoothing", "MAE": "probability-mae", "GCE .7": "gce"}
META_TRAINING = ("digits-low", "digits-low-turned", "wine")
RATES = learning_rates(1e-4, 3e-2, per_decade=2, digits=1)
FULL_SPEED = 1e-3
"""With a smaller learning rate the 400 steps end before wrong labels are memorised: early stopping, with any loss."""
HELD_OUT = ("digits-high", "breast_cancer", "iris")


@dataclass(frozen=True)
class LabelNoiseConfig:
    """Search for losses on digits 0 to 4 and wine, and compare them on digits 5 to 9, breast cancer and iris."""

    seeds: int = 5
    """Searches, from seed 0 on; each has its own splits, noise, networks and formulas."""
    splits: tuple[int, int] = (2, 4)
    """Splits per meta-training task: those of a search, and others for judging its finalists."""
    choice_splits: int = 6
    """Further splits, for choosing one of the seeds' losses."""
    noise: float = 0.4
    """Share of the training labels that are drawn again from all classes, in the search and in the comparison."""
    population: int = 40
    """Formulas per generation."""
    generations: int = 5
    """Generations per search at most."""
    max_trained: int = 60
    """Distinct losses trained per search at most."""
    finalists: int = 8
    """Losses per search that are judged on further splits."""
    steps: int = 400
    """Steps per training, in the search and in the comparison."""
    fresh_seeds: int = 10
    """Splits, noises and networks per task that the losses are compared on."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the network's hidden layers."""
    out: Path = Path("runs/label_noise")
    """Folder for the picture, the table and the losses found."""


PRESETS = {
    "standard": LabelNoiseConfig(),
    "quick": LabelNoiseConfig(
        seeds=1,
        splits=(1, 2),
        choice_splits=2,
        population=16,
        generations=3,
        max_trained=16,
        finalists=4,
        fresh_seeds=4,
    ),
}


def search_config(config: LabelNoiseConfig, seed: int) -> SearchConfig:
    """The search of one seed: with less selection, more mutation and more newcomers, since generations are few."""
    evolution = EvolutionConfig(
        population=config.population,
        tournament=2,
        crossover=0.55,
        mutation=0.4,
        newcomers=0.25,
        seeds=SEEDS["classification"],
    )
    return SearchConfig(
        evolution,
        TrainingConfig(steps=config.steps, seeds=1, learning_rates=RATES[1:5]),
        config.generations,
        max_trained=config.max_trained,
        finalists=config.finalists,
        average="geometric",
        seed=seed,
    )


def run(config: LabelNoiseConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, compare and draw; returns what result.json holds, errors as shares."""
    start = time.monotonic()
    with share_compilations():
        found: list[Found] = []
        for seed in range(config.seeds):
            tasks = meta_training_tasks(META_TRAINING, config.noise, config.hidden, seed, config.splits)
            found.append(search_with_control(tasks, search_config(config, seed), progress))
        searched = time.monotonic()
        evolved = {f"evolved, seed {seed}": one.evolved for seed, one in enumerate(found)}
        random = {f"random, seed {seed}": one.random for seed, one in enumerate(found)}
        training = TrainingConfig(steps=config.steps, learning_rates=RATES)
        kept, validation = choose(evolved, META_TRAINING, config.noise, config.hidden, config.choice_splits, training)
        losses = {**evolved, **random, **{label: load(name) for label, name in BASELINES.items()}}
        tasks = {
            _title(name, noise): held_out_tasks(name, noise, config.hidden, config.fresh_seeds)
            for noise in (config.noise, 0.0)
            for name in HELD_OUT
        }
        scores = compare(losses, tasks, training)
    results = tabulate(scores, list(evolved), list(random), BASELINES)
    draw(config, found, results)
    seed = list(evolved).index(kept)
    save_losses(
        config.out,
        found,
        seed,
        results,
        BASELINES,
        command="python -m experiments label_noise",
        tasks="classification of the digits 0-4, of the digits 0-4 with half of them turned as five more classes, and "
        f"of wine (scikit-learn), {config.noise:.0%} of the training labels drawn again from all classes",
        unit=f"test error as a share, held-out data sets, mean over {config.fresh_seeds} splits, noises and networks",
        chosen=f"of {config.seeds} seeds, by validation error on further splits of the meta-training tasks",
    )
    result = {
        "results": results,
        "claims": compare_with_cross_entropy(scores[_title(HELD_OUT[0], config.noise)], list(evolved)),
        "found": list_found(found),
        "chosen": {"seed": seed, "validation": list(validation.values())},
        "search_seconds": round(searched - start, 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "losses.png"),
    }
    return write_result(config.out, result)


def compare_with_cross_entropy(scores: Mapping[str, Scores], evolved: Sequence[str]) -> dict[str, Any]:
    """The error of each seed's loss over that of cross-entropy: at any learning rate, and at those of full speed.

    Args:
        scores: on one task, by loss.
        evolved: labels of the seeds' losses.
    """
    fast = {label: choose_rate(scores[label].by_rate, RATES, FULL_SPEED) for label in ("CE", *evolved)}
    parts = {"of CE": scores, "of CE, rates from 0.001": fast}
    return {
        name: [float(part[label].test.mean() / max(part["CE"].test.mean(), 1e-12)) for label in evolved]
        for name, part in parts.items()
    } | {"CE, rates from 0.001": float(fast["CE"].test.mean())}


def format_result(result: Mapping[str, Any]) -> str:
    """The table of errors in per cent, and the loss of each seed."""
    lines = [format_table(result["results"], "test error, %", digits=1, unit=100), ""]
    for seed, one in enumerate(result["found"]):
        ratio, fast = (read_number(result["claims"][name][seed]) for name in ("of CE", "of CE, rates from 0.001"))
        lines.append(
            f"seed {seed}: {one['evolved']}   ({HELD_OUT[0]}: {ratio:.2f} of CE's error, {fast:.2f} from 0.001 on; "
            f"{one['trained']} trained, {one['seconds'][0]} s; random: {one['random']})"
        )
    lines.append(f"chosen on the meta-training tasks: seed {result['chosen']['seed']}")
    lines.append(f"picture: {result['picture']} ({result['search_seconds']} of {result['seconds']} s for searches)")
    return "\n".join(lines)


def _title(name: str, noise: float) -> str:
    return f"{name}, {noise:.0%} noise" if noise else f"{name}, clean"


def draw(config: LabelNoiseConfig, found: Sequence[Found], results: Mapping[str, Any]) -> None:
    """Draw the errors on the tasks with noise, and the losses found against the probability of the label."""
    figure, axes = new_figure(columns=4, width=3.4)
    for ax, name in zip(axes, HELD_OUT, strict=False):
        row = results[_title(name, config.noise)]
        points = {label: [100 * e for e in row[label]["each"]] for label in ("evolved", "random", *BASELINES)}
        draw_errors(ax, points, "test error, %", log=False)
        ax.set_title(f"{_title(name, config.noise)} (held out)", fontsize=9)
    p = np.linspace(1e-3, 1 - 1e-3, 400, dtype=np.float32)
    logits, labels = np.stack([np.log(p), np.log1p(-p)], -1), np.zeros(len(p), np.int32)
    shown: dict[str, tuple[Any, str]] = {f"seed {seed}": (one.evolved, "-") for seed, one in enumerate(found)}
    baselines = {label: (load(name), "--") for label, name in BASELINES.items() if label in ("CE", "GCE .7")}
    for label, (loss, style) in (shown | baselines).items():
        axes[-1].plot(p, scale_to_unit(loss(logits, labels)), style, linewidth=1.4, label=label)
    label_losses(axes[-1], "probability of the label (two classes)")
    save(figure, config.out / "losses.png")
