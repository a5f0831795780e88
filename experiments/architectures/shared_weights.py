"""What shared weights say of the cells of a space, measured over all of it, and which score ranks best.

Li and Talwalkar 2019, "Random search and reproducibility for neural architecture search" (arXiv 1902.07638), rank
cells by their scores with weights that all cells share. Here all 162 cells of 3 nodes on digits are trained alone for R
steps with several seeds, and shared weights are trained with several seeds, numbers of steps and learning rates. Cells
are scored with them in four ways: by their error, by their loss, and by their error after a few steps of the head
alone or of all weights. A few steps for each of all cells cost as much as the rung of halving at that step.

Every number is Spearman's correlation of the scores of one seed with the mean validation errors, at R, of training
alone with the other seeds. So "alone at R" is what a score by error of one whole training reaches; scores by loss can
exceed it. "Alone at R / 16" is what halving's first rung says.

The rule, written before the first run; after eight seeds left one claim open, twelve were added (`--seeds 20`). The
default is 4 R steps at the rate of training alone, scored by error.

- The default's correlation over all cells is above 0.
- The setting with the highest mean correlation on the even seeds has, on the odd seeds, one above that of the default.
- That setting, on the odd seeds, has a correlation not below that of training alone for R / 16 steps.

A claim holds if the interval of the value lies above 0, fails if it lies below 0, and is open otherwise. Intervals are
those of `_correlations`: a bootstrap over seeds, then cells. In the first runs they were Student's, which took seeds
for independent ones, though all are compared over the same cells.
"reproduced": all hold. "not reproduced": one fails. "open": otherwise. Printed and not judged: the correlation among
the best 4 of 64 random cells by the default's scores, which is all that a search sees.

    python -m experiments shared_weights

What was computed is kept in `out/cells`; the same command continues.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.architectures._correlations import correlate_with_others, interval, resample
from experiments.architectures._problems import CellProblem, digits
from experiments.architectures._report import verdict
from experiments.suite.cells import remember, settings_of
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.inner import InnerLoop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn.search.population import Search, score_members, train_members
from metalearn.search.random_search import random_search
from metalearn.search.rank_correlation import spearman
from metalearn.search.weight_sharing import train_shared
from metalearn_models.architectures import Candidate, scored_by_loss

SCORE = "correlation"
WAYS = ("error", "loss", "head", "all")
"""By error, by loss, by error after a few steps of the head, of all weights."""

DRAWS = 400
"""Draws of the bootstrap."""


@dataclass(frozen=True)
class SharedWeightsConfig:
    """Rank all cells with shared weights."""

    steps: int = 256
    """R, the steps of a whole training; a multiple of 16. A few steps are R / 16."""
    shared_steps: tuple[int, ...] = (1, 4, 16, 64)
    """Steps of the shared weights, in R."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Learning rates of the shared weights."""
    seeds: int = 8
    """Seeds of training alone, and of shared weights."""
    out: Path = Path("runs/shared_weights")
    """Folder of the result and the picture."""


PRESETS = {"quick": SharedWeightsConfig()}


def train_alone(problem: CellProblem, config: SharedWeightsConfig, seed: int) -> list[list[float]]:
    """Validation errors of all cells at R / 16, R / 4 and R."""
    thetas, steps = _everyone(problem), (config.steps // 16, config.steps // 4, config.steps)
    state = random_search(problem.search, thetas, problem.data, jax.random.key(seed), steps, chunk=162)
    return np.asarray(state.scores, np.float64).tolist()


def score_shared(
    problem: CellProblem, searches: Mapping[str, Search], sample: Any, few: int, seed: int, steps: int
) -> dict[str, list[float]]:
    """The scores of all cells with shared weights, in all ways."""
    thetas, key = _everyone(problem), jax.random.fold_in(jax.random.key(29), seed)
    shared_key, few_key = jax.random.split(key)
    shared = train_shared(problem.search, sample, problem.data, shared_key, steps)
    n = len(thetas.code)
    everyone = np.arange(n)

    def scores(search: Search, few: int) -> list[float]:
        states = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], n, 0), shared)
        states = train_members(search, thetas, states, everyone, (0, few), problem.data, few_key, n)
        return score_members(search, thetas, states, everyone, problem.data, n).tolist()

    return {way: scores(search, few if way in ("head", "all") else 0) for way, search in searches.items()}


