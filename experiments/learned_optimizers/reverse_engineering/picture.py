"""The picture of a meta-trained optimizer's mechanisms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.learned_optimizers.reverse_engineering.anatomy import Anatomy
from metalearn.pictures import new_figure, save

__all__ = ["draw"]


def draw(anatomy: Anatomy, rate: float, decay: float, path: Path) -> None:
    """Draw modes, update functions, schedule and adaptation.

    Args:
        anatomy: the mechanisms.
        rate: tuned learning rate of gradient descent with momentum, for comparison.
        decay: its tuned momentum.
        path: the PNG file.
    """
    figure, (modes, updates, schedule, adaptation) = new_figure(columns=4, width=3.3, height=3.1)
    _draw_modes(modes, anatomy, decay)
    _draw_updates(updates, anatomy)
    _draw_schedule(schedule, anatomy, rate)
    _draw_adaptation(adaptation, anatomy)
    save(figure, path)


def _draw_modes(ax: Any, anatomy: Anatomy, decay: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(angle), np.sin(angle), color="0.7", linewidth=0.8)
    values, rates = np.asarray(anatomy.modes.eigenvalues), np.abs(anatomy.modes.rates)
    areas = 8 + 150 * rates / rates.max()
    ax.scatter(np.real(values), np.imag(values), areas, alpha=0.6, label="area: learning rate")
    ax.plot([decay], [0], "k+", markersize=10, linestyle="", label="tuned momentum")
    ax.set_aspect("equal")
    ax.set_xlabel("real part of eigenvalue")
    ax.set_ylabel("imaginary part")
    ax.legend(fontsize=7, frameon=False, loc="upper left")
    ax.set_title("convergence point")


def _draw_updates(ax: Any, anatomy: Anatomy) -> None:
    density = ax.twinx()
    largest = float(anatomy.at_rest.gradients[-1])
    density.hist(anatomy.gradients, bins=60, range=(-largest, largest), color="0.85", log=True)
    density.set_yticks([], minor=True)
    density.set_yticks([])
    density.grid(False)
    ax.set_zorder(density.get_zorder() + 1)
    ax.patch.set_visible(False)
    functions = {"initial state": anatomy.at_start, "at rest": anatomy.at_rest, "moving": anatomy.moving}
    for name, function in functions.items():
        ax.plot(function.gradients, function.updates, label=name)
    ax.set_xlabel("gradient")
    ax.set_ylabel("update")
    ax.legend(fontsize=7, frameon=False)
    ax.set_title("update function")


def _draw_schedule(ax: Any, anatomy: Anatomy, rate: float) -> None:
    ax.plot(anatomy.schedule.rates, label="learned")
    ax.axhline(rate, color="0.3", linewidth=0.8, linestyle=":", label="tuned momentum")
    ax.set_xlabel("steps without gradient")
    ax.set_ylabel("learning rate")
    ax.legend(fontsize=7, frameon=False)
    ax.set_title("schedule")


def _draw_adaptation(ax: Any, anatomy: Anatomy) -> None:
    ax.plot(anatomy.adaptation.gradients, anatomy.adaptation.rates, color="C0")
    ax.set_xlabel("constant gradient")
    ax.set_ylabel("learning rate", color="C0")
    points = ax.twinx()
    points.grid(False)
    points.plot(anatomy.adaptation.gradients, anatomy.s_curve, color="C1")
    points.set_ylabel("fixed point, main direction", color="C1")
    ax.set_title("adaptation")
