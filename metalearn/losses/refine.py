"""Refinement of a loss: its free parameters are meta-trained, and kept only where they train better networks.

The local search of EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) is the default estimator with one inner
step: differentiate the validation loss after one step of training. What is best for one step may be worse for the
hundreds a network is trained for (short-horizon bias: Wu, Ren, Liao, Grosse 2018, arXiv 1803.02021). So candidates on
the way are judged by whole trainings, on validation examples that no meta-gradient has seen, each task relative to how
it was before; the best one is kept, and it is accepted only if it wins again on networks that had no part in its
choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.gradients import Estimator, backprop, full_es, nres, pes
from metalearn.inner import InnerLoop, unroll
from metalearn.losses.inner import Judge, Moment, TaskData, joint_loop, loss_loop, task_data
from metalearn.losses.parametric import LearnableLoss
from metalearn.losses.population import LossTask
from metalearn.outer import outer
from metalearn.progress import Progress

Gradient = Literal["backprop", "es", "nres", "pes"]
Optimizer = Literal["adam", "sgd"]
Score = Literal["error", "loss"]
Scores = Float[np.ndarray, "tasks seeds"]


@dataclass(frozen=True)
class RefineConfig:
    """How a loss is refined and how it is judged."""

    estimator: Gradient = "backprop"
    """Source of meta-gradients: "backprop" through all inner steps, or evolution strategies: "es" over whole
    trajectories, "nres" or "pes" over windows of them."""
    inner_steps: int = 20
    """Steps of training a meta-gradient sees, K. EvoMAL: 1."""
    meta_steps: int = 250
    """Updates of theta."""
    learning_rate: float = 1e-3
    """Of Adam on theta."""
    trajectories: int = 1
    """Fresh networks per meta-step and task; antithetic pairs of them for evolution strategies."""
    optimizer: Optimizer = "sgd"
    """Inner optimizer: "sgd" with Nesterov momentum 0.9, EvoMAL's, or "adam", whose first step hardly depends on the
    loss: not for K = 1."""
    inner_learning_rate: float = 0.01
    """Its step size."""
    batch: int = 128
    """Examples of each training step, and of each judgement of it on validation data."""
    moment: Moment = "every"
    """Validation loss "every" step, or after the "last" step only."""
    sigma: float = 0.1
    """Standard deviation of the perturbations of theta, for evolution strategies."""
    window: int = 5
    """Inner steps between two updates, for "nres" and "pes"."""
    clip: float = 1.0
    """Greatest norm of a meta-gradient; longer ones are shortened to it."""
    candidates: int = 5
    """How often theta is judged on the way; divides `meta_steps`."""
    horizon: int = 500
    """Steps of the trainings by which theta is judged: as many as it will be used for."""
    judge_learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    """Step sizes of these trainings, by Adam, which does not see the scale of a loss; the best one counts, for each
    task and each theta its own."""
    judge_seeds: int = 8
    """Fresh networks for each judgement, task and step size; other ones to accept than to choose."""
    score: Score = "error"
    """What is judged, on whole sets: "error", the rate of wrong classes or the squared error; or "loss",
    cross-entropy or squared error."""
    judge_share: float = 0.5
    """Share of each task's validation examples, drawn at random, that is kept for judging; the others are for
    meta-gradients. 0: all are for both."""
    margin: float = 1.0
    """Accepted is what scores better by more than so many standard errors of the paired difference."""
    seed: int = 0
    """Of everything random."""


class Candidate(NamedTuple):
    """A theta on the way.

    Attributes:
        step: meta-steps done.
        meta_loss: mean of the meta-loss since the last candidate; NaN for the first.
        scores: of each task, mean over networks at the true horizon; lower is better; inf when a training failed.
        ratio: mean over tasks of the score relative to that of the given parameters; the best candidate has the least.
    """

    step: int
    meta_loss: float
    scores: tuple[float, ...]
    ratio: float


class RefineResult(NamedTuple):
    """What refinement gave.

    Attributes:
        theta: the parameters to use: the best candidate's if accepted, else those given.
        score_before: of the given parameters, mean over tasks and the networks of the acceptance test.
        score_after: of the best candidate, on the same networks.
        history: all candidates, judged on one other set of networks; the first is the given theta.
        accepted: whether the best candidate was validated to be better.
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
    config: RefineConfig = RefineConfig(),
    progress: Progress | None = None,
) -> RefineResult:
    """Meta-train the parameters of a loss on the sum of the tasks' validation losses.

    Args:
        learnable: the loss.
        theta: where to begin, for example `learnable.init(key)`.
        tasks: networks to train and data to judge them on.
        config: see `RefineConfig`.
        progress: told how far it is; nothing is shown when None.

    Returns:
        The parameters to go on with, and how they were found. Meta-gradients that are not finite are skipped;
        meta-training ends early where all of them were, from one candidate to the next.

    Raises:
        ValueError: no task, or a setting that does not fit.
        TypeError: a leaf of theta is no array of floats.
    """
    _check(config, tasks)
    key_meta, key_choice, key_acceptance, key_split = jax.random.split(jax.random.key(config.seed), 4)
    data, unseen = split_validation(task_data(tasks), config.judge_share, key_split)
    judge = judge_at_horizon(learnable, tasks, config)
    estimator = meta_estimator(meta_loop(learnable, tasks, config), config)
    every = config.meta_steps // config.candidates
    tx = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(config.learning_rate))
    # Long unrolls overflow now and then: such a meta-gradient is skipped, and never let through.
    tx = optax.apply_if_finite(tx, max_consecutive_errors=config.meta_steps)
    init, step = outer(estimator, tx, every)
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
    accepted = best is not given and _is_better(after, before, config.margin)
    kept = best if accepted else given
    return RefineResult(kept, float(before.mean()), float(after.mean()), tuple(history), accepted)


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


