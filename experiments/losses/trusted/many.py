"""Losses that are shipped, with 1,000 classes, beside what a user would take instead.

`trusted_losses` chose a loss and checked it with 1,000 classes on one split. Here the losses for classes that are
shipped meet three splits of the same kind of data, clean and with 30 % of the labels replaced by others. Each loss has
the best of three learning rates of Adam, by the mean error on clean validation examples.

The rule of the verdict, written before the run, for each shipped loss. Differences are of test errors in points, on the
same splits, with 95 % intervals over splits.

- clean: holds if its error minus that of label smoothing is at most half a point, with the whole interval; behind if
  the whole interval lies above half a point; otherwise open.
- noise: the same with its error minus that of the best of the other losses (least mean error), and 0 in place of half a
  point.

    python -m experiments many_classes             # 3 splits; kept part by part
    python -m experiments many_classes --seeds 6   # as in docs/results.md; three more were run once three had been seen
    python -m experiments many_classes quick     # 100 classes
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.losses._comparison import draw_errors
from experiments.losses.trusted.comparison import Condition, compare
from experiments.losses.trusted.contest import RATES
from experiments.losses.trusted.data import Noise
from experiments.losses.trusted.report import BASELINES, HALF_A_POINT
from experiments.suite.cells import remember
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.losses import load

__all__ = ["PRESETS", "ManyClassesConfig", "format_result", "judge", "run"]

SHIPPED = ("root-bootstrapping", "label-noise")
"""The shipped losses for classes."""
NOISES: tuple[Noise, ...] = ("clean", "symmetric")
SHARE = 0.3
FIRST = 1000
"""The first split; those of the searches and of the choice are others."""


@dataclass(frozen=True)
class ManyClassesConfig:
    """Shipped losses with 1,000 classes."""

    data: str = "template-1000"
    """The data set: the kind and the number of classes."""
    seeds: int = 3
    """Splits, each with noise, networks and batches of its own."""
    steps: int = 400
    """Steps of each training."""
    out: Path = Path("runs/many_classes")
    """Folder of the picture, the table and the parts that are done."""


PRESETS = {
    "standard": ManyClassesConfig(),
    "quick": ManyClassesConfig("template-100", out=Path("runs/many_classes-quick")),
}


def run(config: ManyClassesConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train with every loss and judge; returns what result.json holds, errors as shares."""
    for name in ("seeds", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(config, name)}")
    start, results = time.monotonic(), {}
    losses = {name: load(name) for name in ("cross-entropy", *BASELINES, *SHIPPED)}
    named, seeds = {name: str(loss) for name, loss in losses.items()}, range(FIRST, FIRST + config.seeds)
    for noise in NOISES:
        condition: Condition = (config.data, noise, SHARE)
        asked = {"losses": named, "condition": condition, "seeds": list(seeds), "rates": RATES, "steps": config.steps}
        found = remember(
            config.out,
            f"compare-{config.data}-{noise}",
            asked,
            lambda one=condition: compare(losses, [one], seeds, RATES, config.steps),
        )
        results[noise] = next(iter(found.values()))
        if progress is not None:
            errors = (f"{name} {100 * np.mean(row['each']):.1f} %" for name, row in results[noise].items())
            progress.note(f"{noise}: {', '.join(errors)}")
    picture = draw(results, config.out / "many_classes.png")
    seconds = round(time.monotonic() - start, 1)
    return write_result(
        config.out, {"results": results, "verdict": judge(results), "picture": str(picture), "seconds": seconds}
    )


def judge(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By noise and shipped loss: the rival, the points over it with their interval, and the word of the rule."""
    verdict: dict[str, dict[str, Any]] = {}
    for noise, row in results.items():
        for name in SHIPPED:
            others = [other for other in row if other not in SHIPPED]
            best = min(others, key=lambda other: float(np.mean(row[other]["each"])))
            rival, bound = ("label-smoothing", 100 * HALF_A_POINT) if noise == "clean" else (best, 0.0)
            points = list_interval(100 * np.subtract(row[name]["each"], row[rival]["each"]))
            word = "holds" if points[2] <= bound else "behind" if points[1] > bound else "open"
            verdict.setdefault(noise, {})[name] = {"rival": rival, "points": points, "verdict": word}
    return verdict


def draw(results: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """Test errors, one panel per noise, one point per split."""
    figure, axes = new_figure(columns=len(results), width=4)
    for ax, (noise, row) in zip(axes, results.items(), strict=True):
        draw_errors(ax, {name: one["each"] for name, one in row.items()}, "test error", log=False)
        ax.set_title(noise if noise == "clean" else f"{SHARE:.0%} {noise} noise", fontsize=9)
    return save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """The table of errors in per cent with their learning rates, and the verdicts."""
    results = result["results"]
    labels = list(next(iter(results.values())))
    columns = {
        noise: [f"{100 * np.mean(row[label]['each']):.1f} at {row[label]['rate']:g}" for label in labels]
        for noise, row in results.items()
    }
    lines = [format_columns(labels, columns, "test error, %, at its rate"), ""]
    for noise, row in result["verdict"].items():
        for name, found in row.items():
            points = format_estimate(found["points"], "+.1f")
            lines.append(f"{noise}, {name}: {points} points over {found['rival']}: {found['verdict']}")
    return "\n".join([*lines, f"picture: {result['picture']} ({result['seconds']} s)"])
