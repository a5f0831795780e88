"""Table and picture of the experiment on generalisation to data sets that had no part in meta-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.suite.tables import format_estimate
from metalearn.pictures import new_figure, save
from metalearn.recipes.in_context.scoring import LAST

__all__ = ["LOOKS", "NEW", "REFERENCES", "draw", "table"]

NEW = "never met"
"""The name of the mean over all data sets except that of meta-training."""
LOOKS = {
    "transformer": ("Transformer", "#0072B2", "o"),
    "vsml": ("VSML", "#009E73", "D"),
    "outer-lstm": ("outer-product LSTM", "#CC79A7", "^"),
    "lstm": ("LSTM", "#E69F00", "s"),
    "maml": ("MAML", "#D55E00", "v"),
}
"""Label, colour and marker of each meta-trained learner."""
REFERENCES = {
    "online SGD": ("-", "black"), "1-NN": ("--", "black"), "nearest centroid": (":", "black"), "ridge": ("--", "0.55"),
    "logistic": (":", "0.55"), "most frequent": ("-", "0.75"),
}  # fmt: skip
"""Line style and colour of each learner without meta-training."""


def table(result: dict[str, Any]) -> str:
    """One row per learner, one column per data set."""
    summary = result["summary"]
    home, columns = summary["home"], (*summary["sets"], NEW)
    lines = [f"{'accuracy [95 % over seeds]':<27}" + "".join(f" {k + ' *' * (k == home):>19}" for k in columns)]
    for name, found in summary["points"].items():
        label = f"{LOOKS.get(name, (name,))[0]:<27}"
        lines.append(label + "".join(f" {format_estimate(found[k]):>19}" for k in columns))
    lines.append(f"* held-out examples of the data of meta-training, not in the mean over those {NEW}")
    lines += [f"left out: {name}, {why}" for name, why in summary["missing"].items()]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Left: accuracy on each data set, one dot per meta-training, references as lines. Right: mean learning curves."""
    summary, rows = result["summary"], result["rows"]
    sets, home, points = summary["sets"], summary["home"], summary["points"]
    figure, (left, right) = new_figure(columns=2, width=max(4.4, 0.5 * len(sets) + 2.6), height=4.4)
    left.get_gridspec().set_width_ratios([max(3, len(sets)), 3])
    learners = [name for name in LOOKS if name in points]
    for i, name in enumerate(sets):
        for reference, (style, color) in REFERENCES.items():
            if reference in points:
                value = points[reference][name][0]
                left.plot([i - 0.42, i + 0.42], [value, value], style, color=color, linewidth=1.3, zorder=1)
        for j, learner in enumerate(learners):
            own = [r["accuracy"][name] for r in rows if r["learner"] == learner]
            place = i + 0.66 * ((j + 0.5) / len(learners) - 0.5)
            _, color, marker = LOOKS[learner]
            left.scatter([place] * len(own), own, s=20, color=color, marker=marker, alpha=0.7, linewidths=0, zorder=2)
    labels = [name.replace("_", " ") + (" *" if name == home else "") for name in sets]
    left.set_xticks(range(len(sets)), labels, rotation=25, ha="right", rotation_mode="anchor")
    left.grid(visible=False, axis="x")
    left.set_ylabel(f"accuracy, last {LAST} positions")
    left.set_title("one dot per meta-training; * the data of meta-training, held out", fontsize=9)
    new = [name for name in sets if name != home]
    curves: dict[str, list[Any]] = {}
    for r in rows:
        for name, found in {r["learner"]: r, **r.get("references", {})}.items():
            curves.setdefault(name, []).append(np.mean([found["curves"][k] for k in new], 0))
    for name, found in curves.items():
        style, color = ("-", LOOKS[name][1]) if name in LOOKS else REFERENCES[name]
        label = LOOKS[name][0] if name in LOOKS else name
        look = {"linewidth": 1.8, "marker": LOOKS[name][2], "markevery": [-1]} if name in LOOKS else {"linewidth": 1.2}
        right.plot(np.mean(found, 0), style, color=color, label=label, **look)
    right.set_xlabel("examples seen")
    right.set_title("mean over data sets never met in meta-training", fontsize=9)
    for ax in (left, right):
        ax.set_ylim(0, 1.02)
    lines = [*right.get_lines()]
    order = sorted(lines, key=lambda line: [*(v[0] for v in LOOKS.values()), *REFERENCES].index(str(line.get_label())))
    figure.legend(handles=order, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    save(figure, path)
