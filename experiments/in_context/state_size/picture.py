"""Table and picture of the experiment on state and parameters, and the names of its comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.in_context.settings import CHANCE
from experiments.suite.tables import format_estimate
from metalearn.pictures import new_figure, save

FAMILIES, CONTROLS = "families", ("window", "key size", "width")

__all__ = ["CONTROLS", "FAMILIES", "draw", "table"]


def table(result: dict[str, Any]) -> str:
    """One row per configuration, then the correlations."""
    lines = [f"{'learner':<34} {'N_S':>8} {'parameters':>10}  accuracy [95 % over seeds]  counts in"]
    for name, p in sorted(result["summary"]["points"].items(), key=lambda item: (item[1]["family"], item[1]["state"])):
        accuracy, groups = format_estimate(p["accuracy"]), ", ".join(p["groups"])
        lines.append(f"{name:<34} {p['state']:>8} {p['parameters']:>10}  {accuracy:<26}  {groups}")
    lines.append(f"\n{'rank correlation over':<22} {'with N_S':>24} {'with parameters':>24} {'difference':>24}")
    for group, found in result["summary"]["correlations"].items():
        lines.append(
            f"{group:<22}"
            + "".join(f" {format_estimate(found[k], '+.2f'):>24}" for k in ("state", "parameters", "difference"))
        )
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Accuracy of the families against N_S and against parameters, and of each control against what it varies."""
    figure, axes = new_figure(columns=3, width=3.7, height=4.0)
    rows, summary = result["rows"], result["summary"]
    looks = {
        "lstm": ("LSTM", "#E69F00", "s"),
        "outer-lstm": ("outer-product LSTM", "#CC79A7", "^"),
        "vsml": ("VSML", "#009E73", "D"),
        "transformer": ("Transformer", "#0072B2", "o"),
    }
    for ax, key, label in zip(axes, ("state", "parameters"), ("size of the state, N_S", "parameters"), strict=False):
        for family, (name, color, marker) in looks.items():
            own = [r for r in rows if r["family"] == family and FAMILIES in r["groups"]]
            xs, ys = [r[key] for r in own], [r["unseen_last"] for r in own]
            ax.scatter(xs, ys, s=26, color=color, marker=marker, alpha=0.7, linewidths=0, label=name)
        others = [r for r in rows if FAMILIES not in r["groups"]]
        xs, ys = [r[key] for r in others], [r["unseen_last"] for r in others]
        ax.scatter(xs, ys, s=16, facecolors="none", edgecolors="0.6", linewidths=0.8, zorder=1, label="controls")
        ax.set_xlabel(label)
        found = summary["correlations"].get(FAMILIES)
        ax.set_title(
            "" if found is None else f"coloured: rank correlation {format_estimate(found[key], '.2f')}", fontsize=9
        )
    colors = dict(zip(CONTROLS, ("#D55E00", "#56B4E9", "black"), strict=True))
    for group, found in summary["effects"].items():
        if found is None:
            continue
        varied = found["varied"]
        own = sorted((r for r in rows if group in r["groups"]), key=lambda r: r[varied])
        folds = np.asarray([r[varied] for r in own]) / own[0][varied]
        values = np.asarray([r["unseen_last"] for r in own])
        style = "--" if varied == "parameters" else "-"
        kept = "equal state" if varied == "parameters" else "equal parameters"
        what = {"window": "state by window", "key size": "state by key size", "width": "parameters by width"}[group]
        axes[2].scatter(folds, values, s=14, color=colors[group], alpha=0.55, linewidths=0)
        middle = [(fold, values[folds == fold].mean()) for fold in np.unique(folds)]
        axes[2].plot(*zip(*middle, strict=True), style, color=colors[group], label=f"{what}, {kept}")
    axes[2].set_xlabel("state, or parameters (dashed), over the smallest")
    axes[2].set_title("controls, Transformers: only one of the two varies", fontsize=9)
    top = max(0.5, 1.08 * max(r["unseen_last"] for r in rows))
    for ax in axes:
        ax.set_xscale("log")
        ax.set_ylim(0, top)
        ax.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=":")
    axes[0].set_ylabel("accuracy on unseen tasks, last 10 positions")
    handles = [h for ax in (axes[0], axes[2]) for h in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)