def _everyone(problem: CellProblem) -> Candidate:
    codes = problem.space.enumerate()
    return Candidate(jnp.asarray(codes), jnp.full(len(codes), problem.rate))


def _sampler(problem: CellProblem, rate: float) -> Any:
    """Draws a cell."""
    return lambda key: Candidate(problem.space.sample(key), jnp.float32(rate))


def searches_of(problem: CellProblem) -> dict[str, Search]:
    """The search of each way: one whose score is the loss, one whose steps change the head only."""
    search, by_loss = problem.search, scored_by_loss(problem.search, problem.network)

    def step(theta: Candidate, params: Any, t: Array, key: Array, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        new, value, aux = search.loop.step(theta, params, t, key, data)
        return params._replace(head=new.head, bias=new.bias), value, aux

    only_head = Search(InnerLoop(search.loop.init, step), search.score)
    return dict(zip(WAYS, (search, by_loss, only_head, search), strict=True))


def run(config: SharedWeightsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train what is missing, correlate and draw.

    Raises:
        ValueError: the steps are no multiple of 16, the default is not among the settings, or there are too few seeds.
    """
    if config.steps < 16 or config.steps % 16:
        raise ValueError(f"--steps must be a multiple of 16, so that a few are R / 16, got {config.steps}")
    if config.seeds < 4:
        raise ValueError(f"--seeds must be at least 4, two to choose by and two to judge by, got {config.seeds}")
    start, problem = time.monotonic(), digits()
    if 4 not in config.shared_steps or problem.rate not in config.rates:
        raise ValueError(
            f"--shared-steps must hold 4 and --rates {problem.rate}, the default; got {config.shared_steps} and "
            f"{config.rates}"
        )
    alone, shared = [], {}
    searches, samplers = searches_of(problem), {rate: _sampler(problem, rate) for rate in config.rates}
    few = config.steps // 16
    for seed in range(config.seeds):
        compute = functools.partial(train_alone, problem, config, seed)
        alone.append(remember(config.out, f"alone-{seed}", {"steps": config.steps}, compute))
        for times in config.shared_steps:
            for rate in config.rates:
                compute = functools.partial(
                    score_shared, problem, searches, samplers[rate], few, seed, times * config.steps
                )
                settings = {"steps": config.steps, "times": times, "rate": rate}
                shared[times, rate, seed] = remember(config.out, f"shared-{seed}", settings, compute)
        if progress is not None:
            progress.note(f"seed {seed}: {time.monotonic() - start:.0f} s")
    result = summarise(config, np.asarray(alone, np.float64), shared, problem.rate) | {
        "settings": settings_of(config),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "shared_weights.png"),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    draw(result, config.out / "shared_weights.png")
    return write_result(config.out, result)


def summarise(
    config: SharedWeightsConfig, alone: np.ndarray, shared: Mapping[Any, Mapping[str, Any]], default_rate: float
) -> dict[str, Any]:
    """All correlations, and the claims. `alone`: `[seeds, 3, cells]`; `shared`: by steps, rate and seed."""
    seeds = range(config.seeds)
    settings = [(way, times, rate) for way in WAYS for times in config.shared_steps for rate in config.rates]
    # The rungs of training alone come first, then the settings.
    table = np.stack(
        [alone[:, k] for k in range(3)]
        + [np.array([shared[times, rate, s][way] for s in seeds], np.float64) for way, times, rate in settings]
    )
    all_found = correlate_with_others(table, alone[:, -1])
    draws = list(resample(table, alone[:, -1], DRAWS))
    means = interval(lambda correlations: correlations.mean(1), all_found, draws).tolist()
    at = {setting: 3 + i for i, setting in enumerate(settings)}
    found = {setting: all_found[i] for setting, i in at.items()}
    default = ("error", 4, default_rate)
    chosen = []
    for s in seeds:
        scores = np.asarray(shared[4, default_rate, s]["error"])
        for draw_seed in range(100):
            drawn = np.random.default_rng([s, draw_seed]).permutation(len(scores))[:64]
            first = drawn[np.argsort(scores[drawn], kind="stable")[:4]]
            chosen.append(spearman(scores[first], alone[s, -1][first]))
    picked = max(found, key=lambda setting: float(np.nan_to_num(found[setting][::2], nan=-1).mean()))
    name = f"{picked[0]}, {picked[1]} R steps at rate {picked[2]:g}"
    usual, best = at[default], at[picked]
    values = {
        "the default's correlation over all cells is above 0": lambda c: c[usual].mean(),
        f"the best on even seeds ({name}) is above the default": lambda c: (c[best] - c[usual])[1::2].mean(),
        f"it ({name}) is not below training alone for R / 16 steps": lambda c: (c[best] - c[0])[1::2].mean(),
    }
    claims = []
    for claim, value in values.items():
        mean, low, high = interval(value, all_found, draws).tolist()
        state = "holds" if low > 0 else "fails" if high < 0 else "open"
        claims.append({"claim": claim, "value": [mean, low, high], "state": state})
    return {
        "alone": dict(zip(("R / 16", "R / 4", "R"), means, strict=False)),
        "rows": [
            {"way": way, "shared_steps": times, "rate": rate, "correlation": means[i]}
            for (way, times, rate), i in at.items()
        ],
        "chosen": float(np.nanmean(chosen)),
        **verdict({"digits": {"claims": claims}}),
    }


def format_result(result: Mapping[str, Any]) -> str:
    """The table, the claims and the verdict."""
    cells = {(row["way"], row["shared_steps"], row["rate"]): row["correlation"] for row in result["rows"]}
    rows = list(dict.fromkeys((times, rate) for _, times, rate in cells))
    columns = {way: [format_estimate(cells[way, *row], ".2f") for row in rows] for way in WAYS}
    lines = [f"alone at {at}: {format_estimate(value, '.2f')}" for at, value in result["alone"].items()]
    lines += [format_columns([f"{times} R, {rate:g}" for times, rate in rows], columns, "shared steps, rate")]
    lines += [f"among the best 4 of 64 by the default: {result['chosen']:.2f}"]
    lines += [f"{c['claim']}: {c['state']}, {format_estimate(c['value'], '.2f')}" for c in result["claims"]]
    return "\n".join([*lines, f"verdict: {result['verdict']}", f"picture: {result['picture']}"])


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the correlation of each way over the shared steps, one axes per rate."""
    rates = list(dict.fromkeys(row["rate"] for row in result["rows"]))
    at = list(dict.fromkeys(row["shared_steps"] for row in result["rows"]))
    figure, axes = new_figure(columns=len(rates), width=3.4, height=3.2)
    for ax, rate in zip(axes, rates, strict=True):
        for way in WAYS:
            rows = [row for row in result["rows"] if (row["way"], row["rate"]) == (way, rate)]
            values = np.array([row["correlation"] for row in rows], np.float64)
            (line,) = ax.plot(at, values[:, 0], marker="o", markersize=3, label=way)
            ax.fill_between(at, values[:, 1], values[:, 2], color=line.get_color(), alpha=0.15, linewidth=0)
        for style, (name, value) in zip(("--", "-.", ":"), result["alone"].items(), strict=True):
            ax.axhline(value[0], color="0.4", linestyle=style, linewidth=0.9, label=f"alone at {name}")
        ax.set_xscale("log", base=4)
        ax.set_xticks(at, [str(x) for x in at])
        ax.set_xlim(at[0] / 1.5, at[-1] * 1.5)
        ax.set_ylim(-0.4, 1)
        ax.set_xlabel("steps of shared weights, in R")
        ax.set_ylabel("rank correlation with training alone")
        ax.set_title(f"rate {rate:g}", fontsize=9)
    axes[0].legend(fontsize=6)
    save(figure, path)
