"""The picture of a sweep: what its runs reached against one of the swept fields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["draw_sweep"]


def draw_sweep(ax: Any, field: str, points: Sequence[tuple[Any, float, str]], measure: str = "value") -> None:
    """Draw the value of each run of a sweep against one of the swept fields, and a line through the means.

    Args:
        ax: matplotlib axes.
        field: name of the field.
        points: for each run its value of the field, the value that it reached, and its state. Runs whose state is not
            "done" are drawn hollow. Runs with the same value of the field are drawn side by side.
        measure: what the values are, such as "accuracy on unseen tasks".
    """
    numbers = [x for x in (_number(p[0]) for p in points) if x is not None]
    texts = list(dict.fromkeys(str(x) for x, _, _ in points))
    numeric = bool(points) and len(numbers) == len(points)
    xs = numbers if numeric else [float(texts.index(str(p[0]))) for p in points]
    logarithmic = numeric and bool(xs) and min(xs) > 0 and max(xs) >= 8 * min(xs)
    side_by_side = _spread(xs, logarithmic)
    done_at = [(x, p[1]) for x, p in zip(xs, points, strict=True) if p[2] == "done"]
    means = {x: float(np.mean([y for at, y in done_at if at == x])) for x in sorted({x for x, _ in done_at})}
    if numeric and 1 < len(means) < len(done_at):
        ax.plot(
            list(means), list(means.values()), color="#0072B2", linewidth=1, alpha=0.5, label="mean of complete runs"
        )
    for done, face in ((True, "#0072B2"), (False, "none")):
        group = [(x, p[1]) for x, p in zip(side_by_side, points, strict=True) if (p[2] == "done") is done]
        if group:
            label = "complete" if done else "stopped early, running or failed"
            ax.scatter(
                *zip(*group, strict=True), s=16, facecolors=face, edgecolors="#0072B2", linewidths=0.8, label=label
            )
    if logarithmic:
        ax.set_xscale("log")
    if numeric and len(texts) <= 6:  # a grid: label its values as they were written
        ax.set_xticks([float(text) for text in texts], texts)
    elif not numeric:
        ax.set_xticks(range(len(texts)), texts)
    ax.set_xlabel(field)
    ax.set_ylabel(measure)
    if points:  # above the axes, where no run is
        ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def _spread(xs: Sequence[float], logarithmic: bool) -> list[float]:
    """The places of points, those that share one moved apart by at most a twentieth of the way to the next place."""
    places = np.log(sorted(set(xs))) if logarithmic else np.array(sorted(set(xs)))
    gap = float(np.diff(places).min()) if len(places) > 1 else 1.0
    moved, met = [], dict[float, int]()
    for x in xs:
        count, met[x] = xs.count(x), met.get(x, 0) + 1
        shift = gap * 0.1 * ((met[x] - 0.5) / count - 0.5) if count > 1 else 0.0
        moved.append(float(x * np.exp(shift)) if logarithmic else x + shift)
    return moved


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
