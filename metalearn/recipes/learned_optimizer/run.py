"""Meta-training of a learned optimizer, from a configuration to weights, curves and tuned baselines."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metalearn.pictures import draw_loss_curves, draw_meta_loss, new_figure, save_or_note
from metalearn.recipes.driving import WEIGHTS, drive
from metalearn.recipes.learned_optimizer.build import OptimizerRecipe, prepare
from metalearn.recipes.learned_optimizer.config import TrainOptimizerConfig, to_json
from metalearn.recipes.streams import stream
from metalearn.runs.folder import Run, note_on_stderr, write_result
from metalearn.runs.metrics import read_metrics
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models.optimizers import library
from metalearn_tasks.objectives import (
    TunedLearningRate,
    baseline,
    final_losses,
    learning_rates,
    loss_curves,
    tune_learning_rate,
)

__all__ = ["RATES", "baselines", "curves_of", "draw", "meta_train", "table"]

RATES = learning_rates(1e-4, 3.16, per_decade=2)
"""Learning rates on which a baseline is tuned."""


def meta_train(
    config: TrainOptimizerConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Meta-train as configured, in a run's folder; continue from its newest checkpoint if asked to.

    Args:
        config: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        resume: continue from the newest readable checkpoint.
        overwrite: remove an older run in that folder first.
        progress: what a person sees.

    Returns:
        The result, also in the run's result.json: final losses of the optimizer and of the tuned baselines, seconds,
        the hash of theta. The weights are in theta.safetensors, the loss curves in the picture.

    Raises:
        RunError: the folder cannot be used as asked.
        ValueError: the configuration does not fit together.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    began = time.monotonic()
    recipe = prepare(config)
    run, state = drive(
        recipe.training,
        folder,
        evaluate=lambda theta: _summary(curves_of(recipe, theta)),
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    curves = curves_of(recipe, state.theta)
    result: dict[str, Any] = {
        **_summary(curves),
        "steps": int(state.step),
        "length": recipe.length,
        "theta_sha256": theta_sha256(state.theta),
        "run": str(run.folder),
    }
    values = to_json(config)
    card = {"objective": config.objective, "horizon": recipe.length, "steps": config.steps, "config": values}
    card |= {"final_loss": result["final_loss"]}
    library.save(run.folder / WEIGHTS, config.optimizer, state.theta, values["settings"], card)
    if progress is not None and config.baselines:
        progress.note(f"tuning {' and '.join(config.baselines)} for comparison")
    rivals = baselines(recipe)
    result["baselines"] = {
        name: {"final_loss": float(np.mean(t.final[t.best])), "learning_rate": t.rate, "at_edge": t.at_edge}
        for name, t in rivals.items()
    }
    result["seconds"] = round(time.monotonic() - began, 1)
    write_result(run, result)
    draw(run, recipe, curves, rivals, note_on_stderr if progress is None else progress.note)
    return result


def curves_of(recipe: OptimizerRecipe, theta: Any) -> np.ndarray:
    """Losses [runs, length] of training runs that meta-training does not see, uncapped."""
    keys = jax.random.split(stream(recipe.config.seed, "evaluation"), recipe.config.eval_runs)
    problem = recipe.problem
    return np.asarray(loss_curves(problem.objective, recipe.optimizer, theta, problem.data, keys, recipe.length))


def baselines(recipe: OptimizerRecipe) -> dict[str, TunedLearningRate]:
    """Hand-designed optimizers on the same training runs, each with its best learning rate."""
    keys = jax.random.split(stream(recipe.config.seed, "evaluation"), recipe.config.eval_runs)
    problem = recipe.problem
    optimizers = {name: baseline(name) for name in recipe.config.baselines}
    return {
        name: tune_learning_rate(problem.objective, optimizer, RATES, problem.data, keys, recipe.length)
        for name, optimizer in optimizers.items()
    }


def draw(
    run: Run,
    recipe: OptimizerRecipe,
    curves: np.ndarray,
    rivals: dict[str, TunedLearningRate],
    note: Callable[[str], None],
) -> None:
    """Draw a run, training losses on the left and meta-training on the right, or note why it cannot be written."""
    figure, (left, right) = new_figure(columns=2)
    lines = {recipe.config.optimizer: curves}
    lines |= {f"reference: {name}, {t.rate:g}": t.curves for name, t in rivals.items()}
    draw_loss_curves(left, lines)
    left.set_title(recipe.config.objective, fontsize=9)
    draw_meta_loss(right, read_metrics(run))
    save_or_note(figure, run.folder / "training_curves.png", note)


def table(result: dict[str, Any], name: str) -> str:
    """The result for people."""
    lines = [f"{'final training loss':<24} {'mean':>10}   learning rate"]
    lines.append(f"{name:<24} {result['final_loss']:>10.4g}   learned")
    for rival, row in result["baselines"].items():
        edge = "  (the last of those tried)" if row["at_edge"] else ""
        lines.append(f"{rival + ', tuned':<24} {row['final_loss']:>10.4g}   {row['learning_rate']:g}{edge}")
    return "\n".join(lines)


def _summary(curves: np.ndarray) -> dict[str, float]:
    final = final_losses(curves)
    return {
        "final_loss": float(np.mean(final)),
        "mean_loss": float(np.mean(curves)),
        "diverged": float(np.mean(~np.isfinite(final))),
    }
