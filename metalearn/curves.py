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
    """Compile the scoring of a learner on numbered tasks.

    Args:
        learner: any learner.
        family: the source of episodes.
        task: `(data, index) -> task`, such as `family.seen` or `family.unseen`. Arrays bound by a
            `jax.tree_util.Partial` are inputs of the compiled program, those of a closure are constants in it.
        tasks: number of tasks; they are numbered from 0.
        sequences: sequences per task.
        chunk: tasks scored at the same time. It limits the memory, and does not change the results.

    Returns:
        A compiled function `(theta, data, key) -> scores[tasks, T]`. A score is the mean of `prediction_score` over the
        sequences of a task: the accuracy among the classes of the task, or the squared error in regression.

    Raises:
        ValueError: learner and family do not fit, or a number is not positive.
    """
    check_signatures(learner, family)
    if min(tasks, sequences, chunk) < 1:
        raise ValueError(f"tasks, sequences and chunk must be at least 1, got {tasks}, {sequences} and {chunk}")

    @jax.jit
    def score(task: Partial, theta: Any, data: Any, key: PRNGKeyArray) -> Float[Array, "tasks T"]:
        key_episode, key_learner = jax.random.split(key)

        def episodes(index: Array) -> tuple[Array, Array]:
            keys = jax.random.split(jax.random.fold_in(key_episode, index), sequences)
            return jax.vmap(lambda k: family.episode(data, task(data, index), k))(keys)

        def score_chunk(indices: Array) -> Array:
            xs, ys = jax.vmap(episodes)(indices)
            if learner.run is not None:
                logits = learner.run(theta, xs, ys)
            else:  # the learner of each task has its own key, which does not depend on the chunk
                keys = jax.vmap(lambda i: jax.random.fold_in(key_learner, i))(indices)
                logits = jax.vmap(lambda x, y, k: predictions(learner, theta, x, y, k))(xs, ys, keys)
            classes = None
            if family.classes is not None:
                of = family.classes
                classes = rearrange(jax.vmap(lambda i: of(data, task(data, i)))(indices), "n c -> n 1 1 c")
            return prediction_score(select_classes(logits, family.signature, classes), ys).mean(1)

        # Padded to whole chunks; the tasks beyond the last are scored and dropped.
        padded = jnp.arange(-(-tasks // chunk) * chunk, dtype=jnp.int32)
        scores = jax.lax.map(score_chunk, rearrange(padded, "(chunks chunk) -> chunks chunk", chunk=chunk))
        return rearrange(scores, "chunks chunk t -> (chunks chunk) t")[:tasks]

    return functools.partial(score, task if isinstance(task, Partial) else Partial(task))


def summarise(scores: Float[np.ndarray, "tasks T"]) -> Curve:
    """Mean over tasks and its 95 % interval by Student's t (infinite ends for a single task)."""
    return Curve(*mean_interval(scores))


def last_positions(scores: Float[np.ndarray, "tasks T"], count: int = 10) -> tuple[float, float]:
    """Mean score over the last `count` positions, and half the width of its 95 % interval over tasks."""
    per_task = np.asarray(scores, np.float64)[:, -count:].mean(1)
    return float(per_task.mean()), float(half_width(per_task))
