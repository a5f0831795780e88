"""What a training loop must compute for an optimizer of this folder: the `differentiate` of a `LearnedOptimizer`.

    LearnedOptimizer(init, transform, loss_and_statistics)

`training_loop` and the learners that train a network online then pass the layer statistics on to `update`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from metalearn_models.optimizers.curvature.fisher import (
    value_grad_and_exact_statistics,
    value_grad_and_sampled_statistics,
)
from metalearn_models.optimizers.curvature.statistics import value_grad_and_statistics

__all__ = ["loss_and_exact_statistics", "loss_and_sampled_statistics", "loss_and_statistics"]


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


def loss_and_sampled_statistics(
    loss_fn: Callable[[Any], Float[Array, ""]],
) -> Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]:
    """The same with the Fisher matrix of labels drawn from the model.

    The loss function marks its predictions, as objectives of classification do. A loop without keys, such as that of a
    learner, cannot draw.
    """
    value_grad = value_grad_and_sampled_statistics(loss_fn, unknown="ignore")

    def compute(params: Any, key: Any = None) -> tuple[Any, Any, dict[str, Any]]:
        loss, grads, statistics = value_grad(key, params)
        return loss, grads, {"statistics": statistics}

    return compute


def loss_and_exact_statistics(
    loss_fn: Callable[[Any], Float[Array, ""]],
) -> Callable[[Any, Any], tuple[Any, Any, dict[str, Any]]]:
    """The same with the exact Fisher matrix of the model's predictions, which the loss function marks."""
    value_grad = value_grad_and_exact_statistics(loss_fn, unknown="ignore")

    def compute(params: Any, key: Any = None) -> tuple[Any, Any, dict[str, Any]]:
        del key
        loss, grads, statistics = value_grad(params)
        return loss, grads, {"statistics": statistics}

    return compute
