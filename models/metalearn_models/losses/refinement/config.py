"""The settings of refinement and of its judgement."""

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
    """How the coefficients of a loss are refined and judged."""

    estimator: Gradient = "backprop"
    """Source of meta-gradients: backprop through all inner steps, or evolution strategies, es over whole trajectories,
    nres and pes over windows of them."""
    inner_steps: Steps = 20
    """Training steps per meta-gradient, K. EvoMAL: 1."""
    meta_steps: Steps = 250
    """Updates of theta."""
    learning_rate: Positive = 1e-3
    """Learning rate of Adam on theta."""
    trajectories: Size = 1
    """Fresh networks per meta-step and task; antithetic pairs of them for evolution strategies."""
    optimizer: Optimizer = "sgd"
    """Inner optimizer: sgd with Nesterov momentum 0.9, as EvoMAL has it, or adam. The first step of adam hardly depends
    on the loss, so adam needs more than one inner step."""
    inner_learning_rate: Positive = 0.01
    """Learning rate of the inner optimizer."""
    batch: Steps = 128
    """Training examples per inner step, and validation examples per judgement of it."""
    moment: Moment = "every"
    """When the validation loss counts: after every step, or after the last one only."""
    sigma: Positive = 0.1
    """Evolution strategies: standard deviation of the perturbations of theta."""
    window: Steps = 5
    """nres and pes: inner steps between two updates."""
    clip: Positive = 1.0
    """Largest norm of a meta-gradient; longer ones are scaled down to it."""
    candidates: Steps = 5
    """Judgements of theta during meta-training; must divide `meta_steps`."""
    horizon: Steps = 500
    """Training steps per judgement of theta: as many as the loss will be used for."""
    judge_learning_rates: Annotated[tuple[Positive, ...], NonEmpty()] = (3e-3, 1e-2, 3e-2)
    """Learning rates of Adam in these trainings; the best one counts, for each task and theta separately."""
    judge_seeds: Size = 8
    """Fresh networks per judgement, task and learning rate. The final acceptance has networks of its own."""
    score: Score = "error"
    """The score of a judgement, over all examples: error, the rate of wrong classes or the squared error; or loss,
    cross-entropy or squared error."""
    judge_share: Decay = 0.5
    """Random share of the validation examples per task that is kept for judging; the others are for meta-gradients.
    0: all are for both."""
    margin: NonNegative = 1.0
    """Refined coefficients are accepted if they score better by more than this many standard errors of the paired
    difference."""
    seed: Seed = 0
    """Seed of everything random."""


def check_settings(config: RefineConfig, tasks: Sequence[LossTask]) -> None:
    """Check the settings of a refinement.

    Raises:
        ValueError: there is no task, or a setting is out of range; names it and what was got.
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
        raise ValueError("judge_learning_rates must have at least one learning rate, got none")
    if not 0 <= config.judge_share < 1:
        raise ValueError(f"judge_share must be at least 0 and less than 1, got {config.judge_share}")
    if config.score not in get_args(Score):
        raise unknown_name("score", config.score, get_args(Score))
