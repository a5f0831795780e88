"""Search for a loss, refinement of its coefficients, and the files that both leave in a folder."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from metalearn.ranges import check
from metalearn.recipes.learned_loss.config import SearchLossConfig
from metalearn.runs.processes import all_do, first_does, name_the_lost
from metalearn.runs.progress import Progress
from metalearn_models.losses.formulas import size, to_text
from metalearn_models.losses.refinement.refine import refine
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import LossTask
from metalearn_models.losses.search.search import (
    SearchConfig,
    SearchResult,
    as_loss,
    prefer_small,
    random_control,
    search,
)
from metalearn_models.losses.symbolic_loss import SymbolicLoss

__all__ = ["format_table", "refine_coefficients", "search_config", "search_loss"]


def search_loss(config: SearchLossConfig, out: Path, progress: Progress) -> tuple[SymbolicLoss, dict[str, Any]]:
    """Search for a loss and refine it. A search that the folder holds already continues.

    Several processes of `jax.distributed` share the trainings of the search; process 0 refines and writes.

    Args:
        config: settings of the search and its data sets.
        out: folder for the search, loss.json, loss.png and result.json.
        progress: shows how far the search is.

    Returns:
        The loss, and the content of result.json. Processes but the first return the loss before refinement, and no
        more than `formula` and `trained`.

    Raises:
        ValueError: data sets of two kinds, numbers out of range, or a control of the search that it repeats.
        RunError: the folder holds another search; or another process had to end this one.
    """
    start = time.monotonic()
    with name_the_lost(lambda: f"What the search has done is in {out}; the same command continues"):
        all_do(lambda: _check(config))
        tasks = all_do(lambda: _load_tasks(config))
        searched = search_config(config, tasks)
        found = search(tasks, searched, out, progress)
        control = search(tasks, random_control(searched, found), out / "random", progress) if config.control else None
        finished = first_does(lambda: _finish(config, tasks, found, control, out, progress, start))
    if finished is not None:
        return finished
    best = prefer_small(found.best)
    return as_loss(best.expr, tasks, config.strategy), {"formula": to_text(best.expr), "trained": len(found.trained)}


def _check(config: SearchLossConfig) -> None:
    check(config)
    if config.control and config.strategy == "random":
        raise ValueError(
            "--control runs a random search beside another one, and --strategy random is that search already: leave "
            "--control out, or choose --strategy model, enumeration or evolution"
        )


def _load_tasks(config: SearchLossConfig) -> list[LossTask]:
    from metalearn_tasks.datasets.corrupted import loss_task

    try:
        return [loss_task(name, config.noise, config.hidden, config.seed, config.unit) for name in config.data]
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def _finish(
    config: SearchLossConfig,
    tasks: Sequence[LossTask],
    found: SearchResult,
    control: SearchResult | None,
    out: Path,
    progress: Progress,
    start: float,
) -> tuple[SymbolicLoss, dict[str, Any]]:
    """Refine what was found, and write it."""
    from metalearn.pictures import save
    from metalearn_models.losses.reading import picture

    best = prefer_small(found.best)
    loss = as_loss(best.expr, tasks, config.strategy)
    result: dict[str, Any] = {
        "formula": to_text(best.expr),
        "finalists": [_row(entry) for entry in found.best],
        "seeded": [_row(entry) for entry in found.trained if to_text(entry.expr) in SEEDS[tasks[0].kind]],
        "trained": len(found.trained),
        "candidates": sum(g.trained + g.known + sum(g.rejected.values()) for g in found.generations),
        "compilations": found.compilations,
        "control": None if control is None else _row(control.best[0]),
        "refined": None,
    }
    if config.refine:
        loss, result["refined"] = refine_coefficients(loss, tasks, config, progress)
    provenance = {
        "found_by": f"metalearn search-loss --strategy {config.strategy}",
        "tasks": ", ".join(config.data),
        "noise": config.noise,
        **({} if config.unit == "clean" else {"unit": config.unit}),
        "validation_error": best.fitness,
        "refined": bool(result["refined"] and result["refined"]["accepted"]),
        "seed": config.seed,
    }
    loss = dataclasses.replace(loss, provenance=provenance)
    loss.save(out / "loss.json")
    save(picture(loss), out / "loss.png")
    result["seconds"] = round(time.monotonic() - start, 1)
    (out / "result.json").write_text(json.dumps(result, indent=2))
    return loss, result


def search_config(config: SearchLossConfig, tasks: Sequence[LossTask]) -> SearchConfig:
    """The settings of the search; its first population holds cross-entropy, or squared and absolute error.

    Errors are averaged geometrically, so that each data set counts by ratios, whatever its level.
    """
    return SearchConfig(
        evolution=EvolutionConfig(population=config.population, seeds=SEEDS[tasks[0].kind]),
        training=config.training,
        generations=config.generations,
        strategy=config.strategy,
        max_trained=config.max_trained,
        average="geometric",
        seed=config.seed,
    )


def refine_coefficients(
    loss: SymbolicLoss, tasks: Sequence[LossTask], config: SearchLossConfig, progress: Progress
) -> tuple[SymbolicLoss, dict[str, Any]]:
    """Refine the coefficients of a loss, and keep them only if they train better on validation examples.

    Returns:
        The loss to use, and the scores before and after with the decision.
    """
    from metalearn_models.losses.parametric import free_coefficients

    learnable = free_coefficients(loss)
    refinement = dataclasses.replace(config.refinement, seed=config.seed, horizon=config.training.steps)
    outcome = refine(learnable, learnable.init(jax.random.key(config.seed)), tasks, refinement, progress)
    kept = loss.with_coefficients(np.asarray(outcome.theta)) if outcome.accepted else loss
    return kept, {"before": outcome.score_before, "after": outcome.score_after, "accepted": outcome.accepted}


def format_table(result: dict[str, Any]) -> str:
    """The finalists, the losses the search was seeded with, and the control, with their validation errors."""
    lines = [f"{'validation error':>17} {'size':>5}   trained {result['trained']} of {result['candidates']} candidates"]
    groups = [("", result["finalists"]), ("seed, with its error in the search: ", result["seeded"])]
    groups.append(("random search: ", [result["control"]] if result["control"] else []))
    for label, rows in groups:
        lines += [f"{row['error']:>17.4f} {row['size']:>5}   {label}{row['formula']}" for row in rows]
    return "\n".join(lines)


def _row(entry: Any) -> dict[str, Any]:
    return {
        "formula": to_text(entry.expr),
        "error": entry.fitness,
        "errors": list(entry.errors),
        "learning_rates": list(entry.rates),
        "size": size(entry.expr),
    }
