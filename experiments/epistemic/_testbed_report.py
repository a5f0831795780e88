"""The testbed's summary over seeds, its claims, its table and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.epistemic._agents import PRIOR_PAIRS
from experiments.suite.intervals import list_interval
from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save

CLAIMED = ("ensemble", "prior-ensemble", "epinet")


def summarise(rows: Sequence[Mapping[str, Any]], taus: Sequence[int], temperatures: Sequence[float]) -> dict[str, Any]:
    """Means over seeds, divided by those of the single network, the claims, and the verdict.

    Args:
        rows: one per agent, number of inputs and ratio.
        taus: labels predicted together.
        temperatures: of the teachers.
    """
    names = list(dict.fromkeys(row["agent"] for row in rows))
    spreads = {name: [row["spread"] for row in rows if row["agent"] == name and "spread" in row] for name in names}
    # [settings, temperatures, seeds, taus], in the same order of settings for all agents
    kl = {name: np.array([row["kl"] for row in rows if row["agent"] == name], np.float64) for name in names}
    unit = kl["mlp"].mean((0, 1, 2))
    summary, settings = [], []
    for name in names:
        per_seed = kl[name].mean((0, 1)) / unit
        summary.append(
            {
                "agent": name,
                **{f"tau {tau}": list_interval(per_seed[:, i]) for i, tau in enumerate(taus)},
                "infinite": int(sum(np.sum(row["infinite"]) for row in rows if row["agent"] == name)),
                "spread": np.mean(spreads[name], (0, 1, 2)).tolist() if spreads[name] else None,
                "seconds": round(sum(row["seconds"] for row in rows if row["agent"] == name), 1),
            }
        )
        each = kl[name].mean(2) / kl["mlp"].mean(2)
        described = [(row["inputs"], row["ratio"]) for row in rows if row["agent"] == name]
        settings += [
            {"agent": name, "inputs": d, "ratio": r, "temperature": t, "relative": each[i, j].tolist()}
            for i, (d, r) in enumerate(described)
            for j, t in enumerate(temperatures)
        ]
    claims = judge({row["agent"]: row for row in summary}, taus)
    wrong = [c["claim"] for c in claims if c["state"] == "fails"]
    unclear = [c["claim"] for c in claims if c["state"] == "open"]
    whole = set(CLAIMED) <= set(names) and {1, 10} <= set(taus)
    verdict = "not reproduced" if wrong else "open" if unclear or not whole else "reproduced"
    return {
        "summary": summary,
        "mlp": unit.tolist(),
        "prior": compare_priors({name: each.mean((0, 1)) / unit for name, each in kl.items()}, taus),
        "by_setting": settings,
        "claims": claims,
        "verdict": verdict,
        "words": "; ".join(wrong or unclear),
    }


def compare_priors(per_seed: Mapping[str, np.ndarray], taus: Sequence[int]) -> list[dict[str, Any]]:
    """What the prior does: agents with it minus the same agents without it, over the same teachers.

    Args:
        per_seed: of each agent, divergences over that of the single network, `[seeds, taus]`.
        taus: labels predicted together.
    """
    return [
        {
            "with": name,
            "without": without,
            **{f"tau {tau}": list_interval((per_seed[name] - per_seed[without])[:, i]) for i, tau in enumerate(taus)},
        }
        for name, without in PRIOR_PAIRS
        if name in per_seed and without in per_seed
    ]


def judge(summary: Mapping[str, Mapping[str, Any]], taus: Sequence[int]) -> list[dict[str, Any]]:
    """The claims of the rule at the head of this module."""
    claims = []
    for name in CLAIMED:
        if name not in summary:
            continue
        if 10 in taus and name != "ensemble":
            mean, low, _ = summary[name]["tau 10"]
            state = "holds" if mean <= 0.6 else "fails" if low > 0.6 else "open"
            claims.append({"claim": f"tau = 10: {name} at most .6", "value": summary[name]["tau 10"], "state": state})
        if 1 in taus:
            mean, low, high = summary[name]["tau 1"]
            state = "holds" if 0.75 <= mean <= 1.25 else "fails" if low > 1.25 or high < 0.75 else "open"
            claims.append(
                {"claim": f"tau = 1: {name} from .75 to 1.25", "value": summary[name]["tau 1"], "state": state}
            )
    return claims


def format_summary(result: Mapping[str, Any]) -> str:
    """The table, the claims and the verdict."""
    rows, taus = result["summary"], result["settings"]["taus"]
    columns = {f"tau = {tau}": [format_estimate(row[f"tau {tau}"], ".2f") for row in rows] for tau in taus}
    columns["infinite"] = [str(row["infinite"]) for row in rows]
    columns["seconds"] = [f"{row['seconds']:.0f}" for row in rows]
    unit = ", ".join(f"{kl:.3f} at tau = {tau}" for kl, tau in zip(result["mlp"], taus, strict=True))
    spreads = [
        f"{row['agent']}: standard deviation over orders of the queries "
        + ", ".join(f"{x:.3f} at tau = {tau}" for x, tau in zip(row["spread"], taus, strict=True))
        for row in rows
        if row["spread"]
    ]
    pairs = [
        f"{pair['with']} minus {pair['without']}: "
        + ", ".join(f"{format_estimate(pair[f'tau {tau}'], '.2f')} at tau = {tau}" for tau in taus)
        for pair in result["prior"]
    ]
    claims = [f"{c['claim']}: {c['state']}, {format_estimate(c['value'], '.2f')}" for c in result["claims"]]
    return "\n".join(
        [
            format_columns([row["agent"] for row in rows], columns, "KL, mlp = 1"),
            f"KL of mlp in nats: {unit}",
            *spreads,
            *pairs,
            "",
            *claims,
            f"verdict: {result['verdict']}" + (f": {result['words']}" if result["words"] else ""),
            f"picture: {result['picture']} ({result['cell_seconds']:.0f} s)",
        ]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the divergence of every agent over that of the single network, one axes per tau."""
    taus = result["settings"]["taus"]
    figure, axes = new_figure(columns=len(taus), width=4.0, height=3.2)
    names = [row["agent"] for row in result["summary"]]
    for ax, tau in zip(axes, taus, strict=True):
        values = np.array([row[f"tau {tau}"] for row in result["summary"]], np.float64)
        reach = np.abs(values[:, 1:] - values[:, :1])
        ax.barh(names, values[:, 0], xerr=np.where(np.isfinite(reach), reach, 0).T, color="#56B4E9", capsize=2)
        ax.axvline(1.0, color="0.4", linewidth=0.8)
        ax.invert_yaxis()
        ax.set_xlabel("KL from the teacher, mlp = 1")
        ax.set_title(f"{tau} label{'s' if tau > 1 else ''} together", fontsize=9)
    save(figure, path)
