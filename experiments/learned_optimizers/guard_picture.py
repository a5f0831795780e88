"""The picture and the table of `guard_demo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from einops import repeat
from jaxtyping import Float

from experiments.learned_optimizers._training import final_interval
from experiments.suite.intervals import finite_interval, format_interval
from experiments.suite.tables import read_number, read_numbers
from metalearn.pictures import draw_loss_curves, new_figure, save

__all__ = ["draw", "format_task"]


def draw(
    curves: Mapping[str, Mapping[str, Float[np.ndarray, "S R"]]],
    shares: Mapping[str, Mapping[str, Float[np.ndarray, "S R"]]],
    steps: int,
    per_round: int,
    path: Path,
) -> None:
    """Draw the losses on each task, and the share of choices for the guard over time.

    Args:
        curves: losses after every round, by task and contender.
        shares: shares of choices for the guard in every round, by task and guarded contender.
        steps: steps per run.
        per_round: steps per round.
        path: the PNG file.
    """
    figure, axes = new_figure(columns=len(curves) + 1, width=4.2)
    for ax, (task, rows) in zip(axes, curves.items(), strict=False):
        per_step = {n: repeat(x, "runs rounds -> runs (rounds steps)", steps=per_round) for n, x in rows.items()}
        draw_loss_curves(ax, {n if "," in n else f"reference: {n} alone": x for n, x in per_step.items()})
        ax.set_title(task, fontsize=9)
    for i, (task, rows) in enumerate(shares.items()):
        for (name, share), style in zip(rows.items(), ("-", "--", ":"), strict=False):
            parts = np.array_split(share.mean(0), min(25, share.shape[1]))
            x = steps * (np.arange(len(parts)) + 0.5) / len(parts)
            axes[-1].plot(x, [part.mean() for part in parts], style, color=f"C{i}", label=f"{task}: {name}")
    axes[-1].set(xlabel="training step", ylabel="share of choices for the guard", ylim=(-0.02, 1.02))
    axes[-1].legend(fontsize=6)
    save(figure, path)


def format_task(task: str, rows: Mapping[str, Any], tolerance: float) -> list[str]:
    """The lines of one task: a final loss per contender; for guarded ones also the ratio to the better of the parts."""
    runs = len(next(iter(rows.values()))["final"])
    lines = [
        f"{f'{task}, {runs} runs':<34} {'final loss, geometric mean [95 %]':<42} "
        f"{'over the better part (worst)':<30} {f'within {tolerance:.0%}':>10} {'guard chosen':>13}"
    ]
    for name, row in rows.items():
        line = f"    {name:<30} {format_interval(final_interval(read_numbers(row['final']))):<42}"
        if "ratio" in row:
            mean = finite_interval(read_numbers(row["ratio"]), geometric=True).mean
            ratio = f"{mean:.3f} ({read_number(row['worst'], np.inf):.3f})"
            line += f" {ratio:<30} {row['held']:>10.0%} {row['guard_share']:>13.0%}"
        lines.append(line)
    return lines
