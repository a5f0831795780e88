"""Places in a phase diagram, as powers of two: how many tasks are remembered, and where learning to learn begins."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.in_context.settings import CHANCE
from experiments.suite.experiment import Row
from experiments.suite.intervals import bootstrap, crossing, list_interval


def memory_end(rows: list[Row], learner: str, width: int) -> list[float]:
    """The number of tasks at which accuracy on seen tasks falls to one half: [place, low, high] in powers of two."""
    own = [r for r in rows if (r["learner"], r["width"]) == (learner, width)]
    exponents = sorted({r["exponent"] for r in own})
    groups = [[r["seen_last"] for r in own if r["exponent"] == e] for e in exponents]
    return bootstrap(groups, lambda drawn: crossing(exponents, [-sum(g) / len(g) for g in drawn], -0.5))


def transition(rows: list[Row]) -> list[float]:
    """The number of tasks at which half of what is learned also holds on unseen tasks, see `experiment.summarise`.

    Returns:
        [place, low, high] in powers of two; NaN without rows.
    """
    exponents = sorted({r["exponent"] for r in rows})
    if not exponents:
        return [float("nan")] * 3
    pairs = [
        [(r["seen_last"] - CHANCE, r["unseen_last"] - CHANCE) for r in rows if r["exponent"] == e] for e in exponents
    ]

    def share(drawn: list[Any]) -> float:
        seen, unseen = (sum(values) / len(values) for values in zip(*drawn, strict=True))
        return unseen / seen if seen > 0.05 else 0.0

    return bootstrap(pairs, lambda drawn: crossing(exponents, [share(group) for group in drawn], 0.5))


def transition_shift(more: list[Row], less: list[Row]) -> list[float]:
    """The transition of `more` minus that of `less`, over pairs of one seed: [mean, low, high] in powers of two.

    NaN if there are no pairs, or if some seed has no transition.
    """
    seeds = {r["seed"] for r in more} & {r["seed"] for r in less}
    places = [[transition([r for r in rows if r["seed"] == s])[0] for rows in (more, less)] for s in sorted(seeds)]
    if not places or not np.isfinite(places).all():
        return [float("nan")] * 3
    return list_interval([further - place for further, place in places])
