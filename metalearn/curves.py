"""Learning curves: how well a learner predicts after n examples, on tasks that it has or has not met.

The protocol of GPICL (Kirsch et al. 2022, arXiv 2212.04458, and its official code): sequences of held-out examples of
seen and of unseen tasks, and the score at every position instead of the last one only. Learners that are given the same
key meet the same tasks and the same examples, so that their curves can be compared pairwise. Intervals are over tasks,
since these are what is drawn independently.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.tree_util import Partial
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.compilation import jit_quickly
from metalearn.intervals import half_width, mean_interval
from metalearn.learner import Family, Learner, check_signatures, prediction_score, predictions, select_classes

__all__ = ["Curve", "curve_scorer", "last_positions", "summarise"]


class Curve(NamedTuple):
    """The mean score after n = 0 .. T-1 examples, and the ends of its 95 % interval over tasks; numpy arrays."""

    mean: Float[np.ndarray, "T"]
    low: Float[np.ndarray, "T"]
    high: Float[np.ndarray, "T"]


def curve_scorer(
    learner: Learner,
    family: Family,
    task: Callable[..., Any],
    tasks: int = 128,
    sequences: int = 4,
    chunk: int = 16,
) -> Callable[[Any, Any, PRNGKeyArray], Float[Array, "tasks T"]]:
    """Make the scoring of a learner on numbered tasks, of two compiled programs: one draws episodes, one scores them.

    Args:
        learner: any learner.
        family: the source of episodes.
        task: `(data, index) -> task`, such as `family.seen` or `family.unseen`. Arrays bound by a
            `jax.tree_util.Partial` are inputs of the compiled program, those of a closure are constants in it.
        tasks: number of tasks; they are numbered from 0.
        sequences: sequences per task.
        chunk: tasks scored at the same time. It limits the memory, and does not change the results.

    Returns:
        A function `(theta, data, key) -> scores[tasks, T]`, to be called outside of `jax.jit`. A score is the mean of
        `prediction_score` over the sequences of a task: the accuracy among the classes of the task, or the squared
        error in regression.

    Raises:
        ValueError: learner and family do not fit, or a number is not positive.
    """
    check_signatures(learner, family)
    if min(tasks, sequences, chunk) < 1:
        raise ValueError(f"tasks, sequences and chunk must be at least 1, got {tasks}, {sequences} and {chunk}")

    @jax.jit
    def score(theta: Any, xs: Array, ys: Array, classes: Any, keys: Array) -> Float[Array, "chunk T"]:
        if learner.run is not None:
            logits = learner.run(theta, xs, ys)
        else:
            logits = jax.vmap(lambda x, y, k: predictions(learner, theta, x, y, k))(xs, ys, keys)
        return prediction_score(select_classes(logits, family.signature, classes), ys).mean(1)

    bound, draw = task if isinstance(task, Partial) else Partial(task), _episode_drawer(family, sequences)

    def score_all(theta: Any, data: Any, key: PRNGKeyArray) -> Float[Array, "tasks T"]:
        key_episode, key_learner = jax.random.split(key)
        scores = []
        for first in range(0, tasks, chunk):  # the last chunk is padded; its tasks beyond the last are dropped
            indices = jnp.arange(first, first + chunk, dtype=jnp.int32)
            # The learner of each task has its own key, which does not depend on the chunk.
            scores.append(score(theta, *draw(bound, data, key_episode, key_learner, indices)))
        return jnp.concatenate(scores)[:tasks]

    return score_all


@functools.lru_cache(maxsize=16)
def _episode_drawer(family: Family, sequences: int) -> Callable[..., Any]:
    """A compiled function that draws a chunk of episodes.

    It is a program of its own, kept for the next scorer of the same family: to compile the drawing of episodes takes
    longer than to compile most learners, and several learners are scored on the same ones. To draw them takes little.
    """

    def draw(task: Partial, data: Any, key: Array, key_learner: Array, indices: Array) -> Any:
        def one(index: Array) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, index), sequences)
            drawn = task(data, index)
            classes = None if family.classes is None else family.classes(data, drawn)
            return jax.vmap(lambda k: family.episode(data, drawn, k))(keys), classes

        (xs, ys), classes = jax.vmap(one)(indices)
        if classes is not None:
            classes = rearrange(classes, "n c -> n 1 1 c")
        return xs, ys, classes, jax.vmap(lambda i: jax.random.fold_in(key_learner, i))(indices)

    return jit_quickly(draw)


def summarise(scores: Float[np.ndarray, "tasks T"]) -> Curve:
    """Mean over tasks and its 95 % interval by Student's t (infinite ends for a single task)."""
    return Curve(*mean_interval(scores))


def last_positions(scores: Float[np.ndarray, "tasks T"], count: int = 10) -> tuple[float, float]:
    """Mean score over the last `count` positions, and half the width of its 95 % interval over tasks."""
    per_task = np.asarray(scores, np.float64)[:, -count:].mean(1)
    return float(per_task.mean()), float(half_width(per_task))
