"""What a training loop must compute for an optimizer of this folder: the `differentiate` of a `LearnedOptimizer`.

    LearnedOptimizer(init, transform, loss_and_statistics)

`training_loop` and the learners that train a network online then pass the layer statistics on to `update`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature.statistics import value_grad_and_statistics

__all__ = ["loss_and_statistics"]


def loss_and_statistics(
    loss_fn: Callable[[Any], Float[Array, ""]],
) -> Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]:
    """The `Differentiate` of optimizers that read `statistics`, with the empirical Fisher matrix.

    Parameters without statistics are not named here: the optimizer names those that its fallback updates.
    """
    value_grad = value_grad_and_statistics(loss_fn, unknown="ignore")

    def compute(params: Any, key: Any = None) -> tuple[Any, Any, dict[str, Any]]:
        del key
        loss, grads, statistics = value_grad(params)
        return loss, grads, {"statistics": statistics}

    return compute
