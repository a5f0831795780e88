"""A loss learned from tasks with corrupted targets, on two tasks that the search has not seen.

A fifth of the training targets is shifted by 3 to 8 standard deviations, four of five upward. Genetic programming
searches for losses on diabetes and friedman1 with five seeds (the representation of EvoMAL, Raymond, Chen, Xue, Zhang
2023, arXiv 2209.08907). Networks are then trained with the losses found on friedman2 and friedman3, with 20 and 40 %
corrupted targets and with none. Beside them stand five losses made by hand, and a random search that trained as many
formulas, each loss with its own learning rate.

    python -m experiments robust_regression            # about six minutes on two cores
    python -m experiments robust_regression quick      # one small search, about a minute
    python -m experiments robust_regression --help
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.losses._comparison import compare, draw_errors, held_out_tasks, share_compilations
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
from experiments.suite.tables import format_columns, read_numbers
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import load
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_models.losses.search.search import SearchConfig
from metalearn_tasks.objectives.baselines import learning_rates

META_TRAINING = ("diabetes", "friedman1")
BASELINES = ("mse", "mae", "huber", "cauchy", "welsch")
RATES = learning_rates(3e-4, 0.1, per_decade=2, digits=1)
HELD_OUT = (("friedman2", 0.2), ("friedman3", 0.2), ("friedman2", 0.4), ("friedman3", 0.4))
CLEAN = (("friedman2", 0.0), ("friedman3", 0.0))


@dataclass(frozen=True)
class RobustRegressionConfig:
    """Search for losses on diabetes and friedman1, and compare them on friedman2 and friedman3."""

    seeds: int = 5
    """Searches, from seed 0 on; each has its own splits, noise, networks and formulas."""
    splits: tuple[int, int] = (3, 6)
    """Splits per meta-training task: those of a search, and others for judging its finalists."""
    choice_splits: int = 8
    """Further splits, for choosing one of the seeds' losses."""
    noise: float = 0.2
    """Share of the training targets that is corrupted in the search."""
    population: int = 100
    """Formulas per generation."""
    generations: int = 9
    """Generations per search."""
    climbs: int = 3
    """How many of the last generations try all formulas one change away from the best."""
    finalists: int = 12
    """Losses per search that are judged on further splits."""
    steps: int = 400
    """Steps per training, in the search and in the comparison."""
    fresh_seeds: int = 20
    """Splits, noises and networks per task that the losses are compared on."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the network's hidden layers."""
    out: Path = Path("runs/robust_regression")
    """Folder for the picture, the table and the losses found."""


PRESETS = {
    "standard": RobustRegressionConfig(),
    "quick": RobustRegressionConfig(
        seeds=1, splits=(1, 2), choice_splits=2, population=30, generations=4, climbs=1, finalists=4, fresh_seeds=5
    ),
}


def search_config(config: RobustRegressionConfig, seed: int) -> SearchConfig:
    """The search of one seed: with smaller first trees, less selection, more mutation and newcomers: few generations.

    The average over tasks is geometric, because the noise of diabetes is most of the sum of errors. Rows are so few
    that the tables of all searches have the same shape, so they share one compilation.
    """
    training = TrainingConfig(steps=config.steps, seeds=1, rows=128, learning_rates=RATES[1:])
    evolution = EvolutionConfig(
        population=config.population,
        initial_height=(1, 3),
        tournament=2,
        crossover=0.55,
        mutation=0.4,
        newcomers=0.25,
        seeds=SEEDS["regression"],
    )
    return SearchConfig(
        evolution,
        training,
        config.generations,
        climbs=config.climbs,
        finalists=config.finalists,
        average="geometric",
        seed=seed,
    )