def meta_loop(learnable: LearnableLoss, tasks: Sequence[LossTask], config: RefineConfig) -> InnerLoop:
    """The inner loop that `refine` differentiates: K steps of all tasks side by side; its data: `task_data(tasks)`."""
    tx = _inner_optimizer(config.optimizer, config.inner_learning_rate)
    judge = Judge(config.batch, config.moment)
    return joint_loop([loss_loop(task, learnable, tx, config.inner_steps, config.batch, judge) for task in tasks])


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


def meta_estimator(loop: InnerLoop, config: RefineConfig) -> Estimator:
    """The source of meta-gradients that `config.estimator` names, for `metalearn.outer.outer`."""
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


def _ratio(scores: Scores, base: Scores) -> Float[np.ndarray, "seeds"]:
    """Mean over tasks of scores relative to the mean of base; so that no task counts for its noise alone."""
    level = base.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = scores / level
    # Where there is nothing to divide by: an error of 0 kept, or a failed training that still fails, is a ratio of 1.
    return np.where((level == scores) | (np.isinf(level) & np.isinf(scores)), 1.0, ratio).mean(0)


def _candidate(step: int, meta_loss: float, scores: Scores, base: Scores) -> Candidate:
    return Candidate(step, meta_loss, tuple(float(x) for x in scores.mean(1)), float(_ratio(scores, base).mean()))


def _is_better(after: Scores, before: Scores, margin: float) -> bool:
    """Whether the paired difference of the ratios is negative by more than `margin` of its standard errors."""
    if not np.isfinite(after).all():
        return False
    if not np.isfinite(before).all():
        return True
    difference = _ratio(before, before) - _ratio(after, before)
    error = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return bool(difference.mean() > margin * error)


def _copy(tree: Any) -> Any:
    return jax.tree.map(lambda a: jnp.array(a, copy=True), tree)  # the outer step consumes its state


def _check(config: RefineConfig, tasks: Sequence[LossTask]) -> None:
    if not tasks:
        raise ValueError("refinement needs at least one task, got none")
    names = ("meta_steps", "trajectories", "batch", "candidates", "horizon", "judge_seeds", "inner_steps")
    for name in (*names, "learning_rate", "inner_learning_rate", "clip"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")
    if config.meta_steps % config.candidates:
        raise ValueError(
            f"candidates must divide meta_steps evenly, got {config.candidates} for {config.meta_steps} meta-steps"
        )
    if not config.judge_learning_rates:
        raise ValueError("judge_learning_rates must have at least one step size, got none")
    if not 0 <= config.judge_share < 1:
        raise ValueError(f"judge_share must be at least 0 and less than 1, got {config.judge_share}")
    if config.score not in get_args(Score):
        raise unknown_name("score", config.score, get_args(Score))
