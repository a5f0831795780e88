"""What accuracy goes with, state or parameters: rank correlations over learners, and the effects of controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.suite.experiment import Row
from experiments.suite.intervals import bootstrap, list_interval, rank_correlation
from experiments.suite.tables import format_estimate
from metalearn.search.rank_correlation import spearman

__all__ = ["SAME", "correlations", "effect", "format_effect"]

SAME = 1.01
"""A size counts as equal over a control if it varies by less than this factor, as by biases. Otherwise such differences
would be ranked."""


def correlations(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Spearman's correlation of accuracy with "state", with "parameters", and their "difference": [value, low, high].

    NaN if there is nothing to rank. Sizes that are all within a factor of `SAME` count as equal. Draws of the bootstrap
    in which one of the two is undefined are left out.
    """
    sizes = {key: [r[key] for r in rows] for key in ("state", "parameters")}
    held = {key: values[0] for key, values in sizes.items() if max(values) <= SAME * min(values)}
    rows = [{**r, **held} for r in rows]
    accuracy, names = [r["unseen_last"] for r in rows], [r["learner"] for r in rows]
    state, parameters = ([float(r[key]) for r in rows] for key in ("state", "parameters"))
    groups = [[r for r in rows if r["learner"] == name] for name in dict.fromkeys(names)]

    def difference(drawn: list[list[Any]]) -> float:
        kept = [r for group in drawn[0] for r in group]
        rho = {key: spearman([r[key] for r in kept], [r["unseen_last"] for r in kept]) for key in sizes}
        return rho["state"] - rho["parameters"]

    return {
        "state": rank_correlation(state, accuracy, names),
        "parameters": rank_correlation(parameters, accuracy, names),
        "difference": bootstrap([groups], difference),
    }


def effect(rows: Sequence[Row], points: dict[str, Any]) -> dict[str, Any] | None:
    """How far accuracy moves from the least to the most of what a control varies.

    What varies is the one of state and parameters with the larger ratio of most to least. The runs are paired by seed,
    since a seed has the same tasks in both, and the interval is Student's.

    Returns:
        `varied`, `least` and `most` (names of configurations), `spans` (ratios of most to least), and `moved` [mean,
        low, high]. None with a single configuration.
    """
    names = list(dict.fromkeys(r["learner"] for r in rows))
    if len(names) < 2:
        return None
    spans = {k: max(points[n][k] for n in names) / min(points[n][k] for n in names) for k in ("state", "parameters")}
    varied = max(spans, key=lambda k: spans[k])
    least, most = (extreme(names, key=lambda n: points[n][varied]) for extreme in (min, max))
    at_least, at_most = ({r["seed"]: r["unseen_last"] for r in rows if r["learner"] == n} for n in (least, most))
    pairs = [at_most[seed] - at_least[seed] for seed in at_least if seed in at_most]
    moved = list_interval(pairs) if pairs else [float("nan"), float("-inf"), float("inf")]
    return {"varied": varied, "least": least, "most": most, "spans": spans, "moved": moved}


def format_effect(group: str, found: dict[str, Any]) -> str:
    """The effect of a control in words."""
    other = "parameters" if found["varied"] == "state" else "state"
    ratio = found["spans"][other]
    kept = f"equal {other}" if ratio == 1 else f"{other} equal to within {100 * (ratio - 1):.1f} %"
    return (
        f"control {group}: accuracy moved by {format_estimate(found['moved'], '+.3f')} when {found['varied']} grew "
        f"{found['spans'][found['varied']]:.3g}-fold at {kept}"
    )
