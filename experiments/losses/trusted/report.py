"""What is shown and kept of `trusted_losses`: its verdict, tables, picture, and the chosen loss with its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.losses._comparison import draw_errors
from experiments.losses.trusted.comparison import as_candidate, log_ratios
from experiments.losses.trusted.contest import STRATEGIES
from experiments.losses.trusted.data import NOISES
from experiments.suite.tables import format_columns, read_numbers
from metalearn.intervals import mean_interval
from metalearn.pictures import new_figure, save
from metalearn_models.losses.symbolic_loss import MOST_CLASSES

__all__ = ["BASELINES", "draw", "format_tables", "judge", "judge_contest", "save_loss"]

BASELINES = ("gce", "probability-mae", "label-smoothing", "bootstrapping")
"""What else a user could take."""
HALF_A_POINT = 0.005


def judge_contest(scores: Mapping[str, float], found: list[dict[str, str]]) -> dict[str, Any]:
    """The held-out scores of each way to search, the intervals of their differences from random search, the verdict."""
    by_strategy = {name: [scores[row[name]] for row in found] for name in STRATEGIES}
    judged: dict[str, Any] = {"scores": by_strategy, "minus random": {}}
    for name in STRATEGIES:
        apart = np.subtract(by_strategy[name], by_strategy["random"])
        judged["minus random"][name] = [float(x) for x in mean_interval(apart)]
    _, low, high = judged["minus random"]["model"]
    return judged | {"verdict": "holds" if high < 0 else "behind" if low > 0 else "open"}


def judge(results: Mapping[str, Any], many: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict by the rule at the head of this file, but for the searches, with the numbers it rests on."""
    verdict: dict[str, Any] = {"over others": {}}
    words = []
    for noise in NOISES:
        part = {name: row for name, row in results.items() if name.endswith(f", {noise}")}
        over = {name: [float(x) for x in mean_interval(log_ratios(part, "found", name))] for name in BASELINES}
        verdict["over others"][noise] = over
        if noise != "clean":
            words += ["short" if mean > 0 else "holds" if high <= 0 else "open" for mean, _, high in over.values()]
    verdict["noise"] = next(word for word in ("short", "open", "holds") if word in words)
    verdict["points over label smoothing, clean"] = _points(results)
    verdict["clean"] = _within_half_a_point(_points(results))
    if many:
        verdict["points over label smoothing, many classes"] = _points(many)
        verdict["many classes"] = _within_half_a_point(_points(many))
    return verdict


def _points(results: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: 100 * float(np.mean(row["found"]["each"]) - np.mean(row["label-smoothing"]["each"]))
        for name, row in results.items()
        if name.endswith(", clean")
    }


def _within_half_a_point(points: Mapping[str, float]) -> str:
    return "holds" if max(points.values()) <= 100 * HALF_A_POINT else "short"


def save_loss(path: Path, result: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the chosen loss as it can be shipped: with where it comes from, and its errors.

    Args:
        path: of the file.
        result: of the experiment.
        facts: how it was found and compared; they go into its provenance.
    """
    rows = {**result["results"], **result["many"]}
    provenance = {
        "kind": "searched",
        "range": f"2 to {MOST_CLASSES:,} classes: its weights have the same sum with any number of them; compared with "
        "2 to 100 and with 1,000; with more than 1,000 there is a warning",
        "command": "python -m experiments trusted_losses",
        **facts,
        "validation_error": result["choice"]["validation"][result["choice"]["chosen"]],
        "scores": {
            name: {
                "this" if label == "found" else label: float(f"{np.mean(one['each']):.3g}")
                for label, one in row.items()
                if label != "label-noise"
            }
            for name, row in rows.items()
        },
    }
    loss = dataclasses.replace(as_candidate(result["choice"]["chosen"]), provenance=provenance)
    loss.save(path)


def format_tables(result: Mapping[str, Any]) -> str:
    """The tables of errors in per cent, the contest of the searches, and the verdict."""
    rows = {**result["results"], **result["many"]}
    labels = list(next(iter(rows.values())))
    columns = {label: [f"{100 * np.mean(row[label]['each']):.1f}" for row in rows.values()] for label in labels}
    contest, verdict = result["contest"], result["verdict"]
    lines = [f"found: {result['choice']['chosen']}", "", format_columns(list(rows), columns, "test error, %"), ""]
    for name in STRATEGIES:
        mean, low, high = read_numbers(contest["minus random"][name])
        lines.append(
            f"{name:12s} log error over cross-entropy's, per seed: "
            + " ".join(f"{x:+.3f}" for x in contest["scores"][name])
            + f"   minus random: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    lines.append("")
    for noise, over in verdict["over others"].items():
        ends = {name: read_numbers(row) for name, row in over.items()}
        shown = ", ".join(f"{name} {mean:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (mean, low, high) in ends.items())
        lines.append(f"{noise}: log error of the found loss over that of {shown}")
    lines.append(
        "verdict: "
        + ", ".join(f"{k}: {verdict[k]}" for k in ("search", "noise", "clean", "many classes") if k in verdict)
    )
    return "\n".join([*lines, f"picture: {result['picture']} ({result['seconds']} s)"])


def draw(path: Path, result: Mapping[str, Any]) -> None:
    """Draw the held-out scores of the searches, and the error of each loss over cross-entropy's per data set."""
    figure, axes = new_figure(columns=4, width=3.6)
    searches = {name: [float(np.exp(x)) for x in row] for name, row in result["contest"]["scores"].items()}
    draw_errors(axes[0], searches, "held-out test error over cross-entropy's", log=True)
    axes[0].axhline(1, color="0.5", linewidth=1)
    axes[0].set_title("searches of equal budget", fontsize=9)
    for ax, noise in zip(axes[1:], NOISES, strict=True):
        part = {name: row for name, row in result["results"].items() if name.endswith(f", {noise}")}
        points = {
            label: [float(np.exp(x)) for x in log_ratios(part, label, "cross-entropy")]
            for label in ("found", *BASELINES, "label-noise")
        }
        draw_errors(ax, points, "test error over cross-entropy's", log=True)
        ax.axhline(1, color="0.5", linewidth=1)
        ax.set_title(noise if noise == "clean" else f"{noise} noise", fontsize=9)
    save(figure, path)
