"""Table and picture of the experiment on what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from experiments.in_context.mechanism.agreement import CLASSICAL, TWO_KERNELS
from experiments.suite.tables import format_estimate, read_number
from metalearn.pictures import new_figure, save

MEASURES = ("errors", "consistency", "kappa", "agreement")
"""Measures of agreement, see `agreement.compare_predictions`."""

__all__ = ["MEASURES", "draw", "table"]


def table(result: dict[str, Any]) -> str:
    """Agreement with each classical learner, then the attention for each number of tasks."""
    found = result["summary"]
    lines = [f"{'after many tasks':<18} {'accuracy':>8} " + " ".join(f"{m:>21}" for m in MEASURES)]
    for name, values in found["likeness"].items():
        lines.append(
            f"{name:<18} {values['accuracy'][0]:>8.3f} "
            + " ".join(f"{format_estimate(values[m]):>21}" for m in MEASURES)
        )
    keys = ("unseen_accuracy", "same_class", "correlation", "errors")
    titles = ("accuracy, unseen", "weight on same class", "rank correlation", f"errors, {found['nearest']}")
    lines += ["", f"{'tasks':<6} {'seeds':>5} " + " ".join(f"{t:>24}" for t in titles)]
    for e, point in found["points"].items():
        n = sum(str(r["exponent"]) == str(e) for r in result["rows"])
        lines.append(f"{'2^' + str(e):<6} {n:>5} " + " ".join(f"{format_estimate(point[k]):>24}" for k in keys))
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Left: agreement with classical learners. Middle: attention against tasks. Right: weight against similarity."""
    figure, (left, middle, right) = new_figure(columns=3, width=4.4, height=3.9)
    rows, found = result["rows"], result["summary"]
    top = max(r["exponent"] for r in rows)
    many = [r for r in rows if r["exponent"] == top]
    names = sorted([*CLASSICAL, TWO_KERNELS], key=lambda n: read_number(found["likeness"][n]["errors"][0]))
    for measure, color, shift in (("kappa", "#56B4E9", 0.16), ("errors", "#D55E00", -0.16)):
        label = {"kappa": "on all classes (kappa)", "errors": "where both are wrong"}[measure]
        for y, name in enumerate(names):
            dots = [read_number(r["classical"][name][measure]) for r in many]
            left.scatter(dots, np.full(len(dots), y + shift), s=14, color=color, alpha=0.6, linewidths=0)
            mean = read_number(found["likeness"][name][measure][0])
            left.plot([mean, mean], [y + shift - 0.15, y + shift + 0.15], color=color, linewidth=2)
        left.scatter([], [], s=14, color=color, label=label)
    ceiling = read_number(found["between_seeds"][0])
    if np.isfinite(ceiling):
        left.axvline(
            ceiling, color="#D55E00", linewidth=1, linestyle=":", label="where both are wrong, of two Transformers"
        )
    left.set_yticks(range(len(names)), names)
    left.set_xlabel("agreement with the Transformer, corrected for chance")
    left.legend(
        loc="lower center",
        bbox_to_anchor=(0.4, 1.0),
        title=f"$2^{{{top}}}$ tasks; one dot per seed",
        fontsize=7,
        title_fontsize=8,
    )
    lines = (
        ("rank correlation of weight and similarity", "correlation", "#0072B2", -0.1),
        ("share of weight on the query's class", "same_class", "#009E73", 0.1),
    )
    ticks = {e: i for i, e in enumerate(sorted({r["exponent"] for r in rows}))}
    for label, key, color, shift in lines:
        xs, ys = [ticks[r["exponent"]] + shift for r in rows], [read_number(r["matching"][key]) for r in rows]
        middle.scatter(xs, ys, s=12, color=color, alpha=0.55, linewidths=0)
        middle.plot(
            ticks.values(),
            [read_number(found["points"][_key(found, e)][key][0]) for e in ticks],
            color=color,
            label=label,
        )
    accuracy = [read_number(found["points"][_key(found, e)]["unseen_accuracy"][0]) for e in ticks]
    middle.plot(ticks.values(), accuracy, color="0.5", linestyle="--", label="accuracy on unseen tasks")
    middle.axhline(
        many[0]["matching"]["chance"], color="0.5", linewidth=0.8, linestyle=":", label="class share, chance"
    )
    middle.set_xticks(range(len(ticks)), [f"$2^{{{e}}}$" for e in ticks])
    middle.set_ylim(min(0.0, middle.get_ylim()[0]), 1)
    middle.set_xlabel("meta-training tasks")
    middle.set_ylabel("of the most matching head; accuracy")
    middle.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7)
    shown = next((r for r in many if r.get("example")), None)
    if shown:
        x, y, same = (np.asarray(shown["example"][k]) for k in ("similarity", "log_weight", "same_class"))
        for value, color, label in (
            (0, "0.6", "example of another class"),
            (1, "#D55E00", "example of the query's class"),
        ):
            right.scatter(x[same == value], y[same == value], s=12, color=color, alpha=0.8, linewidths=0, label=label)
        temperature, ends = read_number(shown["matching"]["temperature"]), np.asarray([x.min(), x.max()])
        if np.isfinite(temperature):
            right.plot(
                ends, ends / temperature, color="#0072B2", linewidth=1.2, label=f"kernel of temperature {temperature:g}"
            )
        right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=7)
        right.set_xlabel(f"similarity to the query ({shown['matching']['kind']}), minus its mean")
        right.set_ylabel("log attention weight, minus its mean")
    save(figure, path)


def _key(found: dict[str, Any], exponent: int) -> Any:
    return exponent if exponent in found["points"] else str(exponent)
