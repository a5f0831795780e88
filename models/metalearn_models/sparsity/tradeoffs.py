"""The table and the two pictures of ShrinkBench: accuracy against compression, and against theoretical speed-up.

Blalock, Gonzalez Ortiz, Frankle, Guttag 2020 (arXiv 2003.03033) ask for both axes, absolute accuracies, the unpruned
control beside them, mean and spread over seeds, and at least five compressions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metalearn_models.sparsity.report import Report

__all__ = ["Outcome", "Tradeoffs", "draw_tradeoffs", "format_tradeoffs", "outcome"]

FEWEST = 5
"""Compressions that ShrinkBench asks for at least."""


class Outcome(NamedTuple):
    """What counts of one pruned network.

    Attributes:
        compression: see `Report.compression`.
        speed_up: theoretical, see `Report.speed_up`.
        top1: share of right answers.
        top5: share of examples whose label is among the first five.
    """

    compression: float
    speed_up: float
    top1: float
    top5: float


Tradeoffs = Mapping[str, Sequence[Sequence[Outcome]]]
"""By method: for each compression in ascending order, the outcome of each seed."""


def outcome(report: Report) -> Outcome:
    """What counts of a report.

    Raises:
        ValueError: the report was made without labels.
    """
    if report.top1 is None or report.top5 is None:
        raise ValueError("this report has no accuracies: give labels=... to report")
    return Outcome(report.compression, report.speed_up, report.top1, report.top5)


def format_tradeoffs(methods: Tradeoffs, control: Sequence[Outcome]) -> str:
    """A table with a line per method and compression.

    Args:
        methods: their outcomes.
        control: outcomes of the unpruned networks, one per seed.

    Returns:
        Means over seeds, accuracies in per cent with their standard deviation. With fewer than five compressions the
        last line says so.
    """
    width = max(len("unpruned"), *map(len, methods))
    lines = [f"{'method':<{width}}  {'compression':>11}  {'speed-up':>8}  {'top-1, %':>14}  {'top-5, %':>14}  seeds"]
    rows = [("unpruned", control), *((name, point) for name, points in methods.items() for point in points)]
    for name, point in rows:
        means, spreads = _moments(point)
        lines.append(
            f"{name:<{width}}  {means.compression:>11.2f}  {means.speed_up:>8.2f}  "
            + "  ".join(f"{_percent(means[i], spreads[i]):>14}" for i in (2, 3))
            + f"  {len(point):>5}"
        )
    if few := [name for name, points in methods.items() if len(points) < FEWEST]:
        lines.append(f"ShrinkBench asks for at least {FEWEST} compressions; fewer have {', '.join(few)}")
    return "\n".join(lines)


def draw_tradeoffs(axes: Sequence[Any], methods: Tradeoffs, control: Sequence[Outcome], top: int = 1) -> None:
    """Draw top-1 against compression on the first axes, and against theoretical speed-up on the second.

    Args:
        axes: two matplotlib axes.
        methods: their outcomes; points are means over seeds, bars standard deviations.
        control: outcomes of the unpruned networks: a dashed line, and a band of one standard deviation.
        top: 1 or 5.
    """
    if top not in (1, 5):
        raise ValueError(f"top must be 1 or 5, got {top}")
    score = 2 if top == 1 else 3
    means, spreads = _moments(control)
    for ax, (field, label) in zip(axes, ((0, "compression"), (1, "theoretical speed-up")), strict=True):
        level, spread = 100 * means[score], 100 * spreads[score]
        ax.axhline(level, color="0.3", linestyle="--", linewidth=1, label="unpruned")
        if math.isfinite(spread):
            ax.axhspan(level - spread, level + spread, color="0.3", alpha=0.12, linewidth=0)
        for number, (name, points) in enumerate(methods.items()):
            moments = [_moments(point) for point in points]
            xs = [mean[field] for mean, _ in moments]
            ys = [100 * mean[score] for mean, _ in moments]
            errors = [100 * spread[score] if math.isfinite(spread[score]) else 0.0 for _, spread in moments]
            ax.errorbar(
                xs, ys, errors, fmt="o-", markersize=3, linewidth=1.3, capsize=2, color=f"C{number % 10}", label=name
            )
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_xlabel(label)
        ax.set_ylabel(f"top-{top}, %")
    axes[0].legend(fontsize=7, frameon=False)


def _percent(mean: float, spread: float) -> str:
    return f"{100 * mean:.2f}" + (f" ± {100 * spread:.2f}" if math.isfinite(spread) else "")


def _moments(outcomes: Sequence[Outcome]) -> tuple[Outcome, Outcome]:
    """Means and standard deviations over seeds; NaN for the deviation of one seed."""
    table = np.asarray(outcomes, np.float64)
    spread = table.std(0, ddof=1) if len(table) > 1 else np.full(4, np.nan)
    return Outcome(*table.mean(0).tolist()), Outcome(*spread.tolist())
