"""Reverse engineering of a learned optimizer: momentum, clipping, schedules and adaptation in a recurrent network.

Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2021, "Reverse engineering learned optimizers reveals known
and novel mechanisms" (arXiv 2011.02159). A component-wise recurrent network is meta-trained on small linear regressions
and on Rosenbrock's valley, and compared with tuned hand-designed optimizers on new problems. Then it is taken apart:
the eigenvalues at its convergence point, its update function, the learning rate over steps without gradients, and the
effect of constant gradients on this rate. The meta-loss is the mean logarithm of the loss over a training run.
Problems, sizes and meta-training are our choice.

    python -m experiments reverse_engineering            # two pictures and a table, minutes on one core
    python -m experiments reverse_engineering quick      # one picture after a short meta-training
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learned_optimizers.reverse_engineering.anatomy import collect_visits, dissect, summarise
from experiments.learned_optimizers.reverse_engineering.baselines import compare_with_baselines
from experiments.learned_optimizers.reverse_engineering.meta_training import TASKS, meta_train
from experiments.learned_optimizers.reverse_engineering.picture import draw
from experiments.suite.results import write_result
from metalearn.errors import unknown_name
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.learned.component_rnn import component_cell


@dataclass(frozen=True)
class ReverseEngineeringConfig:
    """Meta-training of a component-wise recurrent network, and its analysis."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Meta-training tasks; one network per task."""
    hidden: int = 32
    """State variables of the network."""
    length: int = 200
    """Steps per training run."""
    window: int = 50
    """Steps per outer step."""
    batch: int = 32
    """Training runs that are under way at any time."""
    outer_steps: int = 4000
    """Outer steps on regression; Rosenbrock's function gets four times as many."""
    test_problems: int = 128
    """New problems of the comparison; hand-designed optimizers are tuned on as many others."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/reverse_engineering")
    """Folder for the pictures and the table."""


PRESETS = {
    "standard": ReverseEngineeringConfig(),
    "quick": ReverseEngineeringConfig(
        ("regression",), outer_steps=400, test_problems=32, out=Path("runs/reverse_engineering-quick")
    ),
}


def run(config: ReverseEngineeringConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, compare and take apart one network per task; returns what result.json holds, by task.

    Raises:
        UnknownNameError: `TASKS` lacks one of the tasks.
    """
    for name in config.tasks:
        if name not in TASKS:
            raise unknown_name("task", name, TASKS)
    return write_result(config.out, {name: run_task(name, config, progress) for name in config.tasks})


def run_task(name: str, config: ReverseEngineeringConfig, progress: Progress | None) -> dict[str, Any]:
    """Meta-train on one task, compare, take apart and draw."""
    start, recipe = time.monotonic(), TASKS[name]
    if progress is not None:
        progress.start(0, recipe.factor * config.outer_steps)
        progress.note(f"meta-training on {name}")
    try:
        theta, losses = meta_train(
            recipe,
            hidden=config.hidden,
            length=config.length,
            window=config.window,
            batch=config.batch,
            outer_steps=config.outer_steps,
            seed=config.seed,
            progress=progress,
        )
    finally:
        if progress is not None:
            progress.close()
    objective, size = recipe.objective(), config.test_problems
    scores = compare_with_baselines(objective, theta, length=config.length, problems=size, seed=config.seed)
    visits = collect_visits(objective, theta, length=config.length, seed=config.seed)
    anatomy = dissect(component_cell(theta), *visits)
    picture = config.out / f"{name}.png"
    draw(anatomy, scores["momentum"]["learning_rate"], scores["momentum"]["second"], picture)
    return {
        "scores": scores,
        "mechanisms": summarise(anatomy),
        "meta_losses": [float(np.mean(part)) for part in np.array_split(losses, min(20, len(losses)))],
        "picture": str(picture),
        "seconds": round(time.monotonic() - start, 1),
    }


def format_result(result: Mapping[str, Any]) -> str:
    """A table of scores and the mechanisms, for each task."""
    lines = []
    for name, row in result.items():
        lines.append(f"{name + ':':<20} {'meta-loss':>9} {'last loss':>10}  setting")
        for optimizer, score in row["scores"].items():
            setting = f"{score['learning_rate']:.2g}, {score['second']:g}" if "second" in score else ""
            lines.append(f"  {optimizer:<18} {score['meta_loss']:9.3f} {score['last_loss']:10.3g}  {setting}")
        lines.append(f"  {json.dumps(row['mechanisms'])}")
        lines.append(f"  picture: {row['picture']} ({row['seconds']} s)")
    return "\n".join(lines)
