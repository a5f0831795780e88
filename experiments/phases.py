"""Memorisation against learning to learn: one learner, few tasks and many (Kirsch et al. 2022, arXiv 2212.04458).

Meta-trains the same small Transformer on 64 and on 4,096 projected-digits tasks. With 64 it memorises the tasks: it is
good on those it has seen and near chance on new ones. With 4,096 it has become a learning algorithm: as good
on tasks it has never seen. Both from fresh examples at every step; only the number of projections differs.

    python experiments/phases.py            # both phases, a picture, under five minutes on two cores
    python experiments/phases.py --help
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from metalearn.cli.config import PRESETS, TrainConfig
from metalearn.cli.recipe import LAST, curves
from metalearn.cli.train import meta_train
from metalearn.curves import last_positions
from metalearn.pictures import draw_learning_curves, new_figure, save
from metalearn.progress import Progress, default_progress


@dataclass(frozen=True)
class PhasesConfig:
    """Meta-train on few and on many tasks, and compare seen with unseen ones."""

    num_tasks: tuple[int, ...] = (64, 4096)
    """Numbers of meta-training tasks, one run each."""
    steps: int = 1500
    """Outer steps of each run."""
    seed: int = 0
    """Seed of each run."""
    eval_tasks: int = 512
    """Tasks in an evaluation; of seen tasks at most as many as there are."""
    out: Path = Path("runs/phases")
    """Folder of the runs, the picture and the table."""
    resume: bool = False
    """Go on with runs that are in the folder already."""
    overwrite: bool = False
    """Remove runs that are in the folder already."""
    json: bool = False
    """Print one JSON object as the last line."""


def config_for(config: PhasesConfig, num_tasks: int) -> TrainConfig:
    """The digits preset, restricted to `num_tasks` tasks."""
    base = PRESETS["digits"][1]
    return dataclasses.replace(
        base,
        task=dataclasses.replace(base.task, num_tasks=num_tasks),
        steps=config.steps,
        seed=config.seed,
        eval_tasks=config.eval_tasks,
        eval_sequences=4,
        references=("1nn",),
        evaluate_every=max(1, config.steps // 6),
        checkpoint_every=max(1, config.steps // 6),
    )


def main(config: PhasesConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run every number of tasks; returns seen and unseen accuracy over the last 10 positions of each."""
    began = time.monotonic()
    figure, axes = new_figure(columns=len(config.num_tasks), width=4.2)
    phases = {}
    for ax, number in zip(axes, config.num_tasks, strict=True):
        folder = config.out / f"tasks-{number}"
        resume = config.resume and (folder / "config.json").exists()
        _, scores = meta_train(
            config_for(config, number), folder, resume=resume, overwrite=config.overwrite, progress=progress
        )
        (seen, seen_half), (unseen, unseen_half) = (last_positions(scores[kind], LAST) for kind in ("seen", "unseen"))
        phases[number] = {"seen": seen, "seen_half": seen_half, "unseen": unseen, "unseen_half": unseen_half}
        shown = {n: c for n, c in curves(scores).items() if n in ("seen", "unseen", "reference: 1nn")}
        draw_learning_curves(ax, shown, chance=0.1)
        ax.set_title(f"{number:,} tasks: seen {seen:.2f}, unseen {unseen:.2f}", fontsize=9)
    save(figure, config.out / "phases.png")
    result = {
        "phases": phases,
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "phases.png"),
    }
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    command = tyro.cli(PhasesConfig, description=__doc__)
    found = main(command, default_progress())
    print(f"{'tasks':>8} {'seen':>15} {'unseen':>15}   accuracy over the last {LAST} positions, held-out digits")
    for number, score in found["phases"].items():
        cells = [f"{score[kind]:.3f} ± {score[kind + '_half']:.3f}" for kind in ("seen", "unseen")]
        print(f"{number:>8,} {cells[0]:>15} {cells[1]:>15}")
    print(f"picture: {found['picture']} ({found['seconds']} s)")
    if command.json:
        print(json.dumps(found))
