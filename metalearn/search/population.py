"""A population of candidates that are trained side by side, from any step to any other.

A candidate is the `theta` of an `InnerLoop`: the code of an architecture, a learning rate, the coefficients of a
loss. All candidates have one program, which `vmap` turns into that of a chunk of them. All randomness is folded from
one key and the number of the step, so all candidates meet the same minibatches, and training continues to the same bits
wherever it was interrupted.

Shapes: N candidates, M of them that are trained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.inner import InnerLoop, start

__all__ = ["Search", "begin", "population_size", "score_members", "train_members"]


class Search(NamedTuple):
    """What is searched.

    Attributes:
        loop: trains one candidate, its `theta`. Its states have the same shapes for all candidates.
        score: `(theta, state, data) -> float`, the lower the better; what is not finite counts as the worst.
    """

    loop: InnerLoop
    score: Callable[[Any, Any, Any], Array]


def population_size(thetas: Any) -> int:
    """N, the length of the leading axis of all leaves.

    Raises:
        ValueError: there is no leaf, no candidate, or the leaves disagree.
    """
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in map(np.asarray, jax.tree.leaves(thetas))}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"all arrays of the candidates must have one leading axis of at least 1, got lengths {sizes}")
    return sizes.pop()


def begin(search: Search, thetas: Any, data: Any, key: PRNGKeyArray) -> Any:
    """The states of all candidates before their first step.

    Args:
        search: what is searched.
        thetas: candidates, N along the leading axis of each leaf.
        data: passed on to the loop.
        key: of the trajectories, the same for all candidates.
    """
    return _begin(search, thetas, data, key)


@partial(jax.jit, static_argnums=0)
def _begin(search: Search, thetas: Any, data: Any, key: PRNGKeyArray) -> Any:
    states = jax.vmap(lambda theta: start(search.loop, theta, data, key))(thetas)
    return jax.tree.map(jnp.array, states)


def train_members(
    search: Search,
    thetas: Any,
    states: Any,
    members: Int[np.ndarray, "M"],
    steps: tuple[int, int],
    data: Any,
    key: PRNGKeyArray,
    chunk: int = 64,
) -> Any:
    """Continue the training of some candidates; the others stay as they are.

    The members are gathered, trained in chunks, and written back. The number of steps is data: one program per size of
    a chunk serves all steps and any number of candidates.

    Args:
        search: what is searched.
        thetas: all candidates.
        states: of all candidates; donated.
        members: the numbers of those that are trained.
        steps: the first step, and the step before which training ends.
        data: passed on to the loop.
        key: of the trajectories.
        chunk: how many are trained side by side. 1: one after the other without `vmap`, so that `lax.switch` computes
            one branch only.
    """
    first, last = (jnp.int32(step) for step in steps)
    if steps[1] > steps[0]:
        for rows in _chunks(members, chunk):
            theta, state = _take((thetas, states), rows)
            states = _put(states, rows, _train(search, chunk == 1, theta, state, first, last, data, key))
    return states


@jax.jit
def _take(members: Any, rows: Int[Array, "M"]) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], members)


@partial(jax.jit, donate_argnums=0)
def _put(states: Any, rows: Int[Array, "M"], trained: Any) -> Any:
    # A chunk that is filled up holds a member twice; both are the same bits.
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new.astype(leaf.dtype)), states, trained)


@partial(jax.jit, static_argnums=(0, 1))
def _train(
    search: Search,
    alone: bool,
    theta: Any,
    state: Any,
    first: Int[Array, ""],
    last: Int[Array, ""],
    data: Any,
    key: PRNGKeyArray,
) -> Any:
    def one(theta: Any, state: Any) -> Any:
        def body(t: Int[Array, ""], state: Any) -> Any:
            return search.loop.step(theta, state, t, jax.random.fold_in(key, t + 1), data)[0]

        return jax.lax.fori_loop(first, last, body, state)

    if alone:
        return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], (theta, state))))
    return jax.vmap(one)(theta, state)


def score_members(
    search: Search, thetas: Any, states: Any, members: Int[np.ndarray, "M"], data: Any, chunk: int = 64
) -> Float[np.ndarray, "M"]:
    """The scores of some candidates as they are now, in float64; infinity for those that are not finite."""
    found = [
        np.asarray(_score(search, chunk == 1, *_take((thetas, states), rows), data)) for rows in _chunks(members, chunk)
    ]
    scores = np.concatenate(found).astype(np.float64)[: len(members)]
    return np.where(np.isfinite(scores), scores, np.inf)


@partial(jax.jit, static_argnums=(0, 1))
def _score(search: Search, alone: bool, theta: Any, state: Any, data: Any) -> Array:
    if alone:
        theta, state = jax.tree.map(lambda x: x[0], (theta, state))
        return search.score(theta, state, data)[None]
    return jax.vmap(lambda theta, state: search.score(theta, state, data))(theta, state)


def _chunks(members: Int[np.ndarray, "M"], chunk: int) -> list[Int[Array, "_"]]:
    """The members in chunks of one length; the last is filled up with its last member."""
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    members = np.asarray(members, np.int32)
    length = min(chunk, 1 << max(len(members) - 1, 0).bit_length())  # few lengths, so few programs
    padding = -len(members) % length
    filled = np.concatenate([members, np.repeat(members[-1:], padding)])
    return [jnp.asarray(rows) for rows in filled.reshape(-1, length)]
