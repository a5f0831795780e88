"""Search for a loss, refinement of it, and what both leave in a folder."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metalearn.runs.progress import Progress
from metalearn_models.losses.formulas.expression import size, to_text
from metalearn_models.losses.refinement.refine import RefineConfig, refine
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_models.losses.search.search import SearchConfig, random_control, search
from metalearn_models.losses.symbolic_loss import SymbolicLoss


@dataclass(frozen=True)
class SearchLossCommand:
    """Search for the loss by which networks get best on clean validation examples.

    Formulas are bred, refused or recognised by their table, and trained a whole population at a time; the coefficients
    of the best are then refined by meta-gradients and kept only where they train better. A search that is in the
    folder already goes on.
    """

    tasks: tuple[str, ...] = ("digits-low", "wine")
    """Data sets to train on, all of one kind: digits, digits-low (classes 0 to 4), digits-high, wine, breast_cancer,
    iris; or diabetes, friedman1, friedman2, friedman3 (regression)."""
    noise: float = 0.0
    """Share of training labels that are wrong, or of training targets that are shifted; validation stays clean."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the networks' hidden layers."""
    population: int = 25
    """Formulas in a generation."""
    generations: int = 50
    """Generations."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How networks are trained by a candidate."""
    refine: bool = True
    """Refine the coefficients of the best formula."""
    refinement: RefineConfig = field(default_factory=RefineConfig)
    """How."""
    control: bool = False
    """Make a random search that trains as many distinct losses, too."""
    seed: int = 0
    """The one seed."""
    out: Path = Path("runs/search-loss")
    """Folder of the search, its loss.json, picture and result.json."""
    quiet: bool = False
    """No progress, only the result."""
    json: bool = False
    """Print one JSON object as the last line."""


def find(command: SearchLossCommand, progress: Progress) -> tuple[SymbolicLoss, dict[str, Any]]:
    """Search and refine; returns the loss and what is written to result.json.

    Raises:
        ValueError: tasks of two kinds, or numbers that do not fit.
        RunError: the folder holds another search.
    """
    from metalearn.pictures import save
    from metalearn_models.losses.reading import picture
    from metalearn_tasks.datasets.corrupted import loss_task

    began = time.monotonic()
    tasks = [loss_task(name, noise=command.noise, hidden=command.hidden, seed=command.seed) for name in command.tasks]
    config = search_config(command, tasks)
    found = search(tasks, config, command.out, progress)
    best = found.best[0]
    link = "softmax" if tasks[0].kind == "classification" else "identity"
    loss = SymbolicLoss(best.expr, link=link)
    result: dict[str, Any] = {
        "formula": to_text(best.expr),
        "finalists": [_row(entry) for entry in found.best],
        "seeded": [_row(entry) for entry in found.trained if to_text(entry.expr) in SEEDS[tasks[0].kind]],
        "trained": len(found.trained),
        "candidates": sum(g.trained + g.known + sum(g.rejected.values()) for g in found.generations),
        "compilations": found.compilations,
        "control": None,
        "refined": None,
    }
    if command.control:
        control = search(tasks, random_control(config, found), command.out / "random", progress)
        result["control"] = _row(control.best[0])
    if command.refine:
        loss, result["refined"] = refined(loss, tasks, command, progress)
    provenance = {
        "found_by": "metalearn search-loss",
        "tasks": ", ".join(command.tasks),
        "noise": command.noise,
        "validation_error": best.fitness,
        "refined": bool(result["refined"] and result["refined"]["accepted"]),
        "seed": command.seed,
    }
    loss = dataclasses.replace(loss, provenance=provenance)
    loss.save(command.out / "loss.json")
    save(picture(loss), command.out / "loss.png")
    result["seconds"] = round(time.monotonic() - began, 1)
    (command.out / "result.json").write_text(json.dumps(result, indent=2))
    return loss, result


def search_config(command: SearchLossCommand, tasks: Sequence[LossTask]) -> SearchConfig:
    """The search that a command asks for; cross-entropy, squared and absolute error are in its first population."""
    return SearchConfig(
        evolution=EvolutionConfig(population=command.population, seeds=SEEDS[tasks[0].kind]),
        training=command.training,
        generations=command.generations,
        seed=command.seed,
    )


def refined(
    loss: SymbolicLoss, tasks: Sequence[LossTask], command: SearchLossCommand, progress: Progress
) -> tuple[SymbolicLoss, dict[str, Any]]:
    """The loss with refined coefficients where they were validated to train better, else as it was."""
    import jax

    from metalearn_models.losses.parametric import free_coefficients

    learnable = free_coefficients(loss)
    config = dataclasses.replace(command.refinement, seed=command.seed, horizon=command.training.steps)
    outcome = refine(learnable, learnable.init(jax.random.key(command.seed)), tasks, config, progress)
    kept = loss.with_coefficients(np.asarray(outcome.theta)) if outcome.accepted else loss
    return kept, {"before": outcome.score_before, "after": outcome.score_after, "accepted": outcome.accepted}


def table(result: dict[str, Any]) -> str:
    """The finalists, the losses the search was seeded with, and the control, with their validation errors."""
    lines = [
        f"{'validation error':>17} {'size':>5}   of {result['trained']} losses trained, {result['candidates']} met"
    ]
    groups = [("", result["finalists"]), ("seeded, as judged in the search: ", result["seeded"])]
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
