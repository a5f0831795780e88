"""Judging losses by whole trainings, on validation examples that no meta-gradient has seen.

A loss that is best for few steps may be worse for many: short-horizon bias (Wu, Ren, Liao, Grosse 2018, arXiv
1803.02021). So a refined loss is judged at the horizon of its use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from metalearn.inner import unroll
from metalearn_models.losses.parametric import LearnableLoss
from metalearn_models.losses.refinement.config import RefineConfig
from metalearn_models.losses.refinement.loop import Judge, TaskData, loss_loop
from metalearn_models.losses.search.population import LossTask

__all__ = ["is_better", "judge_at_horizon", "ratio", "split_validation"]

Scores = Float[np.ndarray, "tasks seeds"]


def split_validation(data: TaskData, share: float, key: PRNGKeyArray) -> tuple[TaskData, TaskData]:
    """Divide the validation examples of each task at random; the training examples go to both parts.

    Args:
        data: result of `task_data`.
        share: share of the second part. 0: both parts get all examples.
        key: key of the division.

    Returns:
        Data for meta-gradients, and data for judging.

    Raises:
        ValueError: a task has too few validation examples for the share.
    """
    if share == 0:
        return data, data
    parts: list[tuple[Any, Any]] = []
    for i, (train, (xs, ys)) in enumerate(data):
        kept = round(share * len(ys))
        if not 0 < kept < len(ys):
            raise ValueError(
                f"task {i} has {len(ys)} validation examples, too few to keep a share of {share} for judging: "
                "give it more, or judge on those of the meta-gradients (judge_share=0)"
            )
        order = jax.random.permutation(jax.random.fold_in(key, i), len(ys))
        parts.append(tuple((train, (xs[rows], ys[rows])) for rows in (order[kept:], order[:kept])))  # type: ignore
    return tuple(part[0] for part in parts), tuple(part[1] for part in parts)


def judge_at_horizon(
    learnable: LearnableLoss, tasks: Sequence[LossTask], config: RefineConfig
) -> Callable[[Any, Any, PRNGKeyArray], Float[Array, "tasks seeds"]]:
    """Make a function that trains fresh networks with a loss for `config.horizon` steps of Adam and scores them.

    Args:
        learnable: the loss.
        tasks: networks and data.
        config: settings of the judgement.

    Returns:
        `(theta, task_data(tasks), key) -> scores`, compiled: `config.score` on validation data per task, at its best
        learning rate, and seed. Two calls with the same key train the same initial networks on the same batches.
    """
    last = Judge(None, "last")

    def judge(task: LossTask, theta: Any, data: Any, rate: Array, keys: Key[Array, "S"]) -> Float[Array, "S"]:
        loop = loss_loop(task, learnable, optax.adam(rate), config.horizon, config.batch, last)
        losses, aux = unroll(loop, theta, data, keys, config.horizon)
        return (aux["error"] if config.score == "error" else losses).mean(-1)

    @jax.jit
    def scores(theta: Any, data: Any, key: PRNGKeyArray) -> Float[Array, "tasks seeds"]:
        rates = jnp.asarray(config.judge_learning_rates, jnp.float32)
        rows = []
        for i, (task, own) in enumerate(zip(tasks, data, strict=True)):
            keys = jax.random.split(jax.random.fold_in(key, i), config.judge_seeds)
            by_rate = jax.vmap(lambda r, task=task, own=own, keys=keys: judge(task, theta, own, r, keys))(rates)
            by_rate = jnp.where(jnp.isfinite(by_rate), by_rate, jnp.inf)
            rows.append(by_rate[jnp.argmin(by_rate.mean(-1))])
        return jnp.stack(rows)

    return scores


def ratio(scores: Scores, base: Scores) -> Float[np.ndarray, "seeds"]:
    """Scores relative to the mean of `base` per task, averaged over tasks, so that a noisy task has no more weight."""
    level = base.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = scores / level
    # An error that stays 0, or a training that fails before and after, has the ratio 1; it cannot be divided.
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
