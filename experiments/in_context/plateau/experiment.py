"""Leaving chance: how long meta-training of a black box stays on a plateau, and what shortens it.

Kirsch, Harrison, Sohl-Dickstein, Metz 2022 (GPICL, arXiv 2212.04458), Figs. 7 to 10. The loss stays at chance for
thousands of steps and then falls within a few hundred. The paper shortens this plateau by larger batches (a power law),
by an Adam that does not damp small gradients, and by a bias: 90 % of the tasks share a permutation of the labels. Added
here are the same bias annealed away, shorter contexts first, and a token that holds an example with its label.

Every meta-training is measured on unseen, unbiased tasks, and ends when it has left chance or at a maximum of steps. A
run that is still at chance at the maximum is censored: its length is longer than the maximum, and no mean includes it.

    python -m experiments plateau quick       # about 10 minutes on two cores
    python -m experiments plateau standard    # more than an hour
    python -m experiments plateau paper       # the published size, for an accelerator
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.in_context.plateau.lengths import (
    LEVEL,
    format_ends,
    format_steps,
    lengths,
    median,
    power_law,
    resample_lengths,
)
from experiments.in_context.plateau.picture import CONDITIONS, draw, table
from experiments.in_context.settings import published_config, small_config
from experiments.suite.experiment import Experiment, Row, Trained, read_evaluations
from metalearn.errors import unknown_name
from metalearn.recipes.in_context.config import CurriculumConfig, TrainConfig
from metalearn.recipes.outer_optimizer import OptimizerConfig
from metalearn.sweeps import Cell

BIASED = 0.1
"""Probability of a permuted task if 90 % of the tasks are not permuted."""
HALF, FIFTH = 1 / 2, 1 / 5
"""The shares of the unbiased run's steps within which the biased run and the pair token should leave chance."""

