"""The table of an enumerable space on digits: every candidate trained with several seeds, scored at every rung.

Searches are replayed from it, so their regret is exact and hundreds of them cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metalearn.search.population import Search, score_members
from metalearn.search.random_search import random_search
from metalearn.search.successive_halving import Rungs, members_of_rung, promote
from metalearn_models.architectures import Candidate, Examples, SearchData, classification_search, feedforward_cell
from metalearn_tasks import datasets


class Table(NamedTuple):
    """Scores of N candidates with S seeds at K rungs.

    Attributes:
        steps: of the rungs.
        valid: `[S, K, N]`, errors on the validation examples, by which searches choose.
        test: `[S, N]`, errors on the test examples at the last rung.
    """

    steps: tuple[int, ...]
    valid: np.ndarray
    test: np.ndarray


class Problem(NamedTuple):
    """A space with data.

    Attributes:
        search: what is searched.
        space: of the architectures.
        thetas: all candidates; candidate i has architecture i // R and rate i % R of R rates.
        data: what they learn from and are scored on.
        tested: the same with the test examples in place of the validation examples.
    """

    search: Search
    space: Any
    thetas: Candidate
    data: SearchData
    tested: SearchData


def digits_problem(nodes: int, operations: Sequence[str], rates: Sequence[float], width: int, batch: int) -> Problem:
    """All cells with all learning rates on digits: 1,000 training, 400 validation and 397 test images."""
    digits = datasets.load("digits")
    train, valid, test = (
        Examples(jnp.asarray(split.inputs[rows]), jnp.asarray(split.labels[rows]))
        for split, rows in (
            (digits.train, slice(0, 1000)),
            (digits.train, slice(1000, None)),
            (digits.test, slice(None)),
        )
    )
    network = feedforward_cell(digits.inputs, digits.classes, nodes=nodes, operations=operations, width=width)
    codes = network.space.enumerate()
    thetas = Candidate(
        jnp.asarray(np.repeat(codes, len(rates), 0)), jnp.asarray(np.tile(np.asarray(rates, np.float32), len(codes)))
    )
    search = classification_search(network, batch)
    return Problem(search, network.space, thetas, SearchData(train, valid), SearchData(train, test))


def fill_table(problem: Problem, steps: tuple[int, ...], seed: int, chunk: int = 81) -> tuple[np.ndarray, np.ndarray]:
    """Train every candidate with one seed: validation errors `[K, N]` and test errors `[N]`."""
    state = random_search(problem.search, problem.thetas, problem.data, jax.random.key(seed), steps, chunk=chunk)
    everyone = np.arange(state.scores.shape[1])
    test = score_members(problem.search, problem.thetas, state.states, everyone, problem.tested, chunk)
    # A search must not choose a network that diverged; whoever gets one has all answers wrong.
    return np.asarray(state.scores, np.float64), np.where(np.isfinite(test), test, 1.0)


def replay(valid: np.ndarray, drawn: np.ndarray, rungs: Rungs, steps: tuple[int, ...]) -> int:
    """Which of all candidates a halving of the drawn ones would choose, by the scores in the table.

    Args:
        valid: `[K, N]`, of one seed.
        drawn: numbers of the candidates that enter.
        rungs: the plan, whose steps are among those of the table.
        steps: of the table's rungs.
    """
    rows = np.stack([valid[steps.index(step)][drawn] for step in rungs.steps])
    last = members_of_rung(rungs, rows, len(rungs.steps) - 1)
    return int(drawn[promote(rows[-1], last, 1)[0]])
