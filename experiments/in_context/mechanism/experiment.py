"""What has the Transformer learned? Its predictions and its attention against classical learners.

Reviewers of GPICL (Kirsch, Harrison, Sohl-Dickstein, Metz 2022, arXiv 2212.04458) asked for the mechanism behind
general-purpose in-context learning, and the paper leaves it open: does it compare neighbours, average prototypes, or
fit weights? Transformers are meta-trained on numbers of tasks on both sides of the transition. Two questions are asked.

- Which classical learner makes the same mistakes? 1-NN, k-NN, kernel regression, nearest centroid, ridge and logistic
  regression predict the same held-out episodes, each with the settings by which it agrees most with this Transformer on
  other episodes.
- Does attention compare inputs? Measured are whether a head weighs examples by their similarity to the query, how much
  of its weight is on the query's class, and the accuracy if a layer attends by a fitted kernel, or to all equally.

    python -m experiments mechanism quick       # minutes on two cores
    python -m experiments mechanism standard    # about 20 minutes
    python -m experiments mechanism paper       # the published size, for an accelerator
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from experiments.in_context.mechanism.agreement import CLASSICAL, TWO_KERNELS, compare_predictions
from experiments.in_context.mechanism.picture import MEASURES, draw, table
from experiments.in_context.mechanism.probe import probe
from experiments.in_context.settings import published_config, small_config
from experiments.suite.experiment import Experiment, Row, Trained
from experiments.suite.intervals import list_interval
from experiments.suite.tables import format_estimate
from metalearn.recipes.in_context.build import prepare, read_theta
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.sweeps import Cell

LEAST = {"errors": -1 / 8, "kappa": -1.0, "consistency": -1.0}
"""Lower bounds of the measures of agreement with ten classes; the other measures are at least 0."""

__all__ = ["EXPERIMENT", "PRESETS", "Settings"]


@dataclass(frozen=True)
class Settings:
    """Numbers of tasks, seeds, and size of the learner."""

    exponents: tuple[int, ...] = (5, 6, 7, 8, 9, 14)
    """Numbers of tasks, as powers of two. The classical learners are compared at the largest."""
    seeds: int = 6
    """Meta-trainings per number of tasks."""
    first_seed: int = 0
    """The first seed."""
    width: int = 64
    """Width of the Transformer."""
    steps: int = 2000
    """Outer steps per meta-training."""
    sequences: int = 256
    """Sequences to measure on, each of another unseen task. Settings are fitted on as many others."""
    size: Literal["small", "published"] = "small"
    """small: digits on 16 components, pair token; published: MNIST at 14x14, the paper's Transformer and token."""


PRESETS = {
    "quick": Settings((5, 7, 8, 14), 3, steps=800, sequences=128),
    "standard": Settings(),
    "paper": Settings((6, 10, 12, 13, 14, 24), 6, 0, 256, 50_000, 256, "published"),
}


def cells(settings: Settings) -> list[Cell]:
    """One cell per number of tasks and seed, one seed of everything first."""
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    return [{"exponent": e, "seed": seed} for seed in seeds for e in settings.exponents]


def config(settings: Settings, cell: Cell) -> TrainConfig:
    """The meta-training of a cell."""
    build = small_config if settings.size == "small" else published_config
    exponent, seed = int(cell["exponent"]), int(cell["seed"])  # pyright: ignore[reportArgumentType]
    return build(seed, settings.steps, settings.width, num_tasks=2**exponent)


def measure(settings: Settings, cell: Cell, trained: Trained) -> dict[str, Any]:
    """See `probe.probe`; the first seed of each number of tasks keeps an example for the picture."""
    recipe = prepare(trained.config)
    theta = read_theta(trained.folder, recipe)
    return probe(recipe, theta, settings.sequences, cell["seed"] == settings.first_seed)


