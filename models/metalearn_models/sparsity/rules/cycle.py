"""When connections change, and how many of them: every so many steps, up to an end, a share that may decay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Cycle", "constant", "cosine"]

Anneal = Callable[[Float[Array, ""]], Float[Array, ""]]
"""The factor of alpha, from the share of the time to the end that has passed."""


def cosine(passed: Float[Array, ""]) -> Float[Array, ""]:
    """From 1 at the start to 0 at the end, half a cosine."""
    return (1.0 + jnp.cos(jnp.pi * passed)) / 2.0


def constant(passed: Float[Array, ""]) -> Float[Array, ""]:
    """Always 1."""
    return jnp.ones_like(passed)


_NUMBER = int | float | np.integer | np.floating  # what is checked; a traced number cannot be


@dataclass(frozen=True)
class Cycle:
    """The times at which connections change. The numbers may be traced, except that they are then not checked."""

    end: Any
    """No change at this step or later: T_end of the paper, about three quarters of the training."""
    every: Any = 100
    """Steps between two changes, at least 1: Delta T of the paper."""
    alpha: Any = 0.3
    """Share of a layer's connections that changes at first, in [0, 1]."""
    anneal: Anneal = cosine
    """How the share decays until the end."""
    start: Any = 1
    """No change before this step; step 0 is the first."""

    def __post_init__(self) -> None:
        if isinstance(self.every, _NUMBER) and not self.every >= 1:
            raise ValueError(f"every (Delta T) is at least 1 step, got {self.every}")
        if isinstance(self.start, _NUMBER) and not self.start >= 0:
            raise ValueError(f"start is a step, at least 0, got {self.start}")
        if isinstance(self.alpha, _NUMBER) and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a share of the connections, in [0, 1], got {self.alpha}")
        if isinstance(self.end, _NUMBER) and not self.end >= 0:
            raise ValueError(f"end is a step, at least 0, got {self.end}")
        if isinstance(self.end, _NUMBER) and isinstance(self.start, _NUMBER) and 0 < self.end <= self.start:
            raise ValueError(
                f"end must be after start, got end={self.end} and start={self.start}; end=0 never changes connections"
            )

    def share(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """The share of the connections that changes at a step, whether it is one of the cycle or not."""
        passed = step.astype(jnp.float32) / jnp.maximum(jnp.asarray(self.end, jnp.float32), 1.0)
        return jnp.asarray(self.alpha, jnp.float32) * self.anneal(passed)

    def is_due(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether connections change at a step. It depends on the step alone, so that it stays one under `vmap`."""
        return (step % self.every == 0) & (step >= self.start) & (step < self.end) & (self.share(step) > 0)

    def moving(self, step: Int[Array, ""], mask: Bool[Array, "*S"]) -> Int[Array, ""]:
        """How many connections of a layer move at a step, rounded down; none where nothing is off."""
        on = mask.sum(dtype=jnp.int32)
        moving = (self.share(step) * on.astype(jnp.float32)).astype(jnp.int32)
        return jnp.where(on < mask.size, moving, 0)
