"""Table and picture of the comparison on neurons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.suite.intervals import finite_interval, format_interval
from experiments.suite.tables import format_columns, read_number
from metalearn.pictures import new_figure, save

__all__ = ["draw", "mean_curve", "table"]

FLOOR = 1e-9
"""Losses below this count as this: float32 does not tell them apart."""


def mean_curve(losses: Any) -> Float[np.ndarray, " E"]:
    """The geometric mean over seeds of curves [seeds, times]; infinite where a run is not finite."""
    values = np.array([[np.nan if v is None else v for v in row] for row in losses], np.float64)
    means = np.exp(np.log(np.maximum(values, FLOOR)).mean(0))
    return np.where(np.isfinite(values).all(0), means, np.inf)


def table(found: Mapping[str, Any]) -> str:
    """One line per method, the lowest final training loss first."""
    methods = found["methods"]
    names = sorted(methods, key=lambda name: mean_curve(methods[name]["train_loss"])[-1])
    base = methods["SGD"]["milliseconds_per_step"] if "SGD" in methods else None
    columns: dict[str, list[str]] = {
        "final training loss [95 %]": [], "largest": [], "test score": [], "rate, damping": [], "ms": [], "x SGD": []
    }  # fmt: skip
    for name in names:
        row = methods[name]
        final = np.array([np.nan if r[-1] is None else r[-1] for r in row["train_loss"]], np.float64)
        accuracy = [read_number(r[-1]) for r in row["test_accuracy"]]  # that of a run that diverged may be undefined
        ms = row["milliseconds_per_step"]
        point = "{:g}, {:g}".format(*row["point"]) if row["point"][1] else f"{row['point'][0]:g}"
        columns["final training loss [95 %]"].append(
            format_interval(finite_interval(np.maximum(final, FLOOR), geometric=True))
        )
        columns["largest"].append(f"{mean_curve(row['train_loss']).max():.2g}")
        columns["test score"].append(
            "undefined" if np.isnan(accuracy).any() else f"{100 * float(np.mean(accuracy)):.1f}"
        )
        columns["rate, damping"].append(point + (" (edge)" if row["edge"] else ""))
        columns["ms"].append(f"{ms:.2f}")
        columns["x SGD"].append("" if base is None else f"{ms / base:.1f}")
    return format_columns(names, columns)


def draw(found: Mapping[str, Any], title: str, path: Path, score: str = "test accuracy, %") -> Path:
    """Draw the training loss per update and per second, and the score in per cent, one line per method."""
    figure, axes = new_figure(columns=3, width=4.2, height=4.4)
    steps, methods = found["steps"], found["methods"]
    names = sorted(methods, key=lambda name: mean_curve(methods[name]["train_loss"])[-1])
    for number, name in enumerate(names):
        row, color, style = methods[name], f"C{number % 10}", "-" if number < 10 else "--"
        curve = np.minimum(mean_curve(row["train_loss"]), 1e6)
        at = steps * np.arange(1, len(curve) + 1) / len(curve)
        early = row["seconds"] - row["milliseconds_per_step"] * steps / 1e3  # batches that are only measured
        seconds = early + at * row["milliseconds_per_step"] / 1e3
        axes[0].plot(at, curve, style, color=color, label=name)
        axes[1].plot(seconds, curve, style, color=color)
        axes[2].plot(
            at, 100 * np.mean([[read_number(v, 0.0) for v in r] for r in row["test_accuracy"]], 0), style, color=color
        )
    top = max(3.0, min(1e3, max(mean_curve(methods[name]["train_loss"])[0] for name in names)))
    for ax, label in zip(axes[:2], ("update", "seconds of updates, fastest of several turns"), strict=True):
        ax.set(yscale="log", xlabel=label, ylabel="training loss, all examples")
        ax.set_ylim(top=top)
    axes[1].set_xscale("log")
    axes[2].set(xlabel="update", ylabel=score)
    ends = [100 * float(np.mean([read_number(r[-1]) for r in methods[name]["test_accuracy"]])) for name in names]
    low = min((end for end in ends if np.isfinite(end)), default=0.0)
    axes[2].set_ylim(max(0, low - 15), 100.5 if low > 60 else None)
    figure.suptitle(f"{title}: geometric means over seeds, each method at its best rate and damping", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return save(figure, path)
