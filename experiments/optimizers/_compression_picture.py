"""Table and picture of the experiment on compression."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.suite.intervals import finite_interval, format_interval, list_interval
from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save

__all__ = ["draw", "format_table"]


def _curves(row: Mapping[str, Any], key: str) -> Float[np.ndarray, "S E"]:
    return np.array([[np.nan if v is None else v for v in curve] for curve in row[key]], np.float64)


def _difference(row: Mapping[str, Any], base: Mapping[str, Any]) -> list[float]:
    """Test accuracy at the end minus that of the baseline, in points: [mean, low, high]."""
    return list_interval(100 * (_curves(row, "test_accuracy")[:, -1] - _curves(base, "test_accuracy")[:, -1]))


def format_table(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """One line per method, in the order of their bytes."""
    base = methods["all-reduce"]
    names = sorted(methods, key=lambda name: -methods[name]["bytes"])
    columns: dict[str, list[str]] = {
        "bytes/step": [], "saved": [], "training loss [95 %]": [], "accuracy": [], "points to all-reduce": [],
        "rate": [],
    }  # fmt: skip
    for name in names:
        row = methods[name]
        columns["bytes/step"].append(f"{row['bytes']:,.0f}")
        columns["saved"].append(f"{base['bytes'] / row['bytes']:.1f}x")
        final = finite_interval(np.maximum(_curves(row, "train_loss")[:, -1], 1e-9), geometric=True)
        columns["training loss [95 %]"].append(format_interval(final))
        columns["accuracy"].append(f"{100 * _curves(row, 'test_accuracy')[:, -1].mean():.1f}")
        columns["points to all-reduce"].append("" if row is base else format_estimate(_difference(row, base), "+.1f"))
        columns["rate"].append(f"{row['rate']:g}" + (" (edge)" if row["edge"] else ""))
    return format_columns(names, columns)


def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Per setting: training loss against bytes sent, and the change of accuracy of each method."""
    settings = result["settings"]
    figure, axes = new_figure(columns=2 * len(settings), width=4.4, height=4.6)
    for number, (setting, methods) in enumerate(settings.items()):
        left, right = axes[2 * number : 2 * number + 2]
        base, names = methods["all-reduce"], sorted(methods, key=lambda name: methods[name]["bytes"])
        for i, (name, row) in enumerate(methods.items()):
            color = f"C{i % 10}"
            losses = np.exp(np.log(np.maximum(_curves(row, "train_loss"), 1e-9)).mean(0))
            at = np.linspace(0, result["steps"], len(losses) + 1)[1:] * row["bytes"]
            style = ":" if "no feedback" in name else "-" if i < 10 else "--"
            left.loglog(at, losses, label=name, linewidth=1.4, color=color, linestyle=style)
            value, low, high = _difference(row, base)
            right.errorbar(
                value, names.index(name), xerr=[[value - low], [high - value]], marker="o", markersize=4, color=color,
                mfc="white" if "no feedback" in name else color,
            )  # fmt: skip
        left.set_xlabel("bytes sent per device")
        left.set_ylabel("training loss")
        left.set_title(f"{setting}: mean over seeds", fontsize=9)
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=7)
        labels = [f"{name}, {base['bytes'] / methods[name]['bytes']:.1f}x fewer bytes" for name in names]
        right.set_yticks(range(len(names)), labels, fontsize=7)
        right.set_xscale("symlog", linthresh=2)
        ticks = [-10, -5, -2, -1, 0, 1]
        right.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
        right.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
        right.set_xlabel("test accuracy, points to all-reduce")
        right.set_title(f"{setting}: 95 %; hollow: no feedback", fontsize=9)
    save(figure, path)
    return path
