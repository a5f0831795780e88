"""A curriculum of lengths: only the first steps count in the loss, and their number grows over meta-training.

A curriculum over the number of examples in context, as in Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066. The
steps that do not count yet are computed all the same, so that shapes are constant and one compiled program serves all
lengths. Since no step depends on later ones, this equals meta-training on shorter trajectories, even where steps that
do not count are NaN. The exception is a loop with a parallel `run`, which decides itself whether NaN stays there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from metalearn.gradients.estimator import Estimator
from metalearn.inner import InnerLoop

__all__ = ["linear_growth", "with_curriculum"]


class CountedData(NamedTuple):
    """The data of an inner loop, and the number of steps of a trajectory that count."""

    data: Any
    steps: Int[Array, ""]


def with_curriculum(
    loop: InnerLoop, method: Callable[[InnerLoop], Estimator], counted: Callable[[Array], Array]
) -> Estimator:
    """An estimator of the mean loss over the first steps of a trajectory; their number depends on the outer step.

    Args:
        loop: the inner loop, with a `length`.
        method: `(loop) -> estimator`.
        counted: `(outer_step) -> int`, the number of steps that count, from 1 to the length of the loop; traced.

    Returns:
        An estimator on the data of the loop. Its loss is the mean over the steps that count, its aux over all steps.

    Raises:
        ValueError: the loop has no length.
    """
    if loop.length is None:
        raise ValueError("a curriculum needs an inner loop of fixed length; this one has length=None")
    estimator = method(_weighted(loop, loop.length))

    def init(theta: Any, data: Any, key: Any) -> Any:
        return estimator.init(theta, CountedData(data, counted(jnp.int32(0))), key)

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Array) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, CountedData(data, counted(outer_step)), key, outer_step)

    return estimator._replace(init=init, grad=grad)


def linear_growth(first: int, length: int, steps: int) -> Callable[[Array], Array]:
    """A schedule that grows linearly from `first` at outer step 0 to `length` at `steps`, rounded down, then stays."""

    def counted(outer_step: Array) -> Array:
        return first + (length - first) * jnp.minimum(outer_step, steps) // steps

    return counted


def _weighted(loop: InnerLoop, length: int) -> InnerLoop:
    def counts(t: Array, data: CountedData) -> Array:
        return t < data.steps

    def weigh(losses: Array, t: Array, data: CountedData) -> Array:
        scaled = losses * (length / data.steps)  # the mean over all steps is that over the counted ones
        return jnp.where(counts(t, data), scaled, 0).astype(losses.dtype)

    def init(theta: Any, data: CountedData, key: Any) -> Any:
        return loop.init(theta, data.data, key)

    def step(theta: Any, state: Any, t: Array, key: Any, data: CountedData) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data.data)
        return state, weigh(loss, t, data), aux

    def run(
        theta: Any, states: Any, t0: Array, window: int, keys: Any, data: CountedData
    ) -> tuple[Any, Array, dict[str, Array]]:
        assert loop.run is not None
        states, losses, aux = loop.run(theta, states, t0, window, keys, data.data)
        return states, weigh(losses, t0 + jnp.arange(window), data), aux

    return InnerLoop(init, step, run if loop.run is not None else None, loop.length, counts)
