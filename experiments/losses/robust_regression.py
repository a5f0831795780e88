"""A loss function learned on two tasks with corrupted targets, on two tasks it has not seen.

A fifth of the training targets is shifted by 3 to 8 standard deviations, four of five upward. Losses are searched for
on diabetes and friedman1 by genetic programming (the representation of EvoMAL, Raymond, Chen, Xue, Zhang 2023, arXiv
2209.08907), with five seeds; networks are then trained with the losses found on friedman2 and friedman3, with 20 and
40 % corrupted targets and with none. Beside them: five losses made by hand, each with its own learning rate, and a
random search that trained as many formulas.

    python -m experiments robust_regression            # about six minutes on two cores
    python -m experiments robust_regression --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.losses._comparison import compare, compiled_once, draw_errors, held_out, merged, summary, text_table
from experiments.losses._searching import Found, choose, meta_training, records, search_with_control, with_provenance
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
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
    """Splits of each meta-training task: those of a search, and others on which its finalists are judged."""
    choice_splits: int = 8
    """Further ones, by which one of the seeds' losses is chosen."""
    noise: float = 0.2
    """Share of corrupted training targets while searching."""
    population: int = 100
    """Formulas in a generation."""
    generations: int = 9
    """Generations of a search."""
    climbs: int = 3
    """The last ones of them, which try all formulas one change away from the best."""
    finalists: int = 12
    """Losses of a search that are judged on further splits."""
    steps: int = 400
    """Steps of each training, in the search and in the comparison."""
    fresh_seeds: int = 20
    """Splits, noise and networks that each loss is compared on."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the network's hidden layers."""
    out: Path = Path("runs/robust_regression")
    """Folder of the picture, the table and the losses found."""
    json: bool = False
    """Print one JSON object as the last line."""


