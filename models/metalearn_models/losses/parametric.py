"""Losses with free parameters, which refinement meta-trains.

There are three kinds: formulas with their coefficients as parameters (here), the small network of ML3 (`ml3.py`) and
the polynomial of TaylorGLO (`taylor_glo.py`). The formulas are those of EvoMAL: Raymond, Chen, Xue, Zhang, "Learning
Symbolic Model-Agnostic Loss Functions via Meta-Learning" (2023, arXiv 2209.08907).
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
"""Standard deviation of fresh coefficients around 1, as in EvoMAL."""


class LearnableLoss(NamedTuple):
    """A loss with parameters theta.

    Attributes:
        init: `(key) -> theta`, initial parameters: a pytree of float arrays.
        apply: `(theta, logits[..., C], labels) -> values[...]`, one per example, with the shapes of
            `elementwise.per_example`.
    """

    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Any, Float[ArrayLike, "... C"], ArrayLike], Float[Array, "..."]]


def free_coefficients(loss: SymbolicLoss) -> LearnableLoss:
    """A formula with its coefficients as theta, which start at the coefficients of the loss.

    Args:
        loss: any formula.

    Returns:
        A learnable loss; theta is a vector of one coefficient per edge, in prefix order.
    """

    def init(key: PRNGKeyArray) -> Float[Array, "E"]:
        del key
        return jnp.asarray(loss.coefficients, jnp.float32)

    return LearnableLoss(init, _make_apply(loss))


def fresh_coefficients(loss: SymbolicLoss) -> LearnableLoss:
    """A formula with its coefficients as theta, which start at 1 + 1e-3 N(0, 1) as in EvoMAL.

    Args:
        loss: any formula.

    Returns:
        A learnable loss; theta as in `free_coefficients`.
    """

    def init(key: PRNGKeyArray) -> Float[Array, "E"]:
        return 1 + SPREAD * jax.random.normal(key, (number_of_coefficients(loss.expr),), jnp.float32)

    return LearnableLoss(init, _make_apply(loss))


def _make_apply(loss: SymbolicLoss) -> Callable[[Any, Any, Any], Array]:
    return lambda theta, logits, labels: loss.with_coefficients(theta)(logits, labels)
