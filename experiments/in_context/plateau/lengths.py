"""Lengths of plateaus, some only known to be longer than their run: medians, ratios, and a power law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments.suite.experiment import Row
from experiments.suite.intervals import bootstrap

__all__ = ["LEVEL", "format_ends", "format_steps", "lengths", "median", "power_law", "resample_lengths"]

LEVEL = 0.25
"""Accuracy on unseen tasks, over the last 10 positions, above which a run has left chance. Chance is 0.1."""


def lengths(rows: Sequence[Row], censored: Literal["infinite", "maximum"] = "infinite") -> list[float]:
    """The step at which each run left chance; for a run that did not, infinity or its number of steps, as asked."""
    beyond = {"infinite": lambda r: np.inf, "maximum": lambda r: float(r["maximum"])}[censored]
    return [float(r["left"]) if r["left"] is not None else beyond(r) for r in rows]


def median(values: Sequence[float]) -> float:
    """The median: exact with a few infinite lengths, and infinite if one is in the middle."""
    return float(np.median(values)) if len(values) else float("nan")


def resample_lengths(groups: Sequence[Sequence[float]], statistic: Callable[..., float]) -> list[float]:
    """A statistic of groups of lengths with the ends of `bootstrap`, which are infinite if a group has a single run."""
    if min(map(len, groups)) < 2:
        return [float(statistic(*groups)), float("-inf"), float("inf")]
    return bootstrap(groups, lambda drawn: statistic(*drawn))


def power_law(by_batch: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """The law length = factor * batch^-exponent, by least squares in logarithms, with one point per run.

    Batch sizes with an infinite length are left out as a whole: without only their infinite lengths, the short ones
    would bias the fit.

    Returns:
        `exponent` [value, low, high], with a bootstrap over runs within each size; `factor`; the `batches` that were
        fitted and those `left_out`; `off`, the largest factor between a median and the law. `exponent`, `factor` and
        `off` are None with fewer than three fitted sizes, since a line through two points always fits.
    """
    fitted = sorted(b for b, values in by_batch.items() if np.isfinite(values).all())
    left_out = sorted(b for b in by_batch if b not in fitted)
    if len(fitted) < 3:
        return {"exponent": None, "factor": None, "batches": fitted, "left_out": left_out, "off": None}

    def line(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
        x = np.log(np.repeat(fitted, [len(g) for g in groups]))
        slope, level = np.polyfit(x, np.log(np.concatenate([np.asarray(g, np.float64) for g in groups])), 1)
        return float(slope), float(level)

    groups = [by_batch[b] for b in fitted]
    slope, level = line(groups)
    off = [abs(np.log(median(g)) - level - slope * np.log(b)) for b, g in zip(fitted, groups, strict=True)]
    return {
        "exponent": resample_lengths(groups, lambda *drawn: -line(drawn)[0]),
        "factor": float(np.exp(level)),
        "batches": fitted,
        "left_out": left_out,
        "off": float(np.exp(max(off))),
    }


def format_steps(steps: float | None, maximum: int) -> str:
    """A median as text; "> maximum" if it is only known to be longer."""
    return f"> {maximum:,}" if steps is None or not np.isfinite(steps) else f"{steps:,.0f}"


def format_ends(values: Sequence[float | None]) -> str:
    """The ends of [value, low, high] as text, ` [0.50, 2.00]`; empty if they are unknown, as with a single run."""
    _, low, high = values
    if low is None or not np.isfinite(low):
        return ""
    return f" [{low:.2f}, {'inf' if high is None or not np.isfinite(high) else f'{high:.2f}'}]"
