"""The picture of `estimator_variance`: measured moments as dots on the lines of the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalearn.pictures import new_figure, save

__all__ = ["Formulas", "Moments", "draw"]

Moments = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Measured moments beside exact ones, by estimator and number of windows."""
Formulas = Mapping[int, Mapping[str, Mapping[str, float]]]
"""Exact moments by number of windows and estimator."""


def draw(moments: Moments, formulas: Formulas, path: Path) -> None:
    """Draw variances on the left, and the distance of the mean from the gradient on the right."""
    figure, (left, right) = new_figure(columns=2, width=4.6)
    _draw_variance(left, moments, formulas)
    _draw_error(right, moments, formulas)
    save(figure, path)


def _draw_variance(ax: Any, moments: Moments, formulas: Formulas) -> None:
    """Variances, with the intervals of the measured ones."""
    _draw_lines(ax, moments, formulas, "exact_variance")
    for number, dots in enumerate(moments.values()):
        for windows, dot in dots.items():
            ends = [[dot["mean"] - dot["low"]], [dot["high"] - dot["mean"]]]
            size = _marker_size(number)
            ax.errorbar(windows, dot["mean"], ends, fmt="o", color=f"C{number}", markersize=size, capsize=2)
    ax.set_ylim(0.05, None)
    ax.set_ylabel("variance / squared gradient")


def _draw_error(ax: Any, moments: Moments, formulas: Formulas) -> None:
    """Distances of means from the gradient; those of unbiased estimators are due to chance alone."""
    _draw_lines(ax, moments, formulas, "exact_error")
    for number, (name, dots) in enumerate(moments.items()):
        errors = [dot["error"] for dot in dots.values()]
        ax.plot(list(dots), errors, "o", color=f"C{number}", markersize=_marker_size(number), label=name)
    chance = max(dot["chance"] for dots in moments.values() for dot in dots.values())
    ax.axhspan(0, 2 * chance, color="0.5", alpha=0.15, linewidth=0, label="no more than chance")
    ax.set_ylim(chance / 30, 2)
    ax.set_ylabel("distance of the mean / gradient")
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="center left", bbox_to_anchor=(0.0, 0.6))


def _draw_lines(ax: Any, moments: Moments, formulas: Formulas, quantity: str) -> None:
    """One quantity of the formulas against the number of windows, a line per measured estimator."""
    for number, name in enumerate(moments):
        points = [(w, by_name[name][quantity]) for w, by_name in formulas.items() if by_name[name][quantity] > 1e-12]
        if points and name != "full ES":
            ax.plot(*zip(*points, strict=True), color=f"C{number}", linewidth=1.2)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(list(formulas), [str(w) for w in formulas])
    ax.set_xlabel("windows of a trajectory")


def _marker_size(number: int) -> float:
    return 7.5 - 0.6 * number  # later dots are smaller, so that dots on top of each other are all visible
