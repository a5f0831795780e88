"""Meta-training of a learned optimizer, from a configuration to weights, curves and tuned baselines."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metalearn.pictures import LossCurve, draw_loss_curves, draw_meta_loss, loss_curve, new_figure, save_or_note
from metalearn.recipes.driving import WEIGHTS, drive
from metalearn.recipes.learned_optimizer.build import FLOOR, OptimizerRecipe, horizon, prepare
from metalearn.recipes.learned_optimizer.config import TrainOptimizerConfig, to_json
from metalearn.recipes.streams import stream
from metalearn.runs.folder import Run, note_on_stderr, write_result
from metalearn.runs.metrics import read_metrics
from metalearn.runs.processes import is_first
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

__all__ = ["RATES", "baselines", "curves_of", "meta_train", "picture_of", "table"]

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
        the hash of theta. The weights are in theta.safetensors, the loss curves in the picture. With several processes,
        those but the first return `steps`, `theta_sha256` and `run`.

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
        evaluate=lambda theta: _summarise(curves_of(recipe, theta)),
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    if not is_first():
        return {"steps": int(state.step), "theta_sha256": theta_sha256(state.theta), "run": str(run.folder)}
    curves = curves_of(recipe, state.theta)
    result: dict[str, Any] = {
        **_summarise(curves),
        "steps": int(state.step),
        "length": horizon(recipe.problems),
        "theta_sha256": theta_sha256(state.theta),
        "run": str(run.folder),
    }
    values = to_json(config)
    card = {"objective": config.objective, "horizon": horizon(recipe.problems), "steps": config.steps, "config": values}
    card |= {"final_loss": result["final_loss"]}
    library.save(run.folder / WEIGHTS, config.optimizer, state.theta, values["settings"], card)
    if progress is not None and config.baselines:
        progress.note(f"tuning {' and '.join(config.baselines)} for comparison")
    rivals = baselines(recipe)
    described = {name: {rival: _describe(tuned) for rival, tuned in of.items()} for name, of in rivals.items()}
    if len(described) == 1:
        result["baselines"] = next(iter(described.values()))
    else:
        result["objectives"] = {
            name: {"final_loss": float(np.mean(final_losses(curves[name]))), "baselines": described[name]}
            for name in described
        }
    result["seconds"] = round(time.monotonic() - began, 1)
    write_result(run, {**result, "curves": _drawn(config.optimizer, curves, rivals)})
    note = note_on_stderr if progress is None else progress.note
    save_or_note(picture_of(run), run.folder / "training_curves.png", note)
    return result


def curves_of(recipe: OptimizerRecipe, theta: Any) -> dict[str, np.ndarray]:
    """Losses [runs, length], by objective, of training runs that meta-training does not see, uncapped."""
    keys = jax.random.split(stream(recipe.config.seed, "evaluation"), recipe.config.eval_runs)
    return {
        name: np.asarray(loss_curves(p.objective, recipe.optimizer, theta, p.data, keys, p.length))
        for name, p in recipe.problems.items()
    }


def baselines(recipe: OptimizerRecipe) -> dict[str, dict[str, TunedLearningRate]]:
    """Hand-designed optimizers, by objective, on the same training runs, each with its best learning rate."""
    keys = jax.random.split(stream(recipe.config.seed, "evaluation"), recipe.config.eval_runs)
    optimizers = {name: baseline(name) for name in recipe.config.baselines}
    return {
        objective: {
            name: tune_learning_rate(p.objective, optimizer, RATES, p.data, keys, p.length)
            for name, optimizer in optimizers.items()
        }
        for objective, p in recipe.problems.items()
    }


def picture_of(run: Run) -> Any:
    """A figure of a run, from its files: training losses on each objective if it has ended, and meta-training so far.

    Runs of earlier versions left no training losses.
    """
    result = json.loads(run.result.read_text()) if run.result.exists() else {}
    curves = result.get("curves", {})
    figure, (*axes, last) = new_figure(columns=len(curves) + 1)
    for axis, (name, lines) in zip(axes, curves.items(), strict=True):
        draw_loss_curves(
            axis,
            {
                label: LossCurve(*(np.asarray(line[field], np.float64) for field in LossCurve._fields))
                for label, line in lines.items()
            },
        )
        axis.set_title(name, fontsize=9)
    draw_meta_loss(last, read_metrics(run))
    return figure


def _drawn(
    name: str, curves: dict[str, np.ndarray], rivals: dict[str, dict[str, TunedLearningRate]]
) -> dict[str, dict[str, Any]]:
    """The training losses of the optimizer of that name and of its rivals, by objective, as they are drawn."""
    return {
        objective: {
            name: loss_curve(own)._asdict(),
            **{f"reference: {n}, {t.rate:g}": loss_curve(t.curves)._asdict() for n, t in rivals[objective].items()},
        }
        for objective, own in curves.items()
    }


def table(result: dict[str, Any], name: str) -> str:
    """The result for people."""
    if "baselines" in result:
        return "\n".join([HEAD, *_rows(result, name)])
    tables = [[f"on {objective}", *_rows(part, name)] for objective, part in result["objectives"].items()]
    mean = f"{'geometric mean of all':<24} {result['final_loss']:>10.4g}   learned"
    return "\n".join([HEAD, *(line for lines in tables for line in lines), mean])


HEAD = f"{'final training loss':<24} {'mean':>10}   learning rate"


def _rows(result: dict[str, Any], name: str) -> list[str]:
    lines = [f"{name:<24} {result['final_loss']:>10.4g}   learned"]
    for rival, row in result["baselines"].items():
        edge = "  (the last of those tried)" if row["at_edge"] else ""
        lines.append(f"{rival + ', tuned':<24} {row['final_loss']:>10.4g}   {row['learning_rate']:g}{edge}")
    return lines


def _describe(tuned: TunedLearningRate) -> dict[str, Any]:
    final = float(np.mean(tuned.final[tuned.best]))
    return {"final_loss": final, "learning_rate": tuned.rate, "at_edge": tuned.at_edge}


def _summarise(curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over runs; over several objectives, geometric means of losses, and the mean share of diverged runs."""
    final = {name: final_losses(own) for name, own in curves.items()}
    return {
        "final_loss": _mean_over_objectives([float(np.mean(own)) for own in final.values()]),
        "mean_loss": _mean_over_objectives([float(np.mean(own)) for own in curves.values()]),
        "diverged": float(np.mean([np.mean(~np.isfinite(own)) for own in final.values()])),
    }


def _mean_over_objectives(values: list[float]) -> float:
    return values[0] if len(values) == 1 else float(np.exp(np.mean(np.log(np.maximum(values, FLOOR)))))
