"""Refining the coefficients of formulas: how many inner steps a meta-gradient needs, and why the best is kept.

Coefficients are meta-trained on diabetes and friedman1 with 20 % corrupted targets, by backpropagation through K = 1
inner steps (EvoMAL, Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907), 20, or many. "last" is the validation error at
the true horizon of the last iterate, over that of the original formula. Above 1, refinement did harm that only judging
at the horizon can see. "kept" is the error on held-out friedman2 and friedman3 of the loss that
`metalearn_models.losses.refinement.refine` returns.

    python -m experiments refinement            # minutes on two cores
    python -m experiments refinement quick      # one formula, about a minute
    python -m experiments refinement --help
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.losses._comparison import (
    compare,
    format_mean,
    held_out_tasks,
    label_log_axis,
    share_compilations,
    summarise_seeds,
)
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, read_number, read_numbers
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import SymbolicLoss, parse
from metalearn_models.losses.parametric import free_coefficients
from metalearn_models.losses.refinement.refine import RefineConfig, refine
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_tasks.datasets.corrupted import loss_task

HELD_OUT = ("friedman2", "friedman3")
SCORE = "squared error"


@dataclass(frozen=True)
class RefinementConfig:
    """Refine some formulas at several horizons of the meta-gradient."""

    formulas: tuple[str, ...] = ("square(sub(f, y))", "div(square(sub(f, y)), sub(f, y))", "square(tanh(sub(f, y)))")
    """Losses of regression, in prefix notation."""
    inner_steps: tuple[int, ...] = (1, 20, 400)
    """Inner steps per meta-gradient, K."""
    meta_steps: int = 250
    """Updates of the coefficients."""
    horizon: int = 400
    """Steps per training when coefficients are judged, and in the comparison."""
    judge_seeds: int = 4
    """Networks per judgement, task and learning rate."""
    fresh_seeds: int = 10
    """Splits, noises and networks per task of the comparison."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the network's hidden layers."""
    noise: float = 0.2
    """Share of corrupted training targets."""
    seed: int = 0
    """Seed of the splits and of refinement."""
    out: Path = Path("runs/refinement")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": RefinementConfig(),
    "quick": RefinementConfig(
        formulas=("square(sub(f, y))",),
        inner_steps=(1, 20),
        meta_steps=50,
        horizon=200,
        judge_seeds=2,
        fresh_seeds=4,
    ),
}


def run(config: RefinementConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Refine, compare and draw; returns what result.json holds."""
    start = time.monotonic()
    tasks = [loss_task(name, config.noise, config.hidden, config.seed) for name in ("diabetes", "friedman1")]
    losses: dict[str, SymbolicLoss] = {}
    history: dict[str, dict[str, Any]] = {}
    with share_compilations():
        for text in config.formulas:
            original = SymbolicLoss(parse(text), link="identity")
            losses[_label(text, 0)] = original
            learnable = free_coefficients(original)
            for inner_steps in config.inner_steps:
                settings = RefineConfig(
                    inner_steps=inner_steps,
                    meta_steps=config.meta_steps,
                    moment="last",
                    horizon=config.horizon,
                    batch=64,
                    judge_seeds=config.judge_seeds,
                    seed=config.seed,
                )
                result = refine(learnable, learnable.init(jax.random.key(config.seed)), tasks, settings, progress)
                label = _label(text, inner_steps)
                losses[label] = original.with_coefficients(np.asarray(result.theta))
                history[label] = {
                    "accepted": result.accepted,
                    "steps": [past.step for past in result.history],
                    "ratios": [past.ratio for past in result.history],
                }
        held = {name: held_out_tasks(name, config.noise, config.hidden, config.fresh_seeds) for name in HELD_OUT}
        scores = compare(losses, held, TrainingConfig(steps=config.horizon))
    result = {
        "results": {label: {name: summarise_seeds(scores[name][label]) for name in HELD_OUT} for label in losses},
        "refined": history,
        "coefficients": {label: np.asarray(loss.coefficients).tolist() for label, loss in losses.items()},
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "refinement.png"),
    }
    result = write_result(config.out, result)
    draw(config, result)
    return result


def format_result(result: Mapping[str, Any]) -> str:
    """The table: one row per formula and K, with what became of it and its error on the held-out tasks."""
    rows = list(result["results"])
    refined = [result["refined"].get(label) for label in rows]
    columns = {
        "last": ["" if r is None else _format_ratio(r["ratios"][-1]) for r in refined],
        "best": ["" if r is None else _format_ratio(read_numbers(r["ratios"]).min()) for r in refined],
        "accepted": ["" if r is None else ("yes" if r["accepted"] else "no") for r in refined],
    }
    for name in HELD_OUT:
        cells = [result["results"][label][name] for label in rows]
        columns[f"kept: {name}"] = [format_mean(cell, 3) for cell in cells]
    table = format_columns(rows, columns, "formula")
    return f"{table}\npicture: {result['picture']} ({result['seconds']} s)"


def _format_ratio(ratio: float | None) -> str:
    value = read_number(ratio)
    return f"{value:.2f}" if np.isfinite(value) else "diverged"


def draw(config: RefinementConfig, result: Mapping[str, Any]) -> None:
    """Draw the error of each formula during refinement, and the held-out error of what is kept over that before."""
    figure, axes = new_figure(columns=len(config.formulas) + 1, width=3.4)
    for ax, text in zip(axes, config.formulas, strict=False):
        for number, inner_steps in enumerate(config.inner_steps):
            past = result["refined"][_label(text, inner_steps)]
            ratios = read_numbers(past["ratios"], missing=np.nan)
            verdict = "accepted" if past["accepted"] else "refused"
            ax.plot(past["steps"], ratios, "o-", color=f"C{number}", label=f"K = {inner_steps}: {verdict}")
        ax.axhline(1, color="0.5", linewidth=1)
        ax.set_yscale("log")
        label_log_axis(ax.yaxis)
        ax.set_xlabel("meta-steps")
        ax.set_ylabel("error at the horizon, over that before")
        ax.set_title(text, fontsize=8)
        ax.legend(fontsize=7, frameon=False)
    labels = list(result["refined"])
    for number, name in enumerate(HELD_OUT):
        ratios = [
            read_number(result["results"][label][name]["mean"])
            / read_number(result["results"][label.rsplit(", K = ", 1)[0]][name]["mean"])
            for label in labels
        ]
        axes[-1].plot(ratios, -np.arange(len(labels)), "os"[number], color=f"C{3 + number}", label=name)
    axes[-1].axvline(1, color="0.5", linewidth=1)
    axes[-1].set_xscale("log")
    label_log_axis(axes[-1].xaxis)
    shown = [f"{label.split('(')[0]}(...), {label.rsplit(', ', 1)[1]}" for label in labels]
    axes[-1].set_yticks(-np.arange(len(labels)), shown, fontsize=6)
    axes[-1].set_xlabel("held-out error, kept over before")
    axes[-1].legend(fontsize=7, frameon=False)
    save(figure, config.out / "refinement.png")


def _label(text: str, inner_steps: int) -> str:
    return f"{text}, K = {inner_steps}" if inner_steps else text
