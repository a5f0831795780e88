"""Synchronous successive halving: train all a little, keep the best, continue with these.

Jamieson and Talwalkar 2016 (arXiv 1502.07943); as a search for architectures Li and Talwalkar 2019 (arXiv 1902.07638),
whose constants are a factor of 4 and rungs at r, 4 r, ... R. Survivors are gathered and their training continues, so
nothing is trained twice. The scores of all rungs are part of the state: a search that is saved, or killed, ends with
the same bits.

Shapes: N candidates, K rungs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.search.population import Search, begin, population_size, score_members, train_members

__all__ = [
    "HalvingState",
    "Rungs",
    "begin_halving",
    "candidates_within",
    "cost",
    "halve_until",
    "members_of_rung",
    "plan_rungs",
    "promote",
    "successive_halving",
]


class Rungs(NamedTuple):
    """When candidates are compared, and how many are there.

    Attributes:
        steps: of each rung, ascending; the last is R.
        sizes: candidates that are trained up to each rung.
    """

    steps: tuple[int, ...]
    sizes: tuple[int, ...]


class HalvingState(NamedTuple):
    """A search between two steps; its arrays keep their shapes, so any state of it is restored into any other.

    Attributes:
        states: of all N candidates; those of dropped candidates stay as they were when they were dropped.
        scores: at each rung; NaN where a candidate was not scored.
        step: steps done by those that are still in the search.
    """

    states: Any
    scores: Float[Array, "K N"]
    step: Int[Array, ""]


def plan_rungs(n: int, least: int, most: int, eta: int = 4) -> Rungs:
    """The rungs `least`, `eta * least`, ... `most`, of which each keeps one candidate in `eta`, rounded down.

    With `eta >= n` a single candidate would be left after the first rung, and nothing would be compared at the end:
    there is one rung then, `most`, and the search is a random search. At least one candidate is always kept.

    Args:
        n: candidates.
        least: r, steps before the first comparison.
        most: R, steps of a whole training.
        eta: ratio of the steps, and of the sizes, of two rungs.

    Raises:
        ValueError: a number is out of range, or `most` is not `least` times a power of `eta`.
    """
    if n < 1:
        raise ValueError(f"the number of candidates must be at least 1, got {n}")
    if eta < 2:
        raise ValueError(f"eta must be at least 2, got {eta}")
    if not 1 <= least <= most:
        raise ValueError(f"the first rung must lie between step 1 and the last rung {most}, got {least}")
    steps = [least]
    while steps[-1] < most:
        steps.append(steps[-1] * eta)
    if steps[-1] != most:
        near = steps[-2] if len(steps) > 1 else least
        raise ValueError(
            f"rungs from {least} by factors of {eta} do not reach {most}: take {near} or {steps[-1]} as the last, or "
            "another first rung"
        )
    if eta >= n:
        return Rungs((most,), (n,))
    return Rungs(tuple(steps), tuple(max(1, n // eta**k) for k in range(len(steps))))


def cost(rungs: Rungs) -> int:
    """Steps of all candidates together; going on costs only what is new."""
    before = (0, *rungs.steps[:-1])
    return sum(n * (after - done) for n, after, done in zip(rungs.sizes, rungs.steps, before, strict=True))


def candidates_within(budget: int, least: int, most: int, eta: int = 4) -> int:
    """The largest number of candidates whose halving costs at most `budget` steps.

    Raises:
        ValueError: not even one candidate can be trained to the end; or see `plan_rungs`.
    """
    if budget < cost(plan_rungs(1, least, most, eta)):
        raise ValueError(f"a budget of {budget} steps trains no candidate to the last rung: it must be at least {most}")
    low = eta + 1
    if cost(plan_rungs(low, least, most, eta)) > budget:
        return min(eta, budget // most)  # so few go to the end without a rung before it
    high = max(low, budget // least) + 1
    while high - low > 1:  # with more than eta candidates the cost grows with their number
        middle = (low + high) // 2
        low, high = (middle, high) if cost(plan_rungs(middle, least, most, eta)) <= budget else (low, middle)
    return low


def promote(scores: Float[np.ndarray, "N"], members: Int[np.ndarray, "M"], keep: int) -> Int[np.ndarray, "L"]:
    """The `keep` best members, in ascending order of their numbers. Of equal scores the lower number goes first."""
    values = np.nan_to_num(scores[members], nan=np.inf, posinf=np.inf)
    order = np.lexsort((members, values))
    return np.sort(members[order[:keep]])


def members_of_rung(rungs: Rungs, scores: Float[np.ndarray, "K N"], rung: int) -> Int[np.ndarray, "M"]:
    """Who is trained up to a rung, read from the scores of the rungs before it."""
    members = np.arange(scores.shape[1])
    for before in range(rung):
        members = promote(scores[before], members, rungs.sizes[before + 1])
    return members


def begin_halving(search: Search, thetas: Any, data: Any, key: PRNGKeyArray, rungs: Rungs) -> HalvingState:
    """The state before the first step."""
    n = population_size(thetas)
    if n != rungs.sizes[0]:
        raise ValueError(f"the rungs are planned for {rungs.sizes[0]} candidates, got {n}")
    scores = jnp.full((len(rungs.steps), n), jnp.nan, jnp.float32)
    return HalvingState(begin(search, thetas, data, key), scores, jnp.int32(0))


def halve_until(
    search: Search,
    thetas: Any,
    data: Any,
    key: PRNGKeyArray,
    rungs: Rungs,
    state: HalvingState,
    until: int,
    chunk: int = 64,
) -> HalvingState:
    """Continue to a step, through all rungs before it and the one at it.

    Args:
        search: what is searched.
        thetas: N candidates.
        data: passed on to the loop and the score.
        key: the same in all calls of one search.
        rungs: the plan.
        state: the state so far; donated.
        until: the step at which to stop; at most the last rung.
        chunk: see `train_members`.

    Returns:
        The state at that step; a rung that it did not reach has no scores.

    Raises:
        ValueError: `until` is before the present step or beyond the last rung.
    """
    states, done, scores = state.states, int(state.step), np.array(state.scores)
    if not done <= until <= rungs.steps[-1]:
        raise ValueError(
            f"until must be from step {done}, the steps done so far, to the last rung {rungs.steps[-1]}; got {until}"
        )
    for rung, at in enumerate(rungs.steps):
        if at <= done or done >= until:
            continue
        members = members_of_rung(rungs, scores, rung)
        stop = min(at, until)
        states = train_members(search, thetas, states, members, (done, stop), data, key, chunk)
        done = stop
        if done == at:
            scores[rung, members] = score_members(search, thetas, states, members, data, chunk)
    return HalvingState(states, jnp.asarray(scores), jnp.int32(done))


def successive_halving(
    search: Search,
    thetas: Any,
    data: Any,
    key: PRNGKeyArray,
    rungs: Rungs,
    *,
    chunk: int = 64,
    state: HalvingState | None = None,
    every: int | None = None,
    saved: Callable[[HalvingState], None] = lambda state: None,
) -> HalvingState:
    """Search to the last rung; the winner is the best at it, `numpy.nanargmin(state.scores[-1])`.

    Args:
        search: what is searched.
        thetas: N candidates.
        data: passed on to the loop and the score.
        key: of the trajectories.
        rungs: the plan, from `plan_rungs`.
        chunk: see `train_members`.
        state: of an earlier call, to continue from; donated. None: begin.
        every: steps after which `saved` is called; None: at the rungs.
        saved: called with each state that may be kept; it must not keep a reference to the arrays themselves.

    Returns:
        The state after the last step. `scores[-1]` are those of the last rung, lower is better, and NaN for
        candidates that were dropped.
    """
    state = begin_halving(search, thetas, data, key, rungs) if state is None else state
    last = rungs.steps[-1]
    while (done := int(state.step)) < last:
        rung = min(step for step in rungs.steps if step > done)
        until = rung if every is None else min(rung, done + every - done % every)
        state = halve_until(search, thetas, data, key, rungs, state, until, chunk)
        saved(state)
    return state
