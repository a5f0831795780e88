"""Table and picture of the experiment on the three phases, and the names of the phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.in_context.settings import CHANCE
from metalearn.pictures import new_figure, save

__all__ = ["LETTERS", "PHASES", "draw", "table"]

PHASES = ("nothing learned", "task memorisation", "task identification", "learning to learn")
"""The paper's words in its second version, and one more for models that are too small or runs that are too short."""
LETTERS: dict[str, str] = dict(zip(PHASES, "-MIL", strict=True))


def table(result: dict[str, Any]) -> str:
    """Accuracy on seen / unseen tasks: one row per width, one column per number of tasks."""
    lines = []
    for learner, found in result["summary"]["maps"].items():
        lines.append(f"{learner}: accuracy over the last positions on seen / unseen tasks")
        lines.append(f"{'width':>7}" + "".join(f"{f'2^{e}':>10}" for e in found["exponents"]))
        for i, width in enumerate(found["widths"]):
            pairs = zip(found["seen_last"][i], found["unseen_last"][i], strict=True)
            cells = ["" if a is None else f"{a:.2f}/{b:.2f}" for a, b in pairs]
            lines.append(f"{width:>7}" + "".join(f"{c:>10}" for c in cells))
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw maps of both learners, on seen tasks with phases and memory, on unseen with transitions; and the runs."""
    maps, transitions = result["summary"]["maps"], result["summary"]["transitions"]
    names = {"transformer": "Transformer", "mlp": "MLP without context"}
    panels = [(name, kind) for name in names if name in maps for kind in ("seen_last", "unseen_last")]
    figure, axes = new_figure(columns=len(panels) + 1, width=2.75, height=4.0)
    *axes, last = axes
    mappable = None
    for ax, (learner, kind) in zip(axes, panels, strict=True):
        found = maps[learner]
        values = np.asarray([[np.nan if v is None else v for v in row] for row in found[kind]], np.float64)
        mappable = ax.imshow(values.T, origin="lower", vmin=CHANCE, vmax=1.0, aspect="auto", cmap="cividis")
        ax.grid(False)
        if kind == "seen_last":
            _draw_places(ax, found, result["summary"]["memory"][learner], "white", "black")
        elif learner == "transformer":
            _draw_places(ax, found, transitions, "#D55E00", "white")
        for i, j in np.ndindex(values.shape if kind == "seen_last" else (0, 0)):
            letter, color = LETTERS.get(found["phase"][i][j], ""), "white" if values[i, j] < 0.5 else "black"
            ax.text(i + 0.44, j + 0.4, letter, ha="right", va="top", fontsize=7, color=color)  # beside the lines
        ax.set_xticks(range(len(found["widths"])), [str(w) for w in found["widths"]])
        ax.set_yticks(range(len(found["exponents"])), [f"$2^{{{e}}}$" for e in found["exponents"]])
        ax.set_xlabel("width")
        ax.set_title(f"{names[learner]}\n{kind.split('_')[0]} tasks", fontsize=9)
    axes[0].set_ylabel("meta-training tasks")
    figure.colorbar(mappable, ax=axes, label="accuracy, last 10 positions", pad=0.01)
    _draw_runs(last, result["rows"])
    key = ", ".join(f"{letter} {name}" for name, letter in LETTERS.items())
    lines = "White line: half is right on seen tasks. Orange: half of what is learned holds on unseen tasks"
    figure.supxlabel(f"{key}.\n{lines} (bars: resampled seeds).", fontsize=8)
    save(figure, path)


def _draw_runs(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the accuracy of each Transformer on unseen tasks, with one colour and one line of means per width."""
    from matplotlib import colormaps

    own = [r for r in rows if r["learner"] == "transformer"]
    widths, exponents = (sorted({r[key] for r in own}) for key in ("width", "exponent"))
    for i, width in enumerate(widths):
        color, shift = colormaps["viridis"](i / max(len(widths), 1)), 0.3 * ((i + 0.5) / len(widths) - 0.5)
        chosen = [(exponents.index(r["exponent"]), r["unseen_last"]) for r in own if r["width"] == width]
        x, y = np.asarray(chosen).T
        ax.scatter(x + shift, y, s=12, color=color, alpha=0.7, linewidths=0)
        places = np.unique(x)
        ax.plot(places + shift, [y[x == place].mean() for place in places], color=color, label=f"width {width}")
    ax.axhline(CHANCE, color="0.5", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(exponents)), [f"$2^{{{e}}}$" for e in exponents], fontsize=8)
    ax.set_xlabel("meta-training tasks")
    ax.set_ylim(0, 1)
    ax.set_title("Transformer, unseen tasks\none dot per run", fontsize=9)
    if widths:
        ax.legend(fontsize=7, loc="upper left")


def _draw_places(ax: Any, found: dict[str, Any], places: dict[str, Any], color: str, edge: str) -> None:
    """Draw a line through the numbers of tasks of each width, with their intervals."""
    ends = (-0.5, len(found["exponents"]) - 0.5)  # an open interval reaches the edge
    points = []
    for i, width in enumerate(found["widths"]):
        place, *interval = places[str(width)]
        if place is not None:
            interval = [place, place] if interval == [None, None] else interval  # a single seed
            known = [e if v is None else v for v, e in zip(interval, (-np.inf, np.inf), strict=True)]
            rows = np.interp([place, *known], found["exponents"], range(len(found["exponents"])))
            low, high = (e if v is None else y for v, y, e in zip(interval, rows[1:], ends, strict=True))
            points.append((i, rows[0], low, high))
    if points:
        x, y, low, high = np.asarray(points).T
        for shade, wider in ((edge, 1.6), (color, 0)):  # visible on dark and on light
            ax.errorbar(
                x, y, [y - low, high - y], color=shade, linewidth=1.6 + wider, capsize=3, capthick=1.6 + wider,
                marker="o", markersize=3 + wider,
            )  # fmt: skip
        ax.set_ylim(*ends)
