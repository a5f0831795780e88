"""What an optimizer optimises: a family of problems, of which every training run draws a fresh one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["Objective", "draw_nothing", "draw_start", "sample_nothing"]


class Objective(NamedTuple):
    """Something to minimise, from random initial parameters, by gradients that may be noisy.

    Attributes:
        draw: `(key) -> problem`, what differs between the members of the family and stays fixed during a training run,
            such as the matrix of a quadratic or a scale of the weights; `()` if the family has one member.
        init: `(problem, key) -> params`.
        loss: `(problem, params, batch) -> scalar`, differentiable in params.
        sample: `(problem, data, key) -> batch`, a fresh random batch; `()` if the gradient is exact. `data` is what the
            objective is over: a `Split`, or `()`.
    """

    draw: Callable[[PRNGKeyArray], Any]
    init: Callable[[Any, PRNGKeyArray], Any]
    loss: Callable[[Any, Any, Any], Float[Array, ""]]
    sample: Callable[[Any, Any, PRNGKeyArray], Any]


def draw_nothing(key: PRNGKeyArray) -> tuple[()]:
    """Return `()`: `draw` of a family with one member."""
    del key
    return ()


def sample_nothing(problem: Any, data: Any, key: PRNGKeyArray) -> tuple[()]:
    """Return `()`: `sample` of an objective whose gradient is exact."""
    del problem, data, key
    return ()


def draw_start(objective: Objective, key: PRNGKeyArray) -> tuple[Any, Any]:
    """Draw a problem of the family and initial parameters for it."""
    draw_key, init_key = jax.random.split(key)
    problem = objective.draw(draw_key)
    return problem, objective.init(problem, init_key)
