"""A loss function learned on two tasks with wrong labels, on three data sets it has not seen; and without wrong labels.

Labels of 40 % of the training examples are drawn anew, uniformly from all classes. Losses are searched for on the
digits 0 to 4, on the same with half of them turned as five more classes, and on wine, by genetic programming (the
representation of EvoMAL, Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907), with five seeds; networks are then trained
with the losses found on the digits 5 to 9, breast cancer and iris. Beside them: cross-entropy, label smoothing and two
losses made for wrong labels, each with its own learning rate, and a random search that trained as many formulas. The
same losses without any noise are in the last rows.

    python -m experiments label_noise            # about seven minutes on two cores
    python -m experiments label_noise --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.losses._comparison import (
    Scores,
    chosen,
    compare,
    compiled_once,
    draw_errors,
    held_out,
    merged,
    summary,
    text_table,
)
from experiments.losses._searching import Found, choose, meta_training, records, search_with_control, with_provenance
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.losses import load
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_models.losses.search.search import SearchConfig
from metalearn_tasks.objectives.baselines import learning_rates

BASELINES = {"CE": "cross-entropy", "LS .1": "label-smoothing", "MAE": "probability-mae", "GCE .7": "gce"}
META_TRAINING = ("digits-low", "digits-low-turned", "wine")
RATES = learning_rates(1e-4, 3e-2, per_decade=2, digits=1)
FULL_SPEED = (
    1e-3  # slower, and 400 steps end before wrong labels are learned by heart: early stopping, whatever the loss
)
HELD_OUT = ("digits-high", "breast_cancer", "iris")


@dataclass(frozen=True)
class LabelNoiseConfig:
    """Search for losses on digits 0 to 4 and wine, and compare them on digits 5 to 9, breast cancer and iris."""

    seeds: int = 5
    """Searches, from seed 0 on; each has its own splits, noise, networks and formulas."""
    splits: tuple[int, int] = (2, 4)
    """Splits of each meta-training task: those of a search, and others on which its finalists are judged."""
    choice_splits: int = 6
    """Further ones, by which one of the seeds' losses is chosen."""
    noise: float = 0.4
    """Share of training labels that are drawn anew, in the search and in the comparison."""
    population: int = 40
    """Formulas in a generation."""
    generations: int = 5
    """Generations of a search, at most."""
    max_trained: int = 60
    """Distinct losses that a search trains, at most."""
    finalists: int = 8
    """Losses of a search that are judged on further splits."""
    steps: int = 400
    """Steps of each training, in the search and in the comparison."""
    fresh_seeds: int = 10
    """Splits, noise and networks that each loss is compared on."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the network's hidden layers."""
    out: Path = Path("runs/label_noise")
    """Folder of the picture, the table and the losses found."""
    json: bool = False
    """Print one JSON object as the last line."""


def search_config(config: LabelNoiseConfig, seed: int) -> SearchConfig:
    """The search of one seed: less selection, more mutation and newcomers, for so few generations."""
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


