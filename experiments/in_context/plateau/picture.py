"""Table and picture of the experiment on leaving chance, and the names and colours of its interventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.in_context.plateau.lengths import LEVEL, format_ends, format_steps
from experiments.in_context.settings import CHANCE
from experiments.suite.experiment import Row
from metalearn.pictures import new_figure, save

__all__ = ["CONDITIONS", "draw", "table"]

CONDITIONS = {
    "unbiased": ("unbiased", "black"),
    "biased": ("90 % biased", "#D55E00"),
    "annealed": ("bias annealed away", "#E69F00"),
    "pair": ("pair token", "#0072B2"),
    "curriculum": ("short contexts first", "#009E73"),
    "eps-root-1e-8": ("eps_root 1e-8", "0.6"),
    "eps-1e-6": ("eps 1e-6", "#CC79A7"),
    "eps-1e-4": ("eps 1e-4", "#56B4E9"),
}
"""Label and colour of each intervention. The control, "unbiased", has the paper's token, eps 1e-8 and eps_root 0."""


def table(result: dict[str, Any]) -> str:
    """One row per intervention, then one per batch size."""
    found = result["summary"]
    header = f"{'intervention':<22} {'runs':>4} {'at chance':>9} {'median steps':>12}"
    lines = [header + "   share of unbiased [resampled seeds]"]
    for c, p in found["conditions"].items():
        ratio = p["ratio"]
        share = "" if c == "unbiased" or not ratio or ratio[0] is None else f"{ratio[0]:.2f}{format_ends(ratio)}"
        name, steps = CONDITIONS[c][0], format_steps(p["median"], p["maximum"])
        lines.append(f"{name:<22} {len(p['lengths']):>4} {p['at_chance']:>9} {steps:>12}   {share}")
    if found["ratio_is_bound"]:
        lines.append("shares are upper bounds: the unbiased runs were still at chance when they ended")
    if len(found["batches"]) > 1:
        lines += [
            f"unbiased, {b} tasks: {format_steps(p['median'], p['maximum'])}" for b, p in found["batches"].items()
        ]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw accuracy against steps, then steps to leave chance for each intervention, and against the batch size."""
    found, settings = result["summary"], result["settings"]
    shapes = [r for r in result["rows"] if r["batch"] == settings["batch"]]
    with_batches = len(found["batches"]) > 1
    figure, axes = new_figure(columns=3 if with_batches else 2, width=4.4, height=3.5)
    left, middle = axes[:2]
    for r in shapes:
        left.plot(r["curve_steps"], r["curve"], color=CONDITIONS[r["condition"]][1], linewidth=0.9, alpha=0.8)
    left.axhline(LEVEL, color="0.4", linewidth=0.8, linestyle="--")
    left.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=":")
    left.set_xscale("log")
    _plain_steps(left.xaxis)
    left.set_ylim(0, None)
    left.set_xlabel("outer step")
    left.set_ylabel("accuracy on unseen, unbiased tasks")
    left.set_title(
        "one line per run, colours as in the next panel;\ndotted: chance, dashed: chance is left", fontsize=9
    )
    present = [c for c in CONDITIONS if c in found["conditions"]]
    for place, c in enumerate(present):
        group, point = [r for r in shapes if r["condition"] == c], found["conditions"][c]
        for i, r in enumerate(group):
            _dot(middle, r["value"], place + 0.3 * (i - (len(group) - 1) / 2) / max(len(group) - 1, 1), r, c)
        if point["median"] is not None:
            middle.plot([point["median"]] * 2, [place - 0.3, place + 0.3], color=CONDITIONS[c][1], linewidth=1.5)
    middle.set_yticks(range(len(present)), [CONDITIONS[c][0] for c in present])
    middle.set_ylim(len(present) - 0.5, -0.5)
    middle.set_xscale("log")
    _plain_steps(middle.xaxis)
    middle.set_xlabel("outer steps until chance is left")
    middle.set_title("one dot per run, bar: median;\nopen: still at chance at its last step", fontsize=9)
    if with_batches:
        _draw_batches(axes[2], result)
    save(figure, path)


def _draw_batches(ax: Any, result: dict[str, Any]) -> None:
    for r in result["rows"]:
        if r["condition"] == "unbiased":
            _dot(ax, r["batch"], r["value"], r, "unbiased")
    law = result["summary"]["power_law"]
    if law and law["exponent"] is not None:
        ends = np.asarray([min(law["batches"]), max(law["batches"])])
        label = f"batch$^{{-{law['exponent'][0]:.2f}}}${format_ends(law['exponent'])}"
        ax.plot(ends, law["factor"] * ends ** -law["exponent"][0], color="#D55E00", linewidth=1.2, label=label)
        ax.legend(loc="upper right")
    batches = [int(b) for b in result["summary"]["batches"]]
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    _plain_steps(ax.yaxis)
    ax.set_xticks(batches, [str(b) for b in batches])
    ax.set_xlabel("tasks per outer step")
    ax.set_ylabel("outer steps until chance is left")
    ax.set_title("unbiased tasks;\nline: power law fitted to batches without open dots", fontsize=9)


def _plain_steps(axis: Any) -> None:
    """Set ticks at 1, 2, 5, 10, ..., written out: within a decade there are too few powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _dot(ax: Any, x: float, y: float, row: Row, condition: str) -> None:
    color = CONDITIONS[condition][1]
    face = color if row["left"] is not None else "white"
    ax.plot(x, y, "o", markersize=5, color=color, markerfacecolor=face, markeredgewidth=1, alpha=0.85)
