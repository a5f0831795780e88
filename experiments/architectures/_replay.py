"""Searches replayed from a table of a whole space: regrets, correlations, two kinds of luck, and the claims.

The rule of the claims stands at the head of `experiments.architectures.digits`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.architectures._table import Table, replay
from experiments.suite.intervals import list_interval
from metalearn.search.random_search import trained_within
from metalearn.search.rank_correlation import rung_correlations, spearman
from metalearn.search.successive_halving import candidates_within, plan_rungs
from metalearn.search.variance import variance_components


@dataclass(frozen=True)
class Replays:
    """The settings that searches are replayed with."""

    steps: int = 512
    """R, the steps of a whole training."""
    first: tuple[int, ...] = (2, 8, 32, 128)
    """First rungs of halving; each times a power of eta is R."""
    eta: int = 4
    """One in eta candidates of a rung is kept."""
    budgets: tuple[int, ...] = (4, 8, 16)
    """Budgets of the searches, in R."""
    seeds: int = 3
    """Seeds that every candidate is trained with; a search sees one of them."""
    draws: int = 100
    """Searches per seed, each with candidates of its own."""


def standard_error(test: np.ndarray) -> float:
    """The deviation between seeds of one test error, pooled over the best tenth of the candidates. `test`: `[S, N]`."""
    best = np.argsort(test.mean(0), kind="stable")[: max(1, test.shape[1] // 10)]
    return float(np.sqrt(test[:, best].var(0, ddof=1).mean()))


def search_all(plan: Replays, table: Table) -> dict[tuple[str, int], np.ndarray]:
    """What every search chose: `[seeds, draws]` numbers of candidates, by method and budget.

    The searches of one seed and draw take their candidates from one random order of the space, so methods are paired.
    """
    n = table.test.shape[1]
    orders = [
        [np.random.default_rng([seed, draw]).permutation(n) for draw in range(plan.draws)] for seed in range(plan.seeds)
    ]
    chosen = {}
    for budget in plan.budgets:
        plans = {
            f"halving r={first}": plan_rungs(
                min(n, candidates_within(budget * plan.steps, first, plan.steps, plan.eta)),
                first,
                plan.steps,
                plan.eta,
            )
            for first in plan.first
        }
        whole = min(n, trained_within(budget * plan.steps, plan.steps))
        plans = {"random": plan_rungs(whole, plan.steps, plan.steps, max(2, plan.eta)), **plans}
        for name, rungs in plans.items():
            chosen[name, budget] = np.array(
                [
                    [replay(table.valid[s], order[: rungs.sizes[0]], rungs, table.steps) for order in orders[s]]
                    for s in range(plan.seeds)
                ]
            )
    return chosen


def summarise(plan: Replays, table: Table) -> dict[str, Any]:
    """Correlations, regrets and claims of one grid."""
    seeds = plan.seeds
    others = [[e for e in range(seeds) if e != s] for s in range(seeds)]
    truth = np.stack([table.test[rows].mean(0) for rows in others])  # of a search with seed s, by the other seeds
    least = truth.min(1)
    # The smallest of hundreds of noisy means is lower than what it is the mean of. So the best is named by validation.
    named = [int(np.argmin(np.mean(table.valid[rows, -1], 0))) for rows in others]
    best = np.array([truth[s][pick] for s, pick in enumerate(named)])
    error = standard_error(table.test)
    per_seed = [rung_correlations(table.steps, valid) for valid in table.valid]
    correlation = {step: [c[k].spearman for c in per_seed] for k, step in enumerate(table.steps)}
    # A correlation over all candidates can come from the bad ones alone, so the good ones are looked at too.
    good = [valid[:, np.argsort(valid[-1], kind="stable")[: max(2, valid.shape[1] // 4)]] for valid in table.valid]
    among_best = {step: [spearman(rows[k], rows[-1]) for rows in good] for k, step in enumerate(table.steps)}
    chosen = search_all(plan, table)
    regrets = {key: np.stack([truth[s][row] - best[s] for s, row in enumerate(picks)]) for key, picks in chosen.items()}
    rows = []
    for (name, budget), regret in regrets.items():
        found = np.concatenate([table.test[others[s]][:, row].T for s, row in enumerate(chosen[name, budget])])
        luck = variance_components(found)
        rows.append(
            {
                "method": name,
                "budget": budget,
                "regret": list_interval(regret.mean(1)),
                "above_least": float((regret.mean(1) + best - least).mean()),
                "per_draw": float(regret.std()),
                "search": luck.search,
                "evaluation": luck.evaluation,
            }
        )
    everyone = np.arange(table.test.shape[1])
    trained = plan_rungs(len(everyone), plan.steps, plan.steps, plan.eta)
    everything = [replay(valid, everyone, trained, table.steps) for valid in table.valid]
    whole = [float(truth[s][pick] - best[s]) for s, pick in enumerate(everything)]
    claims = judge(plan, correlation, regrets, error)
    pairs = [(a, b) for a in range(seeds) for b in range(a)]
    return {
        "candidates": int(table.test.shape[1]),
        "best": float(best.mean()),
        "least": float(least.mean()),
        "standard_error": error,
        "whole_space": list_interval(whole),
        "between_seeds": float(np.mean([spearman(table.valid[a, -1], table.valid[b, -1]) for a, b in pairs])),
        "correlation": {str(step): values for step, values in correlation.items()},
        "among_best": {str(step): values for step, values in among_best.items()},
        "rows": rows,
        "claims": claims,
    }


def judge(
    plan: Replays,
    correlation: Mapping[int, Sequence[float]],
    regrets: Mapping[tuple[str, int], np.ndarray],
    error: float,
) -> list[dict[str, Any]]:
    """The claims of the rule at the head of this module."""
    claims = []
    if 8 not in plan.budgets:
        return claims
    for first in plan.first:
        mean, regret = float(np.mean(correlation[first])), regrets[f"halving r={first}", 8]
        if mean > 0.8:
            value = list_interval(regret.mean(1))
            claims.append(
                {
                    "claim": f"correlation {mean:.2f} at r = {first}: regret at most one standard error, {error:.4f}",
                    "value": value,
                    "state": "holds" if value[0] <= error else "fails" if value[1] > error else "open",
                }
            )
        if mean < 0:
            value = list_interval((regret - regrets["random", 8]).mean(1))
            claims.append(
                {
                    "claim": f"correlation {mean:.2f} at r = {first}: halving loses to random search",
                    "value": value,
                    "state": "holds" if value[1] > 0 else "fails" if value[2] < 0 else "open",
                }
            )
    return claims
