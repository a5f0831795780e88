"""Refining the coefficients of formulas: how far a meta-gradient should look, and what keeping the best is for.

Coefficients are meta-trained on diabetes and friedman1 with 20 % corrupted targets by backpropagation through K = 1
inner steps (EvoMAL, Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907), 20, or many. "last" is the last iterate's
validation error at the true horizon over that of the formula as it was: above 1, refinement did harm that only
judging at the horizon can see. "kept" is what `metalearn_models.losses.refinement.refine` returns, on held-out
friedman2 and friedman3.

    python -m experiments refinement            # minutes on two cores
    python -m experiments refinement --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments.losses._comparison import compare, compiled_once, held_out, summary, text_table
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.losses import SymbolicLoss, parse
from metalearn_models.losses.parametric import free_coefficients
from metalearn_models.losses.refinement.refine import RefineConfig, refine
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_tasks.datasets.corrupted import loss_task

HELD_OUT = ("friedman2", "friedman3")


@dataclass(frozen=True)
class RefinementConfig:
    """Refine some formulas at several horizons of the meta-gradient."""

    formulas: tuple[str, ...] = ("square(sub(f, y))", "div(square(sub(f, y)), sub(f, y))", "square(tanh(sub(f, y)))")
    """Losses of regression, in prefix notation."""
    inner_steps: tuple[int, ...] = (1, 20, 400)
    """Inner steps that a meta-gradient looks through, K."""
    meta_steps: int = 250
    """Updates of the coefficients."""
    horizon: int = 400
    """Steps of the trainings by which coefficients are judged, and of the comparison."""
    judge_seeds: int = 4
    """Networks by which they are judged, a task and learning rate."""
    fresh_seeds: int = 10
    """Splits, noise and networks of the comparison."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the network's hidden layers."""
    noise: float = 0.2
    """Share of corrupted training targets."""
    seed: int = 0
    """Of the splits and of refinement."""
    out: Path = Path("runs/refinement")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(config: RefinementConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Refine, compare, draw; returns what result.json holds."""
    began = time.monotonic()
    tasks = [loss_task(name, config.noise, config.hidden, config.seed) for name in ("diabetes", "friedman1")]
    losses: dict[str, SymbolicLoss] = {}
    history: dict[str, dict[str, Any]] = {}
    with compiled_once():
        for text in config.formulas:
            given = SymbolicLoss(parse(text), link="identity")
            losses[_label(text, 0)] = given
            learnable = free_coefficients(given)
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
                losses[label] = given.with_coefficients(np.asarray(result.theta))
                history[label] = {
                    "accepted": result.accepted,
                    "steps": [past.step for past in result.history],
                    "ratios": [past.ratio if np.isfinite(past.ratio) else None for past in result.history],
                }
        held = {name: held_out(name, config.noise, config.hidden, config.fresh_seeds) for name in HELD_OUT}
        scores = compare(losses, held, TrainingConfig(steps=config.horizon))
    result = {
        "results": {label: {name: summary(scores[name][label]) for name in HELD_OUT} for label in losses},
        "refined": history,
        "coefficients": {label: list(map(float, loss.coefficients)) for label, loss in losses.items()},  # type: ignore
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "refinement.png"),
    }
    _draw(config, result)
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def printed(result: dict[str, Any]) -> str:
    """The table that is shown."""
    rows = list(result["results"])
    refined = [result["refined"].get(label) for label in rows]
    columns = {
        "last": ["" if r is None else _told(r["ratios"][-1]) for r in refined],
        "best": ["" if r is None else _told(min(x for x in r["ratios"] if x is not None)) for r in refined],
        "accepted": ["" if r is None else ("yes" if r["accepted"] else "no") for r in refined],
    }
    for name in HELD_OUT:
        cells = [result["results"][label][name] for label in rows]
        columns[f"kept: {name}"] = [f"{c['mean']:.3f} ± {c['sem']:.3f}" for c in cells]
    return text_table(rows, columns, "formula")


def _told(ratio: float | None) -> str:
    return "diverged" if ratio is None else f"{ratio:.2f}"


def _draw(config: RefinementConfig, result: dict[str, Any]) -> None:
    """How each formula fares on the way; and, held out, what was kept over the formula as it was."""
    figure, axes = new_figure(columns=len(config.formulas) + 1, width=3.4)
    for ax, text in zip(axes, config.formulas, strict=False):
        for number, inner_steps in enumerate(config.inner_steps):
            past = result["refined"][_label(text, inner_steps)]
            ratios = [np.nan if ratio is None else ratio for ratio in past["ratios"]]
            verdict = "accepted" if past["accepted"] else "refused"
            ax.plot(past["steps"], ratios, "o-", color=f"C{number}", label=f"K = {inner_steps}: {verdict}")
        ax.axhline(1, color="0.5", linewidth=1)
        ax.set_yscale("log")
        ax.set_xlabel("meta-steps")
        ax.set_ylabel("error at the horizon, over that before")
        ax.set_title(text, fontsize=8)
        ax.legend(fontsize=7, frameon=False)
    labels = list(result["refined"])
    for number, name in enumerate(HELD_OUT):
        ratios = [
            result["results"][label][name]["mean"] / result["results"][label.rsplit(", K = ", 1)[0]][name]["mean"]
            for label in labels
        ]
        axes[-1].plot(ratios, -np.arange(len(labels)), "os"[number], color=f"C{3 + number}", label=name)
    axes[-1].axvline(1, color="0.5", linewidth=1)
    axes[-1].set_xscale("log")
    shown = [f"{label.split('(')[0]}(...), {label.rsplit(', ', 1)[1]}" for label in labels]
    axes[-1].set_yticks(-np.arange(len(labels)), shown, fontsize=6)
    axes[-1].set_xlabel("held-out error of what is kept, over before")
    axes[-1].legend(fontsize=7, frameon=False)
    save(figure, config.out / "refinement.png")


def _label(text: str, inner_steps: int) -> str:
    return f"{text}, K = {inner_steps}" if inner_steps else text


if __name__ == "__main__":
    command = tyro.cli(RefinementConfig, description=__doc__)
    outcome = main(command, default_progress("squared error"))
    print(printed(outcome))
    print(f"picture: {outcome['picture']} ({outcome['seconds']} s)")
    if command.json:
        print(json.dumps(outcome))
