"""Whether a loss trains networks better than it did: whole trainings, on examples that no meta-gradient has seen.

Short-horizon bias (Wu, Ren, Liao, Grosse 2018, arXiv 1803.02021) is why a refined loss is not trusted but judged where
it will be used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.inner import unroll
from metalearn_models.losses.parametric import LearnableLoss
from metalearn_models.losses.refinement.config import RefineConfig
from metalearn_models.losses.refinement.loop import Judge, TaskData, loss_loop
from metalearn_models.losses.search.population import LossTask

__all__ = ["is_better", "judge_at_horizon", "ratio", "split_validation"]

Scores = Float[np.ndarray, "tasks seeds"]


def split_validation(data: TaskData, share: float, key: PRNGKeyArray) -> tuple[TaskData, TaskData]:
    """Divide each task's validation examples at random; the training examples go to both.

    Args:
        data: of `task_data`.
        share: of the second part; 0 gives all examples to both.
        key: what is random.

    Returns:
        Data for meta-gradients, and data for judging.

    Raises:
        ValueError: a task has too few validation examples for that share.
    """
    if share == 0:
        return data, data
    parts: list[tuple[Any, Any]] = []
    for i, (train, (xs, ys)) in enumerate(data):
        kept = round(share * len(ys))
        if not 0 < kept < len(ys):
            raise ValueError(
                f"task {i} has {len(ys)} validation examples, too few to keep a share of {share} for judging: "
                "give it more, or judge on those that meta-gradients see (judge_share=0)"
            )
        order = jax.random.permutation(jax.random.fold_in(key, i), len(ys))
        parts.append(tuple((train, (xs[rows], ys[rows])) for rows in (order[kept:], order[:kept])))  # type: ignore
    return tuple(part[0] for part in parts), tuple(part[1] for part in parts)


def judge_at_horizon(
    learnable: LearnableLoss, tasks: Sequence[LossTask], config: RefineConfig
) -> Callable[[Any, Any, PRNGKeyArray], Float[Array, "tasks seeds"]]:
    """How well a loss trains: fresh networks, `config.horizon` steps of Adam, then `config.score` on validation data.

    Args:
        learnable: the loss.
        tasks: networks and data.
        config: see `RefineConfig`.

    Returns:
        `(theta, task_data(tasks), key) -> scores`, compiled: of each task at its best step size, of each seed. Two
        calls with one key train the same initial networks on the same batches.
    """
    last = Judge(None, "last")

    def judged(task: LossTask, theta: Any, data: Any, rate: Array, keys: PRNGKeyArray) -> Float[Array, "S"]:
        loop = loss_loop(task, learnable, optax.adam(rate), config.horizon, config.batch, last)
        losses, aux = unroll(loop, theta, data, keys, config.horizon)
        return (aux["error"] if config.score == "error" else losses).mean(-1)

    @jax.jit
    def scores(theta: Any, data: Any, key: PRNGKeyArray) -> Float[Array, "tasks seeds"]:
        rates = jnp.asarray(config.judge_learning_rates, jnp.float32)
        rows = []
        for i, (task, own) in enumerate(zip(tasks, data, strict=True)):
            keys = jax.random.split(jax.random.fold_in(key, i), config.judge_seeds)
            by_rate = jax.vmap(lambda r, task=task, own=own, keys=keys: judged(task, theta, own, r, keys))(rates)
            by_rate = jnp.where(jnp.isfinite(by_rate), by_rate, jnp.inf)
            rows.append(by_rate[jnp.argmin(by_rate.mean(-1))])
        return jnp.stack(rows)

    return scores


def ratio(scores: Scores, base: Scores) -> Float[np.ndarray, "seeds"]:
    """Mean over tasks of scores relative to the mean of base; so that no task counts for its noise alone."""
    level = base.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = scores / level
    # Where there is nothing to divide by: an error of 0 kept, or a failed training that still fails, is a ratio of 1.
    return np.where((level == scores) | (np.isinf(level) & np.isinf(scores)), 1.0, ratio).mean(0)


def is_better(after: Scores, before: Scores, margin: float) -> bool:
    """Whether the paired difference of the ratios is negative by more than `margin` of its standard errors."""
    if not np.isfinite(after).all():
        return False
    if not np.isfinite(before).all():
        return True
    difference = ratio(before, before) - ratio(after, before)
    error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return bool(difference.mean() > margin * error)
