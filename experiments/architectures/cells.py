"""Random search, early stopping and weight sharing on the cells of the paper, at equal budgets.

Li and Talwalkar 2019, "Random search and reproducibility for neural architecture search" (arXiv 1902.07638): the
recurrent cell of 8 nodes and 4 operations as a model of the characters of Python's help, the convolutional cell of 4
nodes, 2 inputs and 8 operations on 10,000 images of MNIST, and the 162 cells of digits. All at the size of a laptop,
with one learning rate for all.

Each search has `budget` whole trainings of R steps. Random search trains that many cells. Halving begins with more at
R / 16. Weight sharing spends half on shared weights, scores `ranked` cells with them, and trains the best of them
alone with the other half. It scores by loss: `shared_weights` found that errors rank worse, which was known before
characters and MNIST were run. What a search found is trained again with `evaluations` seeds and tested. Scoring costs
no steps.

The rule, written before the first run: random search with early stopping or with weight sharing is a competitive
baseline if, in each problem, the better of the two by mean test score is not worse than random search alone: the mean
of the difference over searches is at most 0 ("holds"), or its interval contains 0 ("open"), or lies above ("fails").

"reproduced": all hold. "not reproduced": one fails. "open": otherwise. The correlation of each rung with the end is
that of the random search's own cells, which nothing selected. That of shared scores with scores alone is over these
cells too ("unselected"), and over the few that shared scores chose ("chosen"), where little is left to correlate.

    python -m experiments cells --mnist FOLDER

A search that has ended is kept in `out/cells`; the same command continues. What it trained stands in `out/found`, and
`python -m experiments retrain out/found/mnist-random-0.json --candidate 3` trains any of it again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.architectures._problems import CellProblem, characters, digits, mnist
from experiments.architectures._report import draw_problems
from experiments.suite.cells import remember, settings_of
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.errors import DataNotPreparedError, unknown_name
from metalearn.runs.progress import Progress
from metalearn.search.population import score_members
from metalearn.search.random_search import random_search
from metalearn.search.rank_correlation import rung_correlations, spearman
from metalearn.search.results import Results, write_results
from metalearn.search.successive_halving import candidates_within, plan_rungs, successive_halving
from metalearn.search.variance import variance_components
from metalearn.search.weight_sharing import rank_with_shared_weights, weight_sharing
from metalearn_models.architectures import Candidate

SCORE = "score"
METHODS = ("random", "halving", "sharing")
PROBLEMS = ("digits", "characters", "mnist")


@dataclass(frozen=True)
class CellsConfig:
    """Search the cells of the paper."""

    problems: tuple[str, ...] = PROBLEMS
    """Of digits, characters and mnist."""
    mnist: str = "mnist"
    """A folder that tensorflow-datasets prepared, or a name it knows. The problem is left out where it is not there."""
    steps: int = 256
    """R, the steps of a whole training; a multiple of 16."""
    budget: int = 8
    """Whole trainings per search."""
    ranked: int = 64
    """Cells that are scored with shared weights."""
    seeds: int = 3
    """Searches per method."""
    evaluations: int = 2
    """Trainings of what a search found."""
    out: Path = Path("runs/cells")
    """Folder of the searches, the table and the picture."""


PRESETS = {"quick": CellsConfig(), "standard": CellsConfig(steps=1024, budget=16, ranked=256, seeds=5, evaluations=3)}


def rebuild(settings: Mapping[str, Any]) -> CellProblem:
    """The problem of a results file, from which any of its candidates can be trained again.

    Raises:
        UnknownNameError: the problem has no such name.
        DataNotPreparedError: the images are not on this machine.
    """
    name = settings["problem"]
    if name not in PROBLEMS:
        raise unknown_name("problem", name, PROBLEMS)
    return mnist(settings["mnist"]) if name == "mnist" else characters() if name == "characters" else digits()


def search_once(name: str, problem: CellProblem, config: CellsConfig, method: str, seed: int) -> dict[str, Any]:
    """One search: what it found, all it evaluated, its correlations, and the test scores of what it found.

    What it trained alone is written to `found`, so that `retrain` can train it again.
    """
    space, key = problem.space, jax.random.fold_in(jax.random.key(17), seed)
    draw_key, shared_key, test_key = jax.random.split(key, 3)
    train_key = jax.random.key(seed)
    levels = (config.steps // 16, config.steps // 4, config.steps)

    def candidates(n: int) -> Candidate:
        codes = space.draw(draw_key, n)
        return Candidate(jnp.asarray(codes), jnp.full(len(codes), problem.rate))

    if method == "sharing":
        keep = max(1, config.budget // 2)
        thetas = candidates(config.ranked)

        def sample(key: jax.Array) -> Candidate:
            return Candidate(space.sample(key), jnp.float32(problem.rate))

        found = weight_sharing(
            problem.search, sample, thetas, problem.data, problem.few, shared_key, train_key,
            steps=(config.budget - keep) * config.steps, alone_steps=config.steps, keep=keep, chunk=problem.chunk,
            ranking=problem.ranking,
        )  # fmt: skip
        winner, correlation = found.winner, [["chosen", found.spearman, keep]]
        others = candidates(config.budget)  # those that random search trains alone
        _, order, values = rank_with_shared_weights(
            problem.ranking, others, found.weights, problem.few, problem.data, len(others.code), problem.chunk
        )
        unselected = values[np.argsort(order)]
        scores = {"quick": found.quick, "ranked": found.ranked, "shared": found.shared, "alone": found.alone}
        scores["unselected"] = unselected
        chosen, kept_steps, rows = found.ranked, (config.steps,), found.alone[None]
    else:
        if method == "random":
            thetas = candidates(config.budget)
            state = random_search(problem.search, thetas, problem.data, train_key, levels, chunk=problem.chunk)
        else:
            n = min(space.architectures, candidates_within(config.budget * config.steps, levels[0], config.steps))
            thetas = candidates(n)
            rungs = plan_rungs(n, levels[0], config.steps)
            state = successive_halving(problem.search, thetas, problem.data, train_key, rungs, chunk=problem.chunk)
        rows = np.asarray(state.scores, np.float64)
        winner = int(np.nanargmin(rows[-1]))
        kept_steps = levels[-len(rows) :]
        correlation = [list(row) for row in rung_correlations(kept_steps, rows)]
        chosen, scores = np.arange(len(thetas.code)), {"rungs": rows}
    numbers = [space.number(code) for code in np.asarray(thetas.code)]
    write_results(
        config.out / "found" / f"{name}-{method}-{seed}.json",
        Results(
            "cells", {"problem": name, "mnist": config.mnist}, space.as_json(), seed, kept_steps,
            [{"architecture": str(numbers[i]), "rate": problem.rate} for i in chosen], rows,
            np.full(len(chosen), np.nan),
        ),
    )  # fmt: skip
    theta = jax.tree.map(lambda leaf: leaf[winner : winner + 1], thetas)
    tests = []
    for i in range(config.evaluations):
        again = random_search(
            problem.search, theta, problem.data, jax.random.fold_in(test_key, i), (config.steps,), chunk=1
        )
        tests.append(float(score_members(problem.search, theta, again.states, np.arange(1), problem.tested, 1)[0]))
    return {
        "method": method,
        "seed": seed,
        "found": space.describe(np.asarray(theta.code[0])),
        "evaluated": numbers,
        "scores": {name: np.asarray(values, np.float64).tolist() for name, values in scores.items()},
        "correlation": correlation,
        "test": tests,
    }


def run(config: CellsConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Search what is missing, summarise and draw.

    Raises:
        UnknownNameError: a problem has no such name.
        ValueError: the steps are no multiple of 16, or a number is too small.
    """
    for name in config.problems:
        if name not in PROBLEMS:
            raise unknown_name("problem", name, PROBLEMS)
    if config.steps < 16 or config.steps % 16:
        raise ValueError(f"--steps must be a multiple of 16, so that the rungs divide it, got {config.steps}")
    if min(config.budget, config.seeds, config.evaluations) < 2 or config.ranked < config.budget:
        raise ValueError(
            "--budget, --seeds and --evaluations must be at least 2, and --ranked at least --budget; got "
            f"{config.budget}, {config.seeds}, {config.evaluations} and {config.ranked}"
        )
    start, parts, skipped = time.monotonic(), {}, {}
    for name in config.problems:
        try:
            problem = rebuild({"problem": name, "mnist": config.mnist})
        except DataNotPreparedError as error:
            skipped[name] = str(error)
            continue
        rows = []
        for seed in range(config.seeds):
            for method in METHODS:
                compute = functools.partial(_timed_search, name, problem, config, method, seed)
                other = ("problems", "seeds", *([] if name == "mnist" else ["mnist"]))
                row = remember(config.out, f"{name}-{method}-{seed}", settings_of(config, other), compute)
                if progress is not None:
                    progress.note(f"{name}, {method}, seed {seed}: test {row['test']}, {row['seconds']:.0f} s")
                rows.append(row)
        parts[name] = summarise(rows) | {
            "unit": problem.unit,
            "architectures": str(problem.space.architectures),
        }
    claims = [{"claim": f"{name}: {part['claim']}", **part["judged"]} for name, part in parts.items()]
    states = [claim["state"] for claim in claims]
    whole = set(parts) == set(PROBLEMS) and set(states) == {"holds"}
    verdict = "not reproduced" if "fails" in states else "reproduced" if whole else "open"
    result = {
        "parts": parts,
        "skipped": skipped,
        "claims": claims,
        "verdict": verdict,
        "cell_seconds": round(sum(part["seconds"] for part in parts.values()), 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "cells.png"),
    }
    config.out.mkdir(parents=True, exist_ok=True)
    draw_problems(result, config.out / "cells.png")
    return write_result(config.out, result)


