"""What every estimator of a meta-gradient is: two pure functions.

An estimator turns an inner loop into gradients of its expected loss with respect to `theta`. The trajectories of a
batch lie on the leading axis of every leaf of its state, together with their global indices, from which all keys
are derived: the outer loop can split that axis over devices without the estimator knowing, and without
changing a number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

__all__ = ["Estimator", "with_schedule"]


class Estimator(NamedTuple):
    """A source of meta-gradients.

    Attributes:
        init: `(theta, data, key) -> state`; every leaf has the trajectories on its leading axis.
        grad: `(theta, state, data, key, outer_step) -> (gradient, state, metrics)`; the gradient and each scalar in
            `metrics` (always `"loss"`) are means over the trajectories present in `state`.
        batch: number of trajectories, the size of that leading axis.
        finish: `(gradient, metrics) -> (gradient, metrics)`, applied once to the means over all trajectories, on
            however many devices they were: for what is no mean itself, such as a ratio of means.
    """

    init: Callable[..., Any]
    grad: Callable[..., tuple[Any, Any, dict[str, Array]]]
    batch: int
    finish: Callable[..., tuple[Any, dict[str, Array]]] = lambda gradient, metrics: (gradient, metrics)


def with_schedule(estimator: Estimator, schedule: Callable[[Any, Array], Any]) -> Estimator:
    """An estimator whose data follow the outer step: curricula, annealed biases.

    Args:
        estimator: any estimator.
        schedule: `(data, outer_step) -> data`, traced inside the outer step; shapes stay as they are.
    """

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Array) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, schedule(data, outer_step), key, outer_step)

    return estimator._replace(grad=grad)
