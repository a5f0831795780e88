"""The outer optimizer that a configuration names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import optax

from metalearn.ranges import Count, Decay, NonNegative, Positive

__all__ = ["OptimizerConfig", "check_warmup", "outer_optimizer"]


@dataclass(frozen=True)
class OptimizerConfig:
    """The outer optimizer: Adam (Kingma & Ba 2015, arXiv 1412.6980) with warm-up, decay and clipping, from optax."""

    learning_rate: Positive = 1e-3
    """Peak learning rate."""
    warmup: Count = 0
    """Outer steps of linear warm-up from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or falling along a cosine to a hundredth of the peak at the last step."""
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


def outer_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Adam, or AdamW, with the warm-up, decay and clipping of the configuration.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    check_warmup(config, steps)
    rate: Any = config.learning_rate
    if config.schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if config.warmup else config.learning_rate,
            config.learning_rate,
            config.warmup,
            steps,
            config.learning_rate / 100,
        )
    elif config.warmup:
        rate = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    constants: dict[str, Any] = {"b1": config.b1, "b2": config.b2, "eps": config.eps, "eps_root": config.eps_root}
    decay = config.weight_decay
    adam = optax.adamw(rate, weight_decay=decay, **constants) if decay else optax.adam(rate, **constants)
    return adam if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), adam)
