"""Losses with free parameters: what evolution leaves to be refined, and what refinement asks of a loss.

Members: the formulas of EvoMAL with their coefficients as parameters (here), ML3's small network (`ml3.py`)
and TaylorGLO's polynomial (`taylor_glo.py`). EvoMAL is Raymond, Chen, Xue, Zhang, "Learning Symbolic Model-Agnostic
Loss Functions via Meta-Learning" (2023, arXiv 2209.08907).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from metalearn_models.losses.formulas import number_of_coefficients
from metalearn_models.losses.symbolic_loss import SymbolicLoss

__all__ = ["SPREAD", "LearnableLoss", "free_coefficients", "fresh_coefficients"]

SPREAD = 1e-3
"""Standard deviation of fresh coefficients around their mean, EvoMAL's."""


class LearnableLoss(NamedTuple):
    """A family of losses, one for each theta.

    Attributes:
        init: `(key) -> theta`, where learning begins: a pytree of float arrays.
        apply: `(theta, logits[..., C], labels) -> values[...]`, one a example; shapes as `loss.per_example`.
    """

    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Any, Float[ArrayLike, "... C"], ArrayLike], Float[Array, "..."]]


def free_coefficients(loss: SymbolicLoss) -> LearnableLoss:
    """The coefficients of a formula, beginning at the loss's own.

    Args:
        loss: any formula.

    Returns:
        A learnable loss; theta is one vector, a coefficient for each edge in prefix order.
    """

    def init(key: PRNGKeyArray) -> Float[Array, "E"]:
        del key
        return jnp.asarray(loss.coefficients, jnp.float32)

    return LearnableLoss(init, _applied(loss))


def fresh_coefficients(loss: SymbolicLoss) -> LearnableLoss:
    """The coefficients of a formula, beginning near 1 whatever the loss's own are, as in EvoMAL: 1 + 1e-3 N(0, 1).

    Args:
        loss: any formula.

    Returns:
        A learnable loss; theta as in `free_coefficients`.
    """

    def init(key: PRNGKeyArray) -> Float[Array, "E"]:
        return 1 + SPREAD * jax.random.normal(key, (number_of_coefficients(loss.expr),), jnp.float32)

    return LearnableLoss(init, _applied(loss))


def _applied(loss: SymbolicLoss) -> Callable[[Any, Any, Any], Array]:
    return lambda theta, logits, labels: loss.with_coefficients(theta)(logits, labels)