def search_config(config: RobustRegressionConfig, seed: int) -> SearchConfig:
    """The search of one seed: smaller first trees, less selection, more mutation and newcomers, for few generations.

    The geometric mean, because the noise of diabetes is most of the sum of errors. Rows are so few that the tables of
    all searches have the same shape, and are compiled for once.
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


def main(config: RobustRegressionConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, compare, draw; returns what result.json holds."""
    began = time.monotonic()
    found: list[Found] = []
    with compiled_once():
        for seed in range(config.seeds):
            tasks = meta_training(META_TRAINING, config.noise, config.hidden, seed, config.splits)
            found.append(search_with_control(tasks, search_config(config, seed), "identity", progress))
        searched = time.monotonic()
        training = TrainingConfig(steps=config.steps, learning_rates=RATES)
        evolved = {f"evolved, seed {seed}": one.evolved for seed, one in enumerate(found)}
        random = {f"random, seed {seed}": one.random for seed, one in enumerate(found)}
        kept, validation = choose(evolved, META_TRAINING, config.noise, config.hidden, config.choice_splits, training)
        losses = {**evolved, **random, **{name: load(name) for name in BASELINES}}
        tasks = {_title(*task): held_out(*task, config.hidden, config.fresh_seeds) for task in (*HELD_OUT, *CLEAN)}
        scores = compare(losses, tasks, training)

    results = {
        name: {
            "evolved": merged(row, list(evolved)),
            "random": merged(row, list(random)),
            **{label: summary(row[label]) for label in BASELINES},
        }
        for name, row in scores.items()
    }
    _draw(config, found, results)
    for seed, one in enumerate(found):
        one.evolved.save(config.out / f"evolved-{seed}.json")
    chosen = list(evolved).index(kept)
    shipped = with_provenance(
        found[chosen],
        chosen,
        results,
        {name: name for name in BASELINES},
        command="python -m experiments robust_regression",
        tasks=f"regression on diabetes and friedman1 (scikit-learn), {config.noise:.0%} of the training targets "
        "shifted by 3 to 8 standard deviations",
        unit="test mean squared error of standardised targets, held-out tasks, mean over "
        f"{config.fresh_seeds} splits, noises and networks",
        chosen=f"of {config.seeds} seeds, by validation error on further splits of the meta-training tasks",
    )
    shipped.save(config.out / "chosen.json")
    result = {
        "results": results,
        "claims": claims({name: results[name] for name in (_title(*task) for task in HELD_OUT)}),
        "found": records(found),
        "chosen": {"seed": chosen, "validation": list(validation.values())},
        "search_seconds": round(searched - began, 1),
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "losses.png"),
    }
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def claims(results: dict[str, Any]) -> dict[str, Any]:
    """For each task, how the evolved losses of all seeds compare with three losses made by hand.

    Args:
        results: by task, by loss, as in result.json.

    Returns:
        By task: `mse_over`, the error with MSE over that of each seed's loss; `over_mae` and `over_welsch`, the error
        of each seed's loss over that with MAE and with Welsch's.
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


def printed(result: dict[str, Any]) -> str:
    """The tables that are shown."""
    results = result["results"]
    columns = {}
    for label in ("evolved", "random", *BASELINES):
        cells = [row[label] for row in results.values()]
        if label in BASELINES:
            columns[label] = [f"{c['mean']:.3f} ± {c['sem']:.3f}" for c in cells]
        else:
            columns[f"{label} (worst seed)"] = [f"{c['mean']:.3f} ({c['worst']:.3f})" for c in cells]
    lines = [text_table(list(results), columns, "test MSE"), ""]
    ratios = {
        "MSE / evolved": [f"{min(r['mse_over']):.1f} to {max(r['mse_over']):.1f}" for r in result["claims"].values()],
        "evolved / MAE": [f"{min(r['over_mae']):.2f} to {max(r['over_mae']):.2f}" for r in result["claims"].values()],
        "evolved / Welsch": [
            f"{min(r['over_welsch']):.2f} to {max(r['over_welsch']):.2f}" for r in result["claims"].values()
        ],
    }
    lines += [text_table(list(result["claims"]), ratios, "over search seeds"), ""]
    for seed, one in enumerate(result["found"]):
        lines.append(
            f"seed {seed}: {one['evolved']}   ({one['trained']} of {one['slots']} trained, {one['seconds'][0]} s; "
            f"random: {one['random']})"
        )
    lines.append(f"chosen on the meta-training tasks: seed {result['chosen']['seed']}")
    return "\n".join(lines)


def _title(name: str, noise: float) -> str:
    return f"{name}, {noise:.0%} corrupted" if noise else f"{name}, clean"


def _draw(config: RobustRegressionConfig, found: list[Found], results: dict[str, Any]) -> None:
    figure, axes = new_figure(columns=3, width=4.0)
    for ax, task in zip(axes, HELD_OUT[:2], strict=False):
        row = results[_title(*task)]
        draw_errors(ax, {label: row[label]["each"] for label in ("evolved", "random", *BASELINES)}, "test MSE", True)
        ax.set_title(f"{_title(*task)} (held out)", fontsize=9)
    r = np.linspace(-8, 8, 641, dtype=np.float32)
    shown: dict[str, tuple[Any, str]] = {f"seed {seed}": (one.evolved, "-") for seed, one in enumerate(found)}
    for label, (loss, style) in (shown | {name: (load(name), "--") for name in ("mae", "welsch")}).items():
        axes[2].plot(r, _scaled(loss, r), style, linewidth=1.4, label=label)
    axes[2].set_xlabel("prediction - target, target 0")
    axes[2].set_ylabel("loss, from 0 to 1 on this range")
    axes[2].set_title("losses found", fontsize=9)
    axes[2].legend(fontsize=7, frameon=False)
    save(figure, config.out / "losses.png")


def _scaled(loss: Any, residuals: np.ndarray) -> np.ndarray:
    target = np.zeros_like(residuals)
    values = np.asarray(loss(residuals[:, None], target), np.float64)
    return (values - values.min()) / max(float(np.ptp(values)), 1e-12)


if __name__ == "__main__":
    command = tyro.cli(RobustRegressionConfig, description=__doc__)
    outcome = main(command, default_progress())
    print(printed(outcome))
    print(f"picture: {outcome['picture']} ({outcome['search_seconds']} s searching, {outcome['seconds']} s in all)")
    if command.json:
        print(json.dumps(outcome))
