"""Refinement of a loss: its free parameters are meta-trained, and kept only if they train better networks.

The local search of EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) is the default estimator with one inner
step: it differentiates the validation loss after one training step. What is best for one step may be worse for hundreds
(short-horizon bias: Wu, Ren, Liao, Grosse 2018, arXiv 1803.02021). So candidates are judged by whole trainings, on
validation examples that no meta-gradient has seen, each task relative to its score before refinement. The best one is
accepted only if it wins again on networks that had no part in its choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.errors import unknown_name
from metalearn.gradients import Estimator, backprop, full_es, nres, pes
from metalearn.inner import InnerLoop
from metalearn.outer import outer_loop
from metalearn.runs.progress import Progress
from metalearn_models.losses.parametric import LearnableLoss
from metalearn_models.losses.refinement.config import Gradient, Optimizer, RefineConfig, check_settings
from metalearn_models.losses.refinement.judging import Scores, is_better, judge_at_horizon, ratio, split_validation
from metalearn_models.losses.refinement.loop import Judge, joint_loop, loss_loop, task_data
from metalearn_models.losses.search.population import LossTask

__all__ = ["Candidate", "RefineResult", "meta_estimator", "meta_loop", "refine"]


class Candidate(NamedTuple):
    """A theta during refinement.

    Attributes:
        step: meta-steps until then.
        meta_loss: mean of the meta-loss since the last candidate; NaN for the first.
        scores: per task, mean over networks at the true horizon; lower is better, infinity if a training failed.
        ratio: mean over tasks of the score relative to that of the given parameters; the best candidate has the least.
    """

    step: int
    meta_loss: float
    scores: tuple[float, ...]
    ratio: float


class RefineResult(NamedTuple):
    """The outcome of a refinement.

    Attributes:
        theta: the parameters to use: those of the best candidate if it was accepted, otherwise the given ones.
        score_before: score of the given parameters, mean over tasks and the networks of the acceptance test.
        score_after: score of the best candidate on the same networks.
        history: all candidates, judged on other networks; the first is the given theta.
        accepted: whether the best candidate won the acceptance test.
    """

    theta: Any
    score_before: float
    score_after: float
    history: tuple[Candidate, ...]
    accepted: bool


def refine(
    learnable: LearnableLoss,
    theta: Any,
    tasks: Sequence[LossTask],
    config: RefineConfig = RefineConfig(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> RefineResult:
    """Meta-train the parameters of a loss on the sum of the tasks' validation losses.

    Args:
        learnable: the loss.
        theta: initial parameters, for example `learnable.init(key)`.
        tasks: networks to train, and data to judge them on.
        config: settings of refinement.
        progress: shows how far refinement is. None: nothing is shown.

    Returns:
        The parameters to use, and the history. Meta-gradients that are not finite are skipped; if all of them between
        two candidates are, meta-training ends early.

    Raises:
        ValueError: no task, or a setting out of range.
        TypeError: a leaf of theta is not an array of floats.
    """
    check_settings(config, tasks)
    key_meta, key_choice, key_acceptance, key_split = jax.random.split(jax.random.key(config.seed), 4)
    data, unseen = split_validation(task_data(tasks), config.judge_share, key_split)
    judge = judge_at_horizon(learnable, tasks, config)
    estimator = meta_estimator(meta_loop(learnable, tasks, config), config)
    every = config.meta_steps // config.candidates
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(config.learning_rate))
    # Long unrolls sometimes overflow; such a meta-gradient is skipped.
    tx = optax.apply_if_finite(tx, max_consecutive_errors=config.meta_steps)
    init, step = outer_loop(estimator, tx, every)
    state = init(theta, data, key_meta)

    given = best = _copy(state.theta)
    base = np.asarray(judge(given, unseen, key_choice), np.float64)
    history = [_candidate(0, float("nan"), base, base)]
    if progress is not None:
        progress.start(0, config.meta_steps)
    try:
        for done in range(every, config.meta_steps + 1, every):
            state, metrics = step(state, data)
            finite = np.isfinite(metrics["loss"]) & np.isfinite(metrics["grad_norm"])
            if progress is not None and not finite.all():
                progress.note(f"{(~finite).sum()} of {every} meta-gradients up to step {done} were not finite: skipped")
            if not finite.any():
                history.append(_candidate(done, float("nan"), np.full_like(base, np.inf), base))
                break
            meta_loss = float(np.asarray(metrics["loss"])[finite].mean())
            theta = _copy(state.theta)
            candidate = _candidate(done, meta_loss, np.asarray(judge(theta, unseen, key_choice), np.float64), base)
            if candidate.ratio < min(past.ratio for past in history):
                best = theta
            history.append(candidate)
            if progress is not None:
                progress.update(done, {"loss": meta_loss, "score": float(np.mean(candidate.scores))})
        before, after = (np.asarray(judge(t, unseen, key_acceptance), np.float64) for t in (given, best))
    finally:
        if progress is not None:
            progress.close()
    accepted = best is not given and is_better(after, before, config.margin)
    kept = best if accepted else given
    return RefineResult(kept, float(before.mean()), float(after.mean()), tuple(history), accepted)


def meta_loop(learnable: LearnableLoss, tasks: Sequence[LossTask], config: RefineConfig) -> InnerLoop:
    """The inner loop that `refine` differentiates: K steps of all tasks side by side, over `task_data(tasks)`."""
    tx = _inner_optimizer(config.optimizer, config.inner_learning_rate)
    judge = Judge(config.batch, config.moment)
    return joint_loop([loss_loop(task, learnable, tx, config.inner_steps, config.batch, judge) for task in tasks])


def meta_estimator(loop: InnerLoop, config: RefineConfig) -> Estimator:
    """The estimator that `config.estimator` names, for `metalearn.outer.outer_loop`."""
    match config.estimator:
        case "backprop":
            return backprop(loop, config.trajectories, remat=config.inner_steps > 1)
        case "es":
            return full_es(loop, config.sigma, config.trajectories)
        case "nres":
            return nres(loop, config.sigma, config.trajectories, config.window)
        case "pes":
            return pes(loop, config.sigma, config.trajectories, config.window)
    raise unknown_name("estimator", config.estimator, get_args(Gradient))


def _inner_optimizer(name: Optimizer, learning_rate: float) -> optax.GradientTransformation:
    match name:
        case "sgd":
            return optax.sgd(learning_rate, momentum=0.9, nesterov=True)
        case "adam":
            return optax.adam(learning_rate, eps_root=1e-8)  # without it the square root has no slope at 0
    raise unknown_name("optimizer", name, get_args(Optimizer))


def _candidate(step: int, meta_loss: float, scores: Scores, base: Scores) -> Candidate:
    return Candidate(step, meta_loss, tuple(float(x) for x in scores.mean(1)), float(ratio(scores, base).mean()))


def _copy(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.array(a, copy=True), tree)  # the outer step donates its state