def main(config: LabelNoiseConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search, compare, draw; returns what result.json holds, errors as shares."""
    began = time.monotonic()
    with compiled_once():
        found: list[Found] = []
        for seed in range(config.seeds):
            tasks = meta_training(META_TRAINING, config.noise, config.hidden, seed, config.splits)
            found.append(search_with_control(tasks, search_config(config, seed), "softmax", progress))
        searched = time.monotonic()
        evolved = {f"evolved, seed {seed}": one.evolved for seed, one in enumerate(found)}
        random = {f"random, seed {seed}": one.random for seed, one in enumerate(found)}
        training = TrainingConfig(steps=config.steps, learning_rates=RATES)
        kept, validation = choose(evolved, META_TRAINING, config.noise, config.hidden, config.choice_splits, training)
        losses = {**evolved, **random, **{label: load(name) for label, name in BASELINES.items()}}
        tasks = {
            _title(name, noise): held_out(name, noise, config.hidden, config.fresh_seeds)
            for noise in (config.noise, 0.0)
            for name in HELD_OUT
        }
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
    seed = list(evolved).index(kept)
    shipped = with_provenance(
        found[seed],
        seed,
        results,
        BASELINES,
        command="python -m experiments label_noise",
        tasks="classification of the digits 0-4, of the digits 0-4 with half of them turned as five more classes, and "
        f"of wine (scikit-learn), {config.noise:.0%} of the training labels drawn anew from all classes",
        unit=f"test error as a share, held-out data sets, mean over {config.fresh_seeds} splits, noises and networks",
        chosen=f"of {config.seeds} seeds, by validation error on further splits of the meta-training tasks",
    )
    shipped.save(config.out / "chosen.json")
    result = {
        "results": results,
        "claims": claims(scores[_title(HELD_OUT[0], config.noise)], list(evolved)),
        "found": records(found),
        "chosen": {"seed": seed, "validation": list(validation.values())},
        "search_seconds": round(searched - began, 1),
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "losses.png"),
    }
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def claims(scores: Mapping[str, Scores], evolved: Sequence[str]) -> dict[str, Any]:
    """The error of each seed's loss over that of cross-entropy: at any learning rate, and at those of full speed.

    Args:
        scores: on one task, by loss.
        evolved: labels of the seeds' losses.
    """
    fast = {label: chosen(scores[label].by_rate, RATES, FULL_SPEED) for label in ("CE", *evolved)}
    parts = {"of CE": scores, "of CE, rates from 0.001": fast}
    return {
        name: [float(part[label].test.mean() / max(part["CE"].test.mean(), 1e-12)) for label in evolved]
        for name, part in parts.items()
    } | {"CE, rates from 0.001": float(fast["CE"].test.mean())}


def printed(result: dict[str, Any]) -> str:
    """The tables that are shown, errors in per cent."""
    results = result["results"]
    columns = {}
    for label in ("evolved", "random", *BASELINES):
        cells = [row[label] for row in results.values()]
        if label in BASELINES:
            columns[label] = [f"{100 * c['mean']:.1f} ± {100 * c['sem']:.1f}" for c in cells]
        else:
            columns[f"{label} (worst seed)"] = [f"{100 * c['mean']:.1f} ({100 * c['worst']:.1f})" for c in cells]
    lines = [text_table(list(results), columns, "test error, %"), ""]
    for seed, one in enumerate(result["found"]):
        ratio, fast = (result["claims"][name][seed] for name in ("of CE", "of CE, rates from 0.001"))
        lines.append(
            f"seed {seed}: {one['evolved']}   ({HELD_OUT[0]}: {ratio:.2f} of CE's error, {fast:.2f} from 0.001 on; "
            f"{one['trained']} trained, {one['seconds'][0]} s; random: {one['random']})"
        )
    lines.append(f"chosen on the meta-training tasks: seed {result['chosen']['seed']}")
    return "\n".join(lines)


def _title(name: str, noise: float) -> str:
    return f"{name}, {noise:.0%} noise" if noise else f"{name}, clean"


def _draw(config: LabelNoiseConfig, found: list[Found], results: dict[str, Any]) -> None:
    figure, axes = new_figure(columns=4, width=3.4)
    for ax, name in zip(axes, HELD_OUT, strict=False):
        row = results[_title(name, config.noise)]
        points = {label: [100 * e for e in row[label]["each"]] for label in ("evolved", "random", *BASELINES)}
        draw_errors(ax, points, "test error, %", log=False)
        ax.set_title(f"{_title(name, config.noise)} (held out)", fontsize=9)
    p = np.linspace(1e-3, 1 - 1e-3, 400, dtype=np.float32)
    shown: dict[str, tuple[Any, str]] = {f"seed {seed}": (one.evolved, "-") for seed, one in enumerate(found)}
    baselines = {label: (load(name), "--") for label, name in BASELINES.items() if label in ("CE", "GCE .7")}
    for label, (loss, style) in (shown | baselines).items():
        axes[3].plot(p, _scaled(loss, p), style, linewidth=1.4, label=label)
    axes[3].set_xlabel("probability of the label (two classes)")
    axes[3].set_ylabel("loss, from 0 to 1 on this range")
    axes[3].set_title("losses found", fontsize=9)
    axes[3].legend(fontsize=7, frameon=False)
    save(figure, config.out / "losses.png")


def _scaled(loss: Any, p: np.ndarray) -> np.ndarray:
    logits = np.stack([np.log(p), np.log1p(-p)], -1)
    values = np.asarray(loss(logits, np.zeros(len(p), np.int32)), np.float64)
    return (values - values.min()) / max(float(np.ptp(values)), 1e-12)


if __name__ == "__main__":
    command = tyro.cli(LabelNoiseConfig, description=__doc__)
    outcome = main(command, default_progress())
    print(printed(outcome))
    print(f"picture: {outcome['picture']} ({outcome['search_seconds']} s searching, {outcome['seconds']} s in all)")
    if command.json:
        print(json.dumps(outcome))
