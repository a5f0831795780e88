"""Random search at a given budget: train as many random candidates to the end as it pays for, and take the best.

Bergstra and Bengio 2012 (JMLR 13); as a baseline of every search for architectures Li and Talwalkar 2019
(arXiv 1902.07638). Candidates are scored at the rungs of the search that it is compared with, which costs no step and
shows how far early ranks can be trusted: nobody was dropped, so no rank was chosen by an earlier one.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import PRNGKeyArray

from metalearn.search.population import Search, population_size
from metalearn.search.successive_halving import HalvingState, Rungs, successive_halving

__all__ = ["random_search", "trained_within", "whole_trainings"]


def trained_within(budget: int, most: int) -> int:
    """How many candidates a budget of steps trains to step `most`.

    Raises:
        ValueError: not one.
    """
    if budget < most:
        raise ValueError(f"a budget of {budget} steps trains no candidate for {most} steps: it must be at least {most}")
    return budget // most


def whole_trainings(n: int, steps: tuple[int, ...]) -> Rungs:
    """Rungs at which n candidates are scored and none is dropped."""
    return Rungs(tuple(steps), (n,) * len(steps))


def random_search(
    search: Search, thetas: Any, data: Any, key: PRNGKeyArray, steps: tuple[int, ...], *, chunk: int = 64
) -> HalvingState:
    """Train all candidates to the last of the steps, and score them at each.

    With all architectures of a space as candidates this is the space's table.

    Args:
        search: what is searched.
        thetas: candidates, drawn at random.
        data: passed on to the loop and the score.
        key: of the trajectories.
        steps: at which candidates are scored, ascending.
        chunk: see `metalearn.search.population.train_members`.

    Returns:
        The state after the last step. `scores[-1]` are those of the last rung, lower is better.
    """
    return successive_halving(search, thetas, data, key, whole_trainings(population_size(thetas), steps), chunk=chunk)
