"""Lengths of plateaus, of which some are only known to be longer than their run: medians, ratios, a power law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from experiments.suite.experiment import Row
from experiments.suite.intervals import bootstrap

LEVEL = 0.25
"""Accuracy on unseen tasks, over the last 10 positions, above which a run has left chance, which is .1."""


def lengths(rows: Sequence[Row], censored: Literal["infinite", "maximum"] = "infinite") -> list[float]:
    """Steps after which each run left chance; for one that had not, infinity, or the steps it was given."""
    beyond = {"infinite": lambda r: np.inf, "maximum": lambda r: float(r["maximum"])}[censored]
    return [float(r["left"]) if r["left"] is not None else beyond(r) for r in rows]


def median(values: Sequence[float]) -> float:
    """The median; infinite when a run in the middle is, so a few censored runs leave it exact."""
    return float(np.median(values)) if len(values) else float("nan")


def drawn_lengths(groups: Sequence[Sequence[float]], statistic: Callable[..., float]) -> list[float]:
    """A statistic of groups of runs with the ends of `statistics.bootstrap`, which are infinite for a single run."""
    if min(map(len, groups)) < 2:
        return [float(statistic(*groups)), float("-inf"), float("inf")]
    return bootstrap(groups, lambda drawn: statistic(*drawn))


def power_law(by_batch: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """The law length = factor * batch^-exponent, by least squares in logarithms, each run a point.

    Batch sizes with an infinite length are left out as a whole: dropping only their infinite lengths would keep the
    short ones. At least three sizes must remain, or anything would fit; else factor and exponent are None.

    Returns:
        `exponent` [value, low, high], a bootstrap over runs within each size; `factor`; `batches` that were fitted,
        those `left_out`; `off`, the largest factor between a median and the law.
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
        "exponent": drawn_lengths(groups, lambda *drawn: -line(drawn)[0]),
        "factor": float(np.exp(level)),
        "batches": fitted,
        "left_out": left_out,
        "off": float(np.exp(max(off))),
    }


def shown(steps: float | None, maximum: int) -> str:
    """A median as text; "> maximum" where it is only known to be longer."""
    return f"> {maximum:,}" if steps is None or not np.isfinite(steps) else f"{steps:,.0f}"


def interval(values: Sequence[float | None]) -> str:
    """The interval of [value, low, high] as text, nothing where a single run gives none."""
    _, low, high = values
    if low is None or not np.isfinite(low):
        return ""
    return f" [{low:.2f}, {'inf' if high is None or not np.isfinite(high) else f'{high:.2f}'}]"
