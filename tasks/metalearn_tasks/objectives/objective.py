"""What an optimizer optimises: a family of problems, of which a fresh one is drawn for every training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray


class Objective(NamedTuple):
    """Something to minimise, from random initial parameters, by gradients that may be noisy.

    Attributes:
        draw: `(key) -> problem`, what differs between the members of the family and stays during a training run: the
            matrix of a quadratic, a scale of the weights; `()` where the family has one member.
        init: `(problem, key) -> params`.
        loss: `(problem, params, batch) -> scalar`, differentiable in params.
        sample: `(problem, data, key) -> batch`, a fresh random batch; `()` where the gradient is exact. `data` is
            whatever the objective is over, a `Split` or `()`.
    """

    draw: Callable[[PRNGKeyArray], Any]
    init: Callable[[Any, PRNGKeyArray], Any]
    loss: Callable[[Any, Any, Any], Float[Array, ""]]
    sample: Callable[[Any, Any, PRNGKeyArray], Any]


def nothing_drawn(key: PRNGKeyArray) -> tuple[()]:
    """`draw` of a family with one member."""
    del key
    return ()


def exact(problem: Any, data: Any, key: PRNGKeyArray) -> tuple[()]:
    """`sample` of an objective without noise."""
    del problem, data, key
    return ()


def start(objective: Objective, key: PRNGKeyArray) -> tuple[Any, Any]:
    """A problem of the family and initial parameters for it."""
    draw_key, init_key = jax.random.split(key)
    problem = objective.draw(draw_key)
    return problem, objective.init(problem, init_key)