def summarise(settings: Settings, rows: list[Row]) -> dict[str, Any]:
    """Which classical learner makes the same mistakes, and how attention changes with the number of tasks.

    The paper makes no claim to reproduce. The nearest classical learner is the one with the highest mean agreement on
    errors (`errors` of `agreement.compare_predictions`) with the Transformers of the largest number of tasks. Beyond:
    for each other classical learner, the paired difference to the nearest has a 95 % interval over seeds above 0. Open:
    otherwise. Intervals are over meta-trainings, which all see the same episodes.
    """
    by = {e: [r for r in rows if r["exponent"] == e] for e in sorted({r["exponent"] for r in rows})}
    many = by[max(by)]
    names = [*CLASSICAL, TWO_KERNELS]
    likeness = {
        name: {
            m: _interval([r["classical"][name][m] for r in many], LEAST.get(m, 0.0)) for m in (*MEASURES, "accuracy")
        }
        for name in names
    }
    ranked = sorted(CLASSICAL, key=lambda name: -np.nan_to_num(likeness[name]["errors"][0], nan=-9.0))
    nearest, second = ranked[:2]
    ahead = {
        name: _interval([_subtract(r["classical"][nearest]["errors"], r["classical"][name]["errors"]) for r in many])
        for name in ranked[1:]
    }
    apart = all(low > 0 for _, low, _ in ahead.values())
    points = {
        e: {
            **{k: _interval([r[k] for r in group], 0) for k in ("unseen_accuracy", "seen_accuracy")},
            **{k: _interval([r["matching"][k] for r in group], 0) for k in ("same_class", "seen_same_class")},
            **{k: _interval([r["matching"][k] for r in group], -1) for k in ("correlation", "explained")},
            **{k: _interval([r["classical"][nearest][k] for r in group], LEAST[k]) for k in ("errors", "kappa")},
        }
        for e, group in by.items()
    }
    between = [_agreement_on_errors(a["mistakes"], b["mistakes"]) for a, b in itertools.combinations(many, 2)]
    layers = range(len(many[0]["replaced"]))
    swapped = [
        {k: _interval([r["replaced"][i][k]["accuracy"] for r in many], 0) for k in ("kernels", "equal")} for i in layers
    ]
    fitted = sorted({r["classical"][nearest]["setting"] for r in many})
    kernel = max((n for n in CLASSICAL if "kernel" in n), key=lambda n: likeness[n]["agreement"][0])
    ceiling = _interval(between, LEAST["errors"])
    few, most = ({k: format_estimate(v) for k, v in points[e].items()} for e in (min(by), max(by)))
    errors = {name: format_estimate(likeness[name]["errors"]) for name in (nearest, second)}
    agreement = {name: format_estimate(likeness[name]["agreement"]) for name in (kernel, TWO_KERNELS)}
    words = (
        f"meta-trained on 2^{max(by)} tasks (unseen accuracy {points[max(by)]['unseen_accuracy'][0]:.3f}) it is, of "
        f"the classical learners, most like {nearest} ({'; '.join(fitted)}): where both are wrong, their agreement on "
        f"the class, corrected for chance, is {errors[nearest]}, against {errors[second]} with {second} (difference "
        f"{format_estimate(ahead[second])}) and {ceiling[0]:.3f} between Transformers of different seeds. {kernel} "
        f"with a fitted temperature predicts {agreement[kernel]} of its classes, {TWO_KERNELS}, one of them repelling, "
        f"{agreement[TWO_KERNELS]}. Its most matching head puts {most['same_class']} of its weight on the query's "
        f"class (equal weights: {np.mean([r['matching']['chance'] for r in many]):.3f}), rank correlation with "
        f"similarity {most['correlation']}; with 2^{min(by)} tasks {few['same_class']} and {few['correlation']}. "
        "Accuracy when a layer attends by fitted kernels, or equally: "
        + ", ".join(f"layer {i + 1} {s['kernels'][0]:.3f}, {s['equal'][0]:.3f}" for i, s in enumerate(swapped))
    )
    return {
        "verdict": "beyond" if apart else "open",
        "words": words,
        "nearest": nearest,
        "ahead": ahead,
        "likeness": likeness,
        "between_seeds": ceiling,
        "points": points,
        "replaced": swapped,
    }


def _interval(values: Sequence[float | None], least: float | None = None) -> list[float]:
    """Mean and 95 % interval of the known values, clipped to [least, 1] if `least` is given."""
    kept = [v for v in values if v is not None and np.isfinite(v)]
    mean, low, high = list_interval(kept) if kept else [float("nan")] * 3
    return [mean, low, high] if least is None or len(kept) < 2 else [mean, max(low, least), min(high, 1.0)]


def _subtract(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _agreement_on_errors(a: str, b: str) -> float:
    """`errors` of `compare_predictions` for two Transformers, from the `mistakes` that their probes keep."""
    one, other = (np.frombuffer(s.encode(), np.uint8) for s in (a, b))
    classes = 10
    return compare_predictions(one, other, np.full(len(one), 48, np.uint8), classes)["errors"]


EXPERIMENT = Experiment(
    name="mechanism",
    claim="none: the paper asks what its learner computes and leaves it open",
    presets=PRESETS,
    cells=cells,
    config=config,
    measure=measure,
    summarise=summarise,
    draw=draw,
    table=table,
)
