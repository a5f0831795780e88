"""Random search with weight sharing: one set of weights for all architectures, then scored, ranked and trained alone.

Li and Talwalkar 2019 (arXiv 1902.07638). Stage 1: each step draws an architecture uniformly and updates the shared
weights through it. Stage 2: many architectures are scored with the shared weights on a few validation examples, the
best of them on all, and ranked. Stage 3: the best are trained alone, from the start. The rank correlation of shared
scores with scores of training alone says what stage 2 was worth.

It drives the same `Search` as all others: a step with shared weights is a step of the loop with a fresh `theta`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.inner import start
from metalearn.search.population import Search, population_size, score_members
from metalearn.search.random_search import random_search
from metalearn.search.rank_correlation import spearman

__all__ = ["SharingResult", "rank_with_shared_weights", "train_shared", "weight_sharing"]

Sample = Callable[[PRNGKeyArray], Any]


class SharingResult(NamedTuple):
    """What a search with shared weights found: M candidates scored, of which L were trained alone.

    Attributes:
        quick: scores with shared weights on the few examples.
        ranked: the numbers of the L candidates, best first by their shared scores on all examples.
        shared: those scores.
        alone: their scores after training alone.
        spearman: correlation of `shared` and `alone`. Shared scores have chosen these candidates, so it is lower than
            that of all, and of few it says nothing: give candidates that nothing chose to `rank_with_shared_weights`.
        weights: the shared weights.
    """

    quick: Float[np.ndarray, "M"]
    ranked: Int[np.ndarray, "L"]
    shared: Float[np.ndarray, "L"]
    alone: Float[np.ndarray, "L"]
    spearman: float
    weights: Any

    @property
    def winner(self) -> int:
        """The number of the candidate that was best after training alone; of equal ones, the first of the ranking."""
        return int(self.ranked[np.argmin(self.alone)])


def train_shared(search: Search, sample: Sample, data: Any, key: PRNGKeyArray, steps: int) -> Any:
    """Stage 1: the shared weights after a number of steps, each with a fresh candidate.

    Args:
        search: what is searched; its loop must not keep a momentum, which would move weights of other candidates.
        sample: `(key) -> theta`, draws one candidate; compiled.
        data: passed on to the loop.
        key: of the trajectory and of the candidates.
        steps: number of steps; the same program serves any.
    """
    return _train_shared(search, sample, data, key, jnp.int32(steps))


@partial(jax.jit, static_argnums=(0, 1))
def _train_shared(search: Search, sample: Sample, data: Any, key: PRNGKeyArray, steps: Int[Array, ""]) -> Any:
    trajectory, draws = jax.random.split(key)

    def body(t: Int[Array, ""], state: Any) -> Any:
        theta = sample(jax.random.fold_in(draws, t))
        return search.loop.step(theta, state, t, jax.random.fold_in(trajectory, t + 1), data)[0]

    return jax.lax.fori_loop(0, steps, body, start(search.loop, sample(draws), data, trajectory))


def rank_with_shared_weights(
    search: Search, thetas: Any, shared: Any, few: Any, data: Any, keep: int, chunk: int = 64
) -> tuple[Float[np.ndarray, "M"], Int[np.ndarray, "L"], Float[np.ndarray, "L"]]:
    """Stage 2: score all candidates on a few examples, the best `keep` on all, and rank these.

    Returns:
        The scores of all on the few examples; the numbers of the kept ones, best first; and their scores on all.
    """
    n = population_size(thetas)
    if not 1 <= keep <= n:
        raise ValueError(f"keep must be from 1 to the number of candidates {n}, got {keep}")
    scorer = Search(search.loop, _with_shared(search))
    whole = jnp.zeros(n)  # the state of a candidate is nothing of its own
    quick = score_members(scorer, thetas, whole, np.arange(n), (shared, few), chunk)
    best = np.argsort(quick, kind="stable")[:keep]
    scores = score_members(scorer, thetas, whole, best, (shared, data), chunk)
    order = np.argsort(scores, kind="stable")
    return quick, best[order], scores[order]


def _with_shared(search: Search) -> Callable[[Any, Any, Any], Array]:
    def score(theta: Any, own: Any, given: tuple[Any, Any]) -> Array:
        del own
        return search.score(theta, *given)

    return score


def weight_sharing(
    search: Search,
    sample: Sample,
    thetas: Any,
    data: Any,
    few: Any,
    key: PRNGKeyArray,
    alone_key: PRNGKeyArray,
    *,
    steps: int,
    alone_steps: int,
    keep: int,
    chunk: int = 64,
    ranking: Search | None = None,
) -> SharingResult:
    """All three stages.

    Args:
        search: what is searched.
        sample: `(key) -> theta`, draws the candidate of a step.
        thetas: M candidates that are scored, drawn at random.
        data: passed on to the loop and the score.
        few: the same with few validation examples.
        key: of stage 1.
        alone_key: of the trajectories of stage 3.
        steps: of stage 1.
        alone_steps: of each training in stage 3.
        keep: L, how many are scored on all examples and trained alone.
        chunk: see `metalearn.search.population.train_members`.
        ranking: whose score ranks candidates in stage 2; None: that of `search`. A loss ranks better than an error,
            which is the same for many candidates.
    """
    shared = train_shared(search, sample, data, key, steps)
    quick, ranked, scores = rank_with_shared_weights(ranking or search, thetas, shared, few, data, keep, chunk)
    chosen = jax.tree.map(lambda leaf: jnp.asarray(leaf)[ranked], thetas)
    state = random_search(search, chosen, data, alone_key, (alone_steps,), chunk=chunk)
    alone = np.asarray(state.scores[-1], np.float64)
    return SharingResult(quick, ranked, scores, alone, spearman(scores, alone), shared)
