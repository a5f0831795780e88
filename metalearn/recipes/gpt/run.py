"""Training of a generator on checkpoints, from a configuration to weights, alignment and picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.pictures import draw_meta_loss, new_figure, save_or_note
from metalearn.recipes.driving import WEIGHTS, drive
from metalearn.recipes.gpt.build import GPTRecipe, align, prepare
from metalearn.recipes.gpt.config import TrainGPTConfig, to_json
from metalearn.recipes.streams import stream
from metalearn.runs.folder import Run, note_on_stderr, write_result
from metalearn.runs.metrics import read_metrics
from metalearn.runs.processes import agree_on, is_first, local
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models.optimizers import library
from metalearn_models.optimizers.gpt import average_of
from metalearn_models.optimizers.gpt.jumping import pack_theta
from metalearn_models.optimizers.gpt.training import Pairs, measure_errors

__all__ = ["picture_of", "table", "train_gpt"]


def train_gpt(
    config: TrainGPTConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Record checkpoints and train a generator on them, in a run's folder; continue where it stopped if asked to.

    Args:
        config: what to do.
        folder: the run's folder; new or empty, unless resuming or overwriting.
        resume: continue from the newest readable checkpoint.
        overwrite: remove an older run in that folder first. Checkpoints in the folder of `config.zoo` stay.
        progress: what a person sees.

    Returns:
        The result, also in the run's result.json: alignment on unseen runs and on those it was trained on, seconds.
        With several processes, those but the first return `steps`, `theta_sha256` and `run` only.

    Raises:
        RunError: the folder cannot be used as asked.
        ValueError: the configuration does not fit together.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    began = time.monotonic()
    # Beside the run and not inside it: a run's folder must be empty when it begins.
    place = Path(config.zoo) if config.zoo is not None else folder.with_name(f"{folder.name}-checkpoints")
    if progress is not None:
        progress.note(f"checkpoints in {place}")
    agree_on(to_json(config))
    recipe = prepare(config, place, progress)
    recorded = time.monotonic()
    run, state = drive(
        recipe.training,
        folder,
        evaluate=lambda theta: {"alignment": float(np.mean(align(recipe, theta, True)[2]))},
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )
    theta = local(average_of(state.optimizer))
    if not is_first():
        return {"steps": int(state.step), "theta_sha256": theta_sha256(theta), "run": str(run.folder)}
    errors = _errors(recipe, theta)
    parts = {name: align(recipe, theta, unseen, errors) for name, unseen in (("unseen", True), ("seen", False))}
    result: dict[str, Any] = {
        **{f"alignment_{name}": float(np.mean(part[2])) for name, part in parts.items()},
        **{f"best_prompt_{name}": _first(part) for name, part in parts.items()},
        "diverged": recipe.zoo.diverged,
        "steps": int(state.step),
        "theta_sha256": theta_sha256(theta),
        "recording_seconds": round(recorded - began, 1),
        "run": str(run.folder),
    }
    # The run's file has held the weights of the newest step; what it leaves is their average.
    trained = library.read(run.folder / WEIGHTS)
    card = {key: value for key, value in trained.card.items() if key != "optimizer"}
    library.save(
        run.folder / WEIGHTS,
        "gpt",
        pack_theta(recipe.generator, theta, errors),
        trained.card["optimizer"]["settings"],
        {**card, "alignment": result["alignment_unseen"]},
    )
    result["seconds"] = round(time.monotonic() - began, 1)
    means = {name: {"wished": part[0].mean(0), "achieved": part[1].mean(0)} for name, part in parts.items()}
    write_result(run, {**result, "curves": means})
    save_or_note(picture_of(run), run.folder / "alignment.png", note_on_stderr if progress is None else progress.note)
    return result


def picture_of(run: Run) -> Any:
    """A figure of a run, from its files: wished and achieved losses if it has ended, and meta-training so far.

    Runs of earlier versions left no such losses.
    """
    result = json.loads(run.result.read_text()) if run.result.exists() else {}
    parts = result.get("curves", {})
    figure, (*lefts, right) = new_figure(columns=1 + bool(parts))
    for left in lefts:
        for name, part in parts.items():
            label = f"{name} runs, $R^2$ {result[f'alignment_{name}']:.3f}"
            left.plot(part["wished"], part["achieved"], "o-", markersize=3, label=label)
        ends = [0.0, max(parts["unseen"]["wished"])]
        left.plot(ends, ends, "k:", linewidth=1, label="as wished")
        left.set_xlabel("wished training loss")
        left.set_ylabel("achieved in one jump")
        left.legend(fontsize=8)
    draw_meta_loss(right, read_metrics(run))
    return figure


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{'networks of':<14} {'alignment R^2':>14} {'lowest wish':>12} {'achieved':>9}"]
    for name in ("unseen", "seen"):
        wish, got = result[f"best_prompt_{name}"]
        lines.append(f"{name + ' runs':<14} {result[f'alignment_{name}']:>14.3f} {wish:>12.3g} {got:>9.3g}")
    if result["diverged"]:
        lines.append(f"{result['diverged']} runs diverged and were dropped")
    return "\n".join(lines)


def _first(part: tuple[np.ndarray, ...]) -> list[float]:
    """The lowest wish, and what was achieved, as means over networks."""
    return [float(part[0][:, 0].mean()), float(part[1][:, 0].mean())]


def _errors(recipe: GPTRecipe, theta: Any) -> Any:
    """The errors that the sampler's variance reads, measured on training runs; None where there is no such variance."""
    if recipe.config.generator.method != "diffusion":
        return None
    shard = recipe.zoo.seen()  # unseen runs only judge
    losses = jnp.asarray(recipe.zoo.loss(shard, "train"))
    pairs = Pairs(recipe.generator.scaled(jnp.asarray(shard.params)), losses)
    key = stream(recipe.config.seed, "errors")
    return jax.jit(lambda theta, pairs: measure_errors(recipe.generator, theta, pairs, key))(theta, pairs)
