"""The table, the picture and the verdict of searches that were replayed from tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save


def verdict(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All claims of all problems, and what follows of them."""
    claims = [
        {**claim, "claim": f"{name}: {claim['claim']}"} for name, part in parts.items() for claim in part["claims"]
    ]
    wrong = [c["claim"] for c in claims if c["state"] == "fails"]
    unclear = [c["claim"] for c in claims if c["state"] == "open"]
    return {
        "claims": claims,
        "verdict": "not reproduced" if wrong else "open" if unclear or not claims else "reproduced",
        "words": "; ".join(wrong or unclear),
    }


def format_parts(result: Mapping[str, Any]) -> str:
    """The tables, the claims and the verdict."""
    lines = []
    for grid, part in result["parts"].items():
        budgets = list(dict.fromkeys(row["budget"] for row in part["rows"]))
        names = list(dict.fromkeys(row["method"] for row in part["rows"]))
        cells = {(row["method"], row["budget"]): row for row in part["rows"]}
        columns = {f"{b} R": [format_estimate(cells[n, b]["regret"], ".4f") for n in names] for b in budgets}
        last = budgets[len(budgets) // 2]
        columns["above least"] = [f"{cells[n, last]['above_least']:.4f}" for n in names]
        columns["search sd"] = [f"{cells[n, last]['search']:.4f}" for n in names]
        columns["evaluation sd"] = [f"{cells[n, last]['evaluation']:.4f}" for n in names]
        ranks = ", ".join(f"{step}: {np.mean(values):.2f}" for step, values in part["correlation"].items())
        best = ", ".join(f"{step}: {np.mean(values):.2f}" for step, values in part["among_best"].items())
        lines += [
            f"{grid}: {part['candidates']} candidates, the best has test error {part['best']:.4f} (the least is "
            f"{part['least']:.4f}), standard error {part['standard_error']:.4f}",
            f"Spearman of each rung with the end: {ranks}; between two seeds at the end: {part['between_seeds']:.2f}",
            f"among the best quarter at the end: {best}",
            format_columns(names, columns, "regret"),
            f"whole space: {format_estimate(part['whole_space'], '.4f')}; above least and deviations (sd) at {last} R",
            "",
        ]
    lines += [f"{c['claim']}: {c['state']}, {format_estimate(c['value'], '.4f')}" for c in result["claims"]]
    words = f": {result['words']}" if result["words"] else ""
    lines += [f"verdict: {result['verdict']}{words}", f"tables: {result['cell_seconds']:.0f} s"]
    return "\n".join([*lines, f"picture: {result['picture']}"])


def draw(parts: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the regret at each budget over the correlation of the first rung, one axes per problem."""
    figure, axes = new_figure(columns=len(parts), width=4.4, height=3.4)
    for ax, (grid, part) in zip(axes, parts.items(), strict=True):
        names = list(dict.fromkeys(row["method"] for row in part["rows"]))
        budgets = list(dict.fromkeys(row["budget"] for row in part["rows"]))
        for name in names:
            rows = [row for row in part["rows"] if row["method"] == name]
            label = name
            if name != "random":
                label += f", rank correlation {np.mean(part['correlation'][name.partition('=')[2]]):.2f}"
            style = {"color": "0.2", "linestyle": "--"} if name == "random" else {}
            ax.plot(budgets, [row["regret"][0] for row in rows], marker="o", markersize=3, label=label, **style)
        ax.axhline(part["standard_error"], color="0.6", linewidth=0.8, label="one standard error")
        ax.set_xscale("log", base=2)
        ax.set_xticks(budgets, [f"{b} R" for b in budgets])
        ax.set_xlabel("budget in whole trainings")
        ax.set_ylabel("regret")
        ax.set_title(grid, fontsize=9)
        ax.legend(fontsize=6)
    save(figure, path)


def draw_problems(result: Mapping[str, Any], path: Path) -> None:
    """Draw the mean test score of each method with its interval, one axes per problem."""
    figure, axes = new_figure(columns=max(1, len(result["parts"])), width=3.2, height=3.0)
    for ax, (name, part) in zip(axes, result["parts"].items(), strict=False):
        methods = part["methods"]
        values = np.array([row["test"] for row in methods], np.float64)
        reach = np.where(np.isfinite(values[:, 1:]), np.abs(values[:, 1:] - values[:, :1]), 0)
        ax.errorbar(range(len(methods)), values[:, 0], yerr=reach.T, fmt="o", color="#0072B2", capsize=3)
        ax.set_xticks(range(len(methods)), [row["method"] for row in methods])
        ax.set_xlim(-0.5, len(methods) - 0.5)
        ax.set_ylabel(f"test {part['unit']}")
        ax.set_title(name, fontsize=9)
    save(figure, path)
