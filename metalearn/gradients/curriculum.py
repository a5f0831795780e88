"""Short trajectories first: only the first steps count in the loss, and over meta-training more and more of them.

A curriculum over the number of examples in context, as Garg, Tsipras, Liang, Valiant 2022, arXiv 2208.01066, grow it.
What has not counted yet is computed all the same, so shapes stay as they are and one compiled program does for all
lengths. Where no step depends on later ones, as in every inner loop, this is meta-training on shorter trajectories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from metalearn.gradients.estimator import Estimator
from metalearn.inner import InnerLoop

__all__ = ["linear_growth", "with_curriculum"]


class Counted(NamedTuple):
    """Data of an inner loop, and how many steps of a trajectory count."""

    data: Any
    steps: Int[Array, ""]


def with_curriculum(
    loop: InnerLoop, method: Callable[[InnerLoop], Estimator], counted: Callable[[Array], Array]
) -> Estimator:
    """An estimator of the mean loss over the first steps of a trajectory, their number following the outer step.

    Args:
        loop: the inner loop, of a length of its own.
        method: `(loop) -> estimator`.
        counted: `(outer_step) -> number`, of steps that count, from 1 to the loop's length; traced.

    Returns:
        An estimator on the loop's own data. Its loss is the mean over the steps that count, its aux are over all steps.

    Raises:
        ValueError: a loop without a length.
    """
    if loop.length is None:
        raise ValueError("this inner loop has no length of its own, so no part of its steps can be said to count")
    estimator = method(_weighted(loop, loop.length))

    def init(theta: Any, data: Any, key: Any) -> Any:
        return estimator.init(theta, Counted(data, counted(jnp.int32(0))), key)

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Array) -> tuple[Any, Any, dict[str, Array]]:
        return estimator.grad(theta, state, Counted(data, counted(outer_step)), key, outer_step)

    return estimator._replace(init=init, grad=grad)


def linear_growth(first: int, length: int, steps: int) -> Callable[[Array], Array]:
    """From `first` steps that count at outer step 0 to `length` at outer step `steps` and after, rounded down."""

    def counted(outer_step: Array) -> Array:
        return first + (length - first) * jnp.minimum(outer_step, steps) // steps

    return counted


def _weighted(loop: InnerLoop, length: int) -> InnerLoop:
    def weights(t: Array, counted: Array) -> Array:
        return jnp.where(t < counted, length / counted, 0.0)  # means over all steps are then means over those counted

    def init(theta: Any, data: Counted, key: Any) -> Any:
        return loop.init(theta, data.data, key)

    def step(theta: Any, state: Any, t: Array, key: Any, data: Counted) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data.data)
        return state, (loss * weights(t, data.steps)).astype(loss.dtype), aux

    def run(
        theta: Any, states: Any, t0: Array, window: int, keys: Any, data: Counted
    ) -> tuple[Any, Array, dict[str, Array]]:
        assert loop.run is not None
        states, losses, aux = loop.run(theta, states, t0, window, keys, data.data)
        return states, (losses * weights(t0 + jnp.arange(window), data.steps)[None]).astype(losses.dtype), aux

    return InnerLoop(init, step, run if loop.run is not None else None, loop.length)
