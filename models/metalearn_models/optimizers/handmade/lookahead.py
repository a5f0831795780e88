"""Lookahead around SGD and Adam, as functions of their constants alone.

Zhang, Lucas, Hinton and Ba 2019 (arXiv 1907.08610); the algorithm is in `wrappers/lookahead.py`. Defaults are those of
`first_order`, and k = 5 and alpha = 0.5 of the paper.
"""

from __future__ import annotations

import optax

from metalearn_models.optimizers.handmade import first_order
from metalearn_models.optimizers.handmade.first_order import Scalar
from metalearn_models.optimizers.wrappers.lookahead import lookahead

__all__ = ["lookahead_adam", "lookahead_momentum"]


def lookahead_momentum(
    learning_rate: Scalar = 1e-1, momentum: Scalar = 0.9, slow_step_size: Scalar = 0.5, sync_period: int = 5
) -> optax.GradientTransformation:
    """Lookahead around the heavy ball.

    Args:
        learning_rate: of the inner optimizer. A larger one than that of the inner optimizer alone works.
        momentum: of the inner optimizer.
        slow_step_size: alpha, the part of the way that the slow weights follow.
        sync_period: k, inner steps per move of the slow weights.
    """
    return lookahead(first_order.momentum(learning_rate, momentum), sync_period, slow_step_size)


def lookahead_adam(
    learning_rate: Scalar = 1e-3,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    slow_step_size: Scalar = 0.5,
    sync_period: int = 5,
) -> optax.GradientTransformation:
    """Lookahead around Adam.

    Args:
        learning_rate: of the inner optimizer.
        beta1: decay of the momentum.
        beta2: decay of the mean square.
        epsilon: added to the root.
        slow_step_size: alpha, the part of the way that the slow weights follow.
        sync_period: k, inner steps per move of the slow weights.
    """
    return lookahead(first_order.adam(learning_rate, beta1, beta2, epsilon), sync_period, slow_step_size)
