"""Refining the coefficients of formulas: how far a meta-gradient should look, and what keeping the best is for.

Coefficients are meta-trained on diabetes and friedman1 with 20 % corrupted targets by backpropagation through K = 1
inner steps (EvoMAL, Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907), 20, or many. "last" is the last iterate's
validation error at the true horizon over that of the formula as it was: above 1, refinement did harm that only
judging at the horizon can see. "kept" is what `metalearn.losses.refine` returns, on held-out friedman2 and friedman3.

    python -m experiments.refinement            # minutes on two cores
    python -m experiments.refinement --help
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

from experiments.loss_comparison import compare, compiled_once, held_out, summary, text_table
from metalearn.losses import SymbolicLoss, parse
from metalearn.losses.parametric import free_coefficients
from metalearn.losses.population import TrainingConfig
from metalearn.losses.refine import RefineConfig, refine
from metalearn.progress import Progress, default_progress
from metalearn_tasks.loss_tasks import loss_task

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
    """Folder of the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(config: RefinementConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Refine, compare; returns what result.json holds."""
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
                ratios = [past.ratio for past in result.history]
                history[label] = {"accepted": result.accepted, "last": ratios[-1], "best": min(ratios)}
        held = {name: held_out(name, config.noise, config.hidden, config.fresh_seeds) for name in HELD_OUT}
        scores = compare(losses, held, TrainingConfig(steps=config.horizon))
    result = {
        "results": {label: {name: summary(scores[name][label]) for name in HELD_OUT} for label in losses},
        "refined": history,
        "coefficients": {label: list(map(float, loss.coefficients)) for label, loss in losses.items()},  # type: ignore
        "seconds": round(time.monotonic() - began, 1),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def printed(result: dict[str, Any]) -> str:
    """The table that is shown."""
    rows = list(result["results"])
    refined = [result["refined"].get(label) for label in rows]
    columns = {
        "last": ["" if r is None else f"{r['last']:.2f}" for r in refined],
        "best": ["" if r is None else f"{r['best']:.2f}" for r in refined],
        "accepted": ["" if r is None else ("yes" if r["accepted"] else "no") for r in refined],
    }
    for name in HELD_OUT:
        cells = [result["results"][label][name] for label in rows]
        columns[f"kept: {name}"] = [f"{c['mean']:.3f} ± {c['sem']:.3f}" for c in cells]
    return text_table(rows, columns, "formula")


def _label(text: str, inner_steps: int) -> str:
    return f"{text}, K = {inner_steps}" if inner_steps else text


if __name__ == "__main__":
    command = tyro.cli(RefinementConfig, description=__doc__)
    outcome = main(command, default_progress())
    print(printed(outcome))
    print(f"{outcome['seconds']} s")
    if command.json:
        print(json.dumps(outcome))
