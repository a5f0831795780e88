"""The outer optimizer that a configuration names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import optax

from metalearn.ranges import Count, Decay, NonNegative, Positive

__all__ = ["OptimizerConfig", "check_warmup", "outer_optimizer", "rate_at", "with_short_warmup"]

T = TypeVar("T")

RMS = 0.2
"""Root mean square of a full step of Muon over its learning rate, about that of Adam's steps over theirs."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The outer optimizer: Adam (Kingma & Ba 2015, arXiv 1412.6980) with warm-up, decay and clipping, from optax.

    Matrices can be left to Muon (Jordan et al. 2024), which makes their momentum orthogonal.
    """

    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    warmup: Count = 0
    """Outer steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """After the warm-up: constant, falling along a cosine to a hundredth of the peak at the last step, or falling
    linearly to 0."""
    clip: Positive | None = None
    """Clip the global norm of the gradient to this; None: no clipping."""
    b1: Decay = 0.9
    """Decay of the first moment."""
    b2: Decay = 0.999
    """Decay of the second moment."""
    eps: NonNegative = 1e-8
    """Adam's epsilon, outside the root."""
    eps_root: NonNegative = 0.0
    """Adam's epsilon inside the root; the paper's official code has 1e-8, which damps small gradients."""
    weight_decay: NonNegative = 0.0
    """Each step shrinks theta by this times the learning rate, as in AdamW (Loshchilov & Hutter 2019)."""
    matrices: Literal["adam", "muon"] = "adam"
    """What updates the matrices of theta: Adam, as all else, or Muon. With Muon, all else gets Adam with Nesterov's
    momentum."""
    matrix_rate: Positive = 7e-3
    """With matrices "muon": their peak learning rate. The root mean square of a full step is a fifth of it."""

    def to_json(self) -> dict[str, Any]:
        """The JSON form, which is that of before there was Muon if Adam updates the matrices."""
        values = dataclasses.asdict(self)
        if self.matrices == "adam":
            del values["matrices"], values["matrix_rate"]
        return values

    @property
    def knows_the_end(self) -> bool:
        """Whether the learning rate of a step depends on the number of steps of the whole run."""
        return self.schedule != "constant"


def check_warmup(config: OptimizerConfig, steps: int) -> None:
    """Refuse a warm-up that is as long as the run or longer.

    Raises:
        ValueError: names both options.
    """
    if config.warmup and config.warmup >= steps:
        raise ValueError(
            f"--outer-optimizer.warmup must be shorter than the run: it is {config.warmup} and --steps is {steps}. "
            f"Raise --steps, or give --outer-optimizer.warmup {steps // 10}"
        )


def with_short_warmup(config: T, usual: T, steps: int, note: Callable[[str], None]) -> T:
    """The configuration with a tenth of the run as warm-up, where the usual one would not fit into so few steps.

    A warm-up that differs from the usual one was asked for, and stays.

    Args:
        config: of an outer optimizer, a frozen dataclass with the field `warmup`, in outer steps.
        usual: the one that it was made from, of the same class.
        steps: outer steps of the whole run.
        note: called with a sentence if the warm-up is shortened.
    """
    warmup = config.warmup  # type: ignore[attr-defined]
    if warmup != usual.warmup or not 0 < steps <= warmup:  # type: ignore[attr-defined]
        return config
    note(f"the warm-up is {steps // 10} outer steps, since the usual {warmup} do not fit into {steps}")
    return dataclasses.replace(config, warmup=steps // 10)  # type: ignore[type-var]


def rate_at(config: OptimizerConfig, peak: float, steps: int) -> Any:
    """The learning rate: a number, or a function of the outer step.

    Args:
        config: its warm-up and schedule.
        peak: the rate after the warm-up.
        steps: outer steps of the whole run.
    """
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if config.warmup else peak, peak, config.warmup, steps, peak / 100
        )
    if config.schedule == "linear":
        fall = optax.linear_schedule(peak, 0.0, steps - config.warmup)
        rise = optax.linear_schedule(0.0, peak, config.warmup)
        return optax.join_schedules([rise, fall], [config.warmup]) if config.warmup else fall
    return optax.linear_schedule(0.0, peak, config.warmup) if config.warmup else peak


def outer_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Adam, AdamW or Muon beside them, with the warm-up, decay and clipping of the configuration.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    check_warmup(config, steps)
    rate = rate_at(config, config.learning_rate, steps)
    constants: dict[str, Any] = {"eps": config.eps, "eps_root": config.eps_root}
    decay = config.weight_decay
    if config.matrices == "muon":
        inner = optax.contrib.muon(
            rate_at(config, config.matrix_rate, steps),
            consistent_rms=RMS,
            weight_decay=decay,
            eps=config.eps,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_eps_root=config.eps_root,
            adam_weight_decay=decay,
            adam_learning_rate=rate,
        )
    elif decay:
        inner = optax.adamw(rate, config.b1, config.b2, weight_decay=decay, **constants)
    else:
        inner = optax.adam(rate, config.b1, config.b2, **constants)
    return inner if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), inner)