def run(config: RobustRegressionConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, compare and draw; returns what result.json holds."""
    start = time.monotonic()
    found: list[Found] = []
    with share_compilations():
        for seed in range(config.seeds):
            tasks = meta_training_tasks(META_TRAINING, config.noise, config.hidden, seed, config.splits)
            found.append(search_with_control(tasks, search_config(config, seed), progress))
        searched = time.monotonic()
        training = TrainingConfig(steps=config.steps, learning_rates=RATES)
        evolved = {f"evolved, seed {seed}": one.evolved for seed, one in enumerate(found)}
        random = {f"random, seed {seed}": one.random for seed, one in enumerate(found)}
        kept, validation = choose(evolved, META_TRAINING, config.noise, config.hidden, config.choice_splits, training)
        losses = {**evolved, **random, **{name: load(name) for name in BASELINES}}
        tasks = {
            _title(*task): held_out_tasks(*task, config.hidden, config.fresh_seeds) for task in (*HELD_OUT, *CLEAN)
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
        {name: name for name in BASELINES},
        command="python -m experiments robust_regression",
        tasks=f"regression on diabetes and friedman1 (scikit-learn), {config.noise:.0%} of the training targets "
        "shifted by 3 to 8 standard deviations",
        unit="test mean squared error of standardised targets, held-out tasks, mean over "
        f"{config.fresh_seeds} splits, noises and networks",
        chosen=f"of {config.seeds} seeds, by validation error on further splits of the meta-training tasks",
    )
    result = {
        "results": results,
        "claims": compare_with_baselines({name: results[name] for name in (_title(*task) for task in HELD_OUT)}),
        "found": list_found(found),
        "chosen": {"seed": seed, "validation": list(validation.values())},
        "search_seconds": round(searched - start, 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "losses.png"),
    }
    return write_result(config.out, result)


def compare_with_baselines(results: Mapping[str, Any]) -> dict[str, Any]:
    """How the evolved losses of all seeds compare with three losses made by hand, by task.

    Args:
        results: by task, by loss, as in result.json.

    Returns:
        By task: `mse_over`, the error with MSE over that with each seed's loss; `over_mae` and `over_welsch`, the error
        with each seed's loss over that with MAE and with Welsch's loss.
    """
    ratios = {}
    for name, row in results.items():
        each = np.asarray(row["evolved"]["each"])
        ratios[name] = {
            "mse_over": (row["mse"]["mean"] / each).tolist(),
            "over_mae": (each / row["mae"]["mean"]).tolist(),
            "over_welsch": (each / row["welsch"]["mean"]).tolist(),
        }
    return ratios


def format_result(result: Mapping[str, Any]) -> str:
    """The table of errors, the ratios to three baselines, and the loss of each seed."""
    lines = [format_table(result["results"], "test MSE", digits=3), ""]
    titles = {
        "MSE / evolved": ("mse_over", 1),
        "evolved / MAE": ("over_mae", 2),
        "evolved / Welsch": ("over_welsch", 2),
    }
    ratios = {
        title: [_format_range(row[key], digits) for row in result["claims"].values()]
        for title, (key, digits) in titles.items()
    }
    lines += [format_columns(list(result["claims"]), ratios, "over search seeds"), ""]
    for seed, one in enumerate(result["found"]):
        lines.append(
            f"seed {seed}: {one['evolved']}   ({one['trained']} of {one['slots']} trained, {one['seconds'][0]} s; "
            f"random: {one['random']})"
        )
    lines.append(f"chosen on the meta-training tasks: seed {result['chosen']['seed']}")
    lines.append(f"picture: {result['picture']} ({result['search_seconds']} of {result['seconds']} s for searches)")
    return "\n".join(lines)


def _format_range(ratios: Sequence[float | None], digits: int) -> str:
    values = read_numbers(ratios)
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def _title(name: str, noise: float) -> str:
    return f"{name}, {noise:.0%} corrupted" if noise else f"{name}, clean"


def draw(config: RobustRegressionConfig, found: Sequence[Found], results: Mapping[str, Any]) -> None:
    """Draw the errors on two held-out tasks, and the losses found against the residual."""
    figure, axes = new_figure(columns=3, width=4.0)
    for ax, task in zip(axes, HELD_OUT[:2], strict=False):
        row = results[_title(*task)]
        draw_errors(ax, {label: row[label]["each"] for label in ("evolved", "random", *BASELINES)}, "test MSE", True)
        ax.set_title(f"{_title(*task)} (held out)", fontsize=9)
    r = np.linspace(-8, 8, 641, dtype=np.float32)
    shown: dict[str, tuple[Any, str]] = {f"seed {seed}": (one.evolved, "-") for seed, one in enumerate(found)}
    for label, (loss, style) in (shown | {name: (load(name), "--") for name in ("mae", "welsch")}).items():
        axes[-1].plot(r, scale_to_unit(loss(r[:, None], np.zeros_like(r))), style, linewidth=1.4, label=label)
    label_losses(axes[-1], "prediction - target, target 0")
    save(figure, config.out / "losses.png")
