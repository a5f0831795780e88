"""Table and picture of the experiment on batch sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.suite.intervals import SeedInterval, finite_interval, format_interval
from experiments.suite.tables import format_columns
from metalearn.pictures import new_figure, save

__all__ = ["draw", "format_table"]


def _last(row: Mapping[str, Any], key: str) -> Float[np.ndarray, " S"]:
    return np.array([np.nan if v[-1] is None else v[-1] for v in row[key]], np.float64)


def _loss(row: Mapping[str, Any]) -> SeedInterval:
    return finite_interval(np.maximum(_last(row, "train_loss"), 1e-9), geometric=True)


def _accuracy(row: Mapping[str, Any]) -> SeedInterval:
    return finite_interval(100 * _last(row, "test_accuracy"))


def format_table(rows: list[dict[str, Any]]) -> str:
    """One line per batch, budget and method."""
    columns: dict[str, list[str]] = {"steps": [], "rate": [], "training loss [95 %]": [], "test accuracy [95 %]": []}
    for row in rows:
        columns["steps"].append(str(row["steps"]))
        columns["rate"].append(f"{row['rate']:.3g}" + (" (edge)" if row["edge"] else ""))
        columns["training loss [95 %]"].append(format_interval(_loss(row)))
        columns["test accuracy [95 %]"].append(format_interval(_accuracy(row)))
    names = [f"{row['batch']:>5}, equal {row['budget']:<6} {row['method']}" for row in rows]
    return format_columns(names, columns, " batch")


def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Training loss and test accuracy against the batch, at equal epochs and at equal steps."""
    figure, axes = new_figure(columns=4, width=3.6, height=4.2)
    methods = list(dict.fromkeys(row["method"] for row in result["rows"]))
    for number, budget in enumerate(("epochs", "steps")):
        loss, accuracy = axes[2 * number : 2 * number + 2]
        for i, method in enumerate(methods):
            smallest = result["batches"][0]
            own = [r for r in result["rows"]
                   if r["method"] == method and (r["budget"] == budget or r["batch"] == smallest)]  # fmt: skip
            if len(own) < 2:
                continue
            style: dict[str, Any] = {"color": f"C{i}", "linestyle": "--" if "," in method else "-", "linewidth": 1.4}
            shift = 1.05 ** (i - len(methods) / 2)
            for ax, measure in ((loss, _loss), (accuracy, _accuracy)):
                found = [measure(row) for row in own]
                means = np.array([float(f.mean) for f in found])
                ends = [means - [float(f.low) for f in found], [float(f.high) for f in found] - means]
                at = [row["batch"] * shift for row in own]
                ax.errorbar(at, means, np.maximum(ends, 0), label=method, marker="o", markersize=3, **style)
        for ax, text in ((loss, "training loss"), (accuracy, "test accuracy, %")):
            ax.set_xscale("log")
            ax.set_xticks(result["batches"], [str(batch) for batch in result["batches"]])
            ax.minorticks_off()
            ax.set_xlabel("batch")
            ax.set_ylabel(text)
            ax.set_title(f"equal {budget}" + ("; lower ones lie below" if ax is accuracy else ""), fontsize=9)
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize=7)
        loss.set_yscale("log")
        best = max(float(_accuracy(row).mean) for row in result["rows"])
        accuracy.set_ylim(best - 6, best + 1)  # a run that diverged would hide all others
    save(figure, path)
    return path
