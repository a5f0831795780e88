"""The settings of refinement and of the judgement that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from metalearn.errors import unknown_name
from metalearn.ranges import Decay, NonEmpty, NonNegative, Positive, Seed, Size, Steps
from metalearn_models.losses.refinement.loop import Moment
from metalearn_models.losses.search.population import LossTask

__all__ = ["RefineConfig", "check_settings"]

Gradient = Literal["backprop", "es", "nres", "pes"]
Optimizer = Literal["adam", "sgd"]
Score = Literal["error", "loss"]


@dataclass(frozen=True)
class RefineConfig:
    """How a loss is refined and how it is judged."""

    estimator: Gradient = "backprop"
    """Source of meta-gradients: "backprop" through all inner steps, or evolution strategies: "es" over whole
    trajectories, "nres" or "pes" over windows of them."""
    inner_steps: Steps = 20
    """Steps of training a meta-gradient sees, K. EvoMAL: 1."""
    meta_steps: Steps = 250
    """Updates of theta."""
    learning_rate: Positive = 1e-3
    """Of Adam on theta."""
    trajectories: Size = 1
    """Fresh networks per meta-step and task; antithetic pairs of them for evolution strategies."""
    optimizer: Optimizer = "sgd"
    """Inner optimizer: "sgd" with Nesterov momentum 0.9, EvoMAL's, or "adam", whose first step hardly depends on the
    loss: not for K = 1."""
    inner_learning_rate: Positive = 0.01
    """Its step size."""
    batch: Steps = 128
    """Examples of each training step, and of each judgement of it on validation data."""
    moment: Moment = "every"
    """Validation loss "every" step, or after the "last" step only."""
    sigma: Positive = 0.1
    """Standard deviation of the perturbations of theta, for evolution strategies."""
    window: Steps = 5
    """Inner steps between two updates, for "nres" and "pes"."""
    clip: Positive = 1.0
    """Greatest norm of a meta-gradient; longer ones are shortened to it."""
    candidates: Steps = 5
    """How often theta is judged on the way; divides `meta_steps`."""
    horizon: Steps = 500
    """Steps of the trainings by which theta is judged: as many as it will be used for."""
    judge_learning_rates: Annotated[tuple[Positive, ...], NonEmpty()] = (3e-3, 1e-2, 3e-2)
    """Step sizes of these trainings, by Adam, which does not see the scale of a loss; the best one counts, for each
    task and each theta its own."""
    judge_seeds: Size = 8
    """Fresh networks for each judgement, task and step size; other ones to accept than to choose."""
    score: Score = "error"
    """What is judged, on whole sets: "error", the rate of wrong classes or the squared error; or "loss",
    cross-entropy or squared error."""
    judge_share: Decay = 0.5
    """Share of each task's validation examples, drawn at random, that is kept for judging; the others are for
    meta-gradients. 0: all are for both."""
    margin: NonNegative = 1.0
    """Accepted is what scores better by more than so many standard errors of the paired difference."""
    seed: Seed = 0
    """Of everything random."""


def check_settings(config: RefineConfig, tasks: Sequence[LossTask]) -> None:
    """Refuse settings that do not fit.

    Raises:
        ValueError: no task, or what is out of range; says what was got.
    """
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
