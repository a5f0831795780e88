"""Train one candidate of a results file again, and compare its scores with those in the file.

    python -m experiments retrain runs/architectures/cells/narrow-seed-0.json --candidate 17
    python -m experiments retrain runs/architectures/cells/narrow-seed-0.json --seed 5

The file says how its search is made again. Without a candidate, the one with the lowest score at the end is trained;
without a seed, that of the file. Alone a candidate has another program than among others, so digits may differ at the
end.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.catalogue import find_module
from metalearn.runs.progress import Progress
from metalearn.search.population import score_members
from metalearn.search.random_search import random_search
from metalearn.search.results import read_results
from metalearn_models.architectures import Candidate


@dataclass(frozen=True)
class Options:
    """Train one candidate of a results file again."""

    results: Annotated[Path, tyro.conf.Positional]
    """The results file."""
    candidate: int | None = None
    """Its place in the file, from 0. None: the best."""
    seed: int | None = None
    """Of the training. None: that of the file."""


def run(options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Train the candidate.

    Raises:
        RunError: the file cannot be read, or its space is not that of today's code.
        ValueError: it has no such candidate.
    """
    del progress
    results = read_results(options.results)
    n = len(results.candidates)
    best = int(np.argmin(np.where(np.isnan(results.scores[-1]), np.inf, results.scores[-1])))
    place = best if options.candidate is None else options.candidate
    if not 0 <= place < n:
        raise ValueError(f"--candidate must be from 0 to {n - 1}, got {place}")
    problem = importlib.import_module(find_module(results.experiment)).rebuild(results.settings)
    read_results(options.results, space=problem.space.as_json())
    candidate = results.candidates[place]
    theta = Candidate(
        jnp.asarray(problem.space.code(int(candidate["architecture"])))[None], jnp.asarray([candidate["rate"]])
    )
    seed = results.seed if options.seed is None else options.seed
    state = random_search(problem.search, theta, problem.data, jax.random.key(seed), results.steps, chunk=1)
    test = score_members(problem.search, theta, state.states, np.arange(1), problem.tested, 1)
    return {
        "candidate": place,
        "architecture": problem.space.describe(np.asarray(theta.code[0])),
        "rate": float(theta.rate[0]),
        "seed": seed,
        "steps": list(results.steps),
        "scores": np.asarray(state.scores[:, 0], np.float64).tolist(),
        "test": float(test[0]),
        "file_seed": results.seed,
        "file_scores": results.scores[:, place].tolist(),
        "file_test": float(results.test[place]),
    }


def format_result(result: Mapping[str, Any]) -> str:
    """The architecture, and its scores beside those of the file."""
    cell = ", ".join(f"{name} {option}" for name, option in result["architecture"].items())
    lines = [f"candidate {result['candidate']}: {cell}; learning rate {result['rate']:g}", "step   again   file"]
    for step, again, before in zip(result["steps"], result["scores"], result["file_scores"], strict=True):
        lines.append(f"{step:<6} {again:.4f}  {before:.4f}")
    lines.append(f"test   {result['test']:.4f}  {result['file_test']:.4f}")
    return "\n".join([*lines, f"seed {result['seed']}, in the file {result['file_seed']}"])