__all__ = ["EXPERIMENT", "PRESETS", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Interventions, batch sizes, seeds, and the maximum of steps."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    """Interventions: names from `CONDITIONS`. The control is `unbiased`."""
    seeds: int = 3
    """Meta-trainings per intervention."""
    first_seed: int = 0
    """The first seed."""
    steps: int = 10_000
    """Maximum of outer steps, at which a run ends even if it is still at chance."""
    batch: int = 64
    """Tasks per outer step."""
    batches: tuple[int, ...] = (16, 32, 128, 256)
    """Further numbers of tasks per outer step, for the control."""
    batch_steps: tuple[int, ...] = (40_000, 20_000, 7_000, 7_000)
    """Maxima of outer steps, one per number in `batches`."""
    batch_seeds: int = 3
    """Meta-trainings per number in `batches`."""
    anneal_steps: int = 400
    """For the bias that is annealed away: up to this outer step 90 % of the tasks are not permuted, and from ten times
    this step on all are."""
    curriculum_first: int = 10
    """For short contexts first: examples that count in the loss at the beginning."""
    curriculum_steps: int = 2000
    """For short contexts first: outer steps until all examples count."""
    evaluate_every: int = 50
    """Outer steps between evaluations; also the resolution of a length."""
    width: int = 64
    """Width of the Transformer."""
    size: Literal["small", "published"] = "small"
    """small: digits on 16 components; published: MNIST at 14x14, the paper's Transformer, 32 sequences per task."""


PRESETS = {
    "quick": Settings(("unbiased", "biased", "pair"), steps=9000, batches=(), batch_steps=()),
    "standard": Settings(),
    "paper": Settings(
        steps=50_000,
        batch=16,
        batches=(4, 8, 32, 64),
        batch_steps=(100_000, 100_000, 30_000, 20_000),
        anneal_steps=2000,
        curriculum_steps=10_000,
        width=256,
        size="published",
    ),
}


def cells(settings: Settings) -> list[Cell]:
    """One cell per intervention or batch size and seed: one seed of everything first, so that the picture fills evenly.

    Raises:
        ValueError: an unknown condition, or another number of maxima than of batch sizes.
    """
    for condition in settings.conditions:
        if condition not in CONDITIONS:
            raise unknown_name("condition", condition, CONDITIONS)
    if len(settings.batches) != len(settings.batch_steps):
        raise ValueError(
            f"--batch-steps needs one number per number of --batches: got {len(settings.batch_steps)} for "
            f"{len(settings.batches)}"
        )
    order = [
        (seed, condition, settings.batch) for seed in range(settings.seeds) for condition in settings.conditions
    ] + [(seed, "unbiased", batch) for seed in range(settings.batch_seeds) for batch in settings.batches]
    order.sort(key=lambda cell: cell[0])
    return [{"condition": c, "batch": batch, "seed": settings.first_seed + seed} for seed, c, batch in order]


def config(settings: Settings, cell: Cell) -> TrainConfig:
    """The meta-training of a cell."""
    condition, batch, seed = str(cell["condition"]), int(str(cell["batch"])), int(str(cell["seed"]))
    most = dict(zip(settings.batches, settings.batch_steps, strict=True)) | {settings.batch: settings.steps}
    is_small = settings.size == "small"
    steps = most[batch]
    optimizer = OptimizerConfig(1e-3, warmup=min(200, steps // 5), clip=1.0) if is_small else OptimizerConfig(1e-3)
    common: dict[str, Any] = {"batch": batch, "outer_optimizer": optimizer, "evaluate_every": settings.evaluate_every}
    common |= {"eval_tasks": 32, "eval_sequences": 4, "checkpoint_every": 20 * settings.evaluate_every}
    common["steps_per_call"] = min(50, settings.evaluate_every)  # evaluations happen at the end of a call
    made = (small_config if is_small else published_config)(seed, steps, settings.width, None, **common)
    made = dataclasses.replace(made, learner=dataclasses.replace(made.learner, token="paper"))
    return _intervene(made, settings, condition)


def _intervene(made: TrainConfig, settings: Settings, condition: str) -> TrainConfig:
    replace = dataclasses.replace
    if condition in ("biased", "annealed"):
        anneal_steps = settings.anneal_steps if condition == "annealed" else 0
        return replace(made, family=replace(made.family, permute_prob=BIASED, anneal_steps=anneal_steps))
    if condition == "pair":
        return replace(made, learner=replace(made.learner, token="pair"))
    if condition == "curriculum":
        return replace(made, curriculum=CurriculumConfig(settings.curriculum_first, settings.curriculum_steps))
    if condition == "eps-root-1e-8":
        return replace(made, outer_optimizer=replace(made.outer_optimizer, eps_root=1e-8))
    if condition in ("eps-1e-6", "eps-1e-4"):
        return replace(made, outer_optimizer=replace(made.outer_optimizer, eps=float(condition.removeprefix("eps-"))))
    return made


def is_finished(settings: Settings, cell: Cell, step: int, numbers: Mapping[str, float]) -> bool:
    """Whether the run has left chance and, if its bias is annealed away, nothing is left of the bias."""
    unbiased_from = settings.anneal_steps / BIASED if cell["condition"] == "annealed" else 0
    return numbers["unseen_score"] > LEVEL and step >= unbiased_from


def measure(settings: Settings, cell: Cell, trained: Trained) -> dict[str, Any]:
    """The step at which the run left chance (None: it did not), and its curve of accuracy."""
    curve = [(step, numbers["unseen_score"]) for step, numbers in read_evaluations(trained.lines)]
    left = next((step for step, accuracy in curve if accuracy > LEVEL), None)
    kept = sorted({*range(0, len(curve), max(1, len(curve) // 200)), len(curve) - 1})
    return {
        "value": trained.config.steps if left is None else left,
        "left": left,
        "maximum": trained.config.steps,
        "last": curve[-1][1],
        "curve_steps": [curve[i][0] for i in kept],
        "curve": [round(curve[i][1], 4) for i in kept],
    }


def summarise(settings: Settings, rows: list[Row]) -> dict[str, Any]:
    """Steps to leave chance: medians, their ratios to the control's, and a power law in the batch size.

    The length of a run that ended at chance counts as infinite, and so does a median that falls on such a run. If the
    control's median is infinite, its maximum is used instead, and the ratios are upper bounds.

    Reproduced: the median of the 90 %-biased runs is at most half of the unbiased runs'. Beyond: also the median of the
    pair token is at most a fifth. Open: there are no runs of either kind, or all that is known of the ratio is an upper
    bound above a half.
    """
    by = {c: [r for r in rows if r["condition"] == c and r["batch"] == settings.batch] for c in CONDITIONS}
    by = {c: group for c, group in by.items() if group}
    control = by.get("unbiased", [])
    found = {}
    for c, group in by.items():
        values = lengths(group)
        ratio = resample_lengths([values, lengths(control, censored="maximum")], lambda a, b: median(a) / median(b))
        found[c] = {
            "lengths": sorted(values),
            "at_chance": sum(r["left"] is None for r in group),
            "maximum": group[0]["maximum"],
            "median": median(values),
            "ratio": ratio if control else None,
            "last": float(np.mean([r["last"] for r in group])),
        }
    bound = bool(control) and not np.isfinite(found["unbiased"]["median"])
    ratios = {c: point["ratio"][0] for c, point in found.items() if point["ratio"]}
    verdict = "open"
    if "biased" in ratios:
        verdict = "reproduced" if ratios["biased"] <= HALF else "open" if bound else "not reproduced"
        if verdict == "reproduced" and ratios.get("pair", np.inf) <= FIFTH:
            verdict = "beyond"
    of_batch = {r["batch"]: [] for r in sorted(rows, key=lambda r: r["batch"]) if r["condition"] == "unbiased"}
    for r in rows:
        if r["condition"] == "unbiased":
            of_batch[r["batch"]].append(r)
    law = power_law({b: lengths(group) for b, group in of_batch.items()}) if len(of_batch) > 1 else None
    batches = {
        b: {"median": median(lengths(g)), "at_chance": sum(r["left"] is None for r in g), "maximum": g[0]["maximum"]}
        for b, g in of_batch.items()
    }
    points = {"conditions": found, "ratio_is_bound": bound, "batches": batches, "power_law": law}
    return {"verdict": verdict, "words": _words(found, bound, law), **points}


def _words(found: dict[str, Any], bound: bool, law: dict[str, Any] | None) -> str:
    parts = []
    for c, point in found.items():
        text = f"{CONDITIONS[c][0]} {format_steps(point['median'], point['maximum'])}"
        if c != "unbiased" and point["ratio"] and np.isfinite(point["ratio"][0]):
            text += (
                f" ({'at most ' if bound else ''}{point['ratio'][0]:.2f}{format_ends(point['ratio'])} of the unbiased)"
            )
        if point["at_chance"]:
            text += f", {point['at_chance']} of {len(point['lengths'])} still at chance"
        if c == "annealed":
            text += f", accuracy {point['last']:.2f} at the end, on unbiased tasks as everywhere"
        parts.append(text)
    words = "median steps until unseen accuracy exceeds .25: " + "; ".join(parts)
    if law is not None and law["exponent"] is not None:
        words += f". Steps fall as batch^-{law['exponent'][0]:.2f}{format_ends(law['exponent'])} over {law['batches']}"
    if law is not None and law["left_out"]:
        words += f"; no fit of batches {law['left_out']}, where a run was still at chance"
    return words


EXPERIMENT = Experiment(
    name="plateau",
    claim="meta-training stays at chance for long; larger batches, undamped small gradients and a bias shorten that",
    presets=PRESETS,
    cells=cells,
    config=config,
    measure=measure,
    summarise=summarise,
    draw=draw,
    table=table,
    is_finished=is_finished,
)