def _timed_search(name: str, problem: CellProblem, config: CellsConfig, method: str, seed: int) -> dict[str, Any]:
    began = time.monotonic()
    return search_once(name, problem, config, method, seed) | {"seconds": time.monotonic() - began}


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean test scores, both kinds of luck, mean correlations, and the claim of one problem."""
    tests = {m: np.array([row["test"] for row in rows if row["method"] == m], np.float64) for m in METHODS}
    means = {m: values.mean(1) for m, values in tests.items()}
    better = min(("halving", "sharing"), key=lambda m: float(means[m].mean()))
    value = list_interval(means[better] - means["random"])
    by = {(row["method"], row["seed"]): row for row in rows}
    methods = []
    for m in METHODS:
        of_method = [row["correlation"] for row in rows if row["method"] == m]
        if m == "sharing":
            of_method = [
                [_unselected(row, by["random", row["seed"]]), *row["correlation"]] for row in rows if row["method"] == m
            ]
        methods.append(
            {
                "method": m,
                "test": list_interval(means[m]),
                **variance_components(tests[m])._asdict(),
                "correlation": [_mean_correlation(level) for level in zip(*of_method, strict=True)],
            }
        )
    return {
        "methods": methods,
        "claim": f"{better} is not worse than random search",
        "judged": {"value": value, "state": "holds" if value[0] <= 0 else "fails" if value[1] > 0 else "open"},
        "seconds": sum(row["seconds"] for row in rows),
    }


def _unselected(sharing: Mapping[str, Any], random: Mapping[str, Any]) -> list[Any]:
    """The correlation of shared scores with scores alone over the cells of a random search."""
    shared, alone = sharing["scores"]["unselected"], random["scores"]["rungs"][-1]
    return ["unselected", spearman(shared, alone), len(alone)]


def _mean_correlation(rungs: Sequence[Sequence[Any]]) -> list[Any]:
    """The name of a rung and the mean over searches of its correlation; None where it is undefined in all."""
    values = np.array([row[1] for row in rungs], np.float64)
    known = values[np.isfinite(values)]
    return [rungs[0][0], float(known.mean()) if len(known) else None]


def format_result(result: Mapping[str, Any]) -> str:
    """The tables, the claims and the verdict."""
    lines = [f"{name} was left out: {reason}" for name, reason in result["skipped"].items()]
    for name, part in result["parts"].items():
        rows = part["methods"]

        def ranks(row: Mapping[str, Any]) -> str:
            return ", ".join(f"{at}: {'?' if x is None else format(x, '.2f')}" for at, x in row["correlation"])

        columns = {
            f"test {part['unit']}": [format_estimate(row["test"], ".4f") for row in rows],
            "search sd": [f"{row['search']:.4f}" for row in rows],
            "evaluation sd": [f"{row['evaluation']:.4f}" for row in rows],
            "Spearman with the end": [ranks(row) for row in rows],
        }
        head = f"{name}: {int(part['architectures']):,} architectures, {part['seconds']:.0f} s"
        lines += [head, format_columns([row["method"] for row in rows], columns), ""]
    lines += [f"{c['claim']}: {c['state']}, {format_estimate(c['value'], '.4f')}" for c in result["claims"]]
    return "\n".join([*lines, f"verdict: {result['verdict']}", f"picture: {result['picture']}"])
