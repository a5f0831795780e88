"""Backpropagation through the inner loop: through whole trajectories, or through windows of them.

Full: Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492 (there with reversible dynamics, here with optional
rematerialisation). Truncated: Williams & Peng 1990, "An efficient gradient-based algorithm for on-line training of
recurrent network trajectories"; its gradient is biased, since a window does not see the influence of theta before it.

Shapes: B trajectories, T steps of a trajectory, W steps of a window.
"""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from metalearn.gradients._checks import check_loop
from metalearn.gradients.estimator import Estimator, with_typed_keys
from metalearn.gradients.windows import (
    Clock,
    Horizon,
    ends_with_windows,
    initial_clock,
    make_windows,
    masked_mean,
    placeholder_states,
    replace_ended,
    restart_ended,
    valid_steps,
    without_derivatives_beyond,
)
from metalearn.inner import InnerLoop, scan_steps, start, unroll

__all__ = ["TruncatedState", "backprop", "truncated_backprop"]


def backprop(loop: InnerLoop, batch: int, length: int | None = None, remat: bool = False) -> Estimator:
    """Exact gradients of the mean loss over whole trajectories.

    Args:
        loop: the inner loop; its parallel `run` is used if there is one and `length` is the loop's own.
        batch: trajectories per outer step, B, new ones each time.
        length: steps of a trajectory, T; None: `loop.length`.
        remat: keep one state per step instead of all intermediates; see `metalearn.inner.scan_steps`.

    Returns:
        An estimator. Its metrics are the mean `loss` over trajectories and steps, and the mean of each aux of the loop
        under its own name.

    Raises:
        ValueError: there is no length, or a number is not positive.
    """
    steps = loop.length if length is None else length
    if steps is None:
        raise ValueError("this inner loop has length=None: pass length=... to backprop")
    _check_positive(batch=batch, length=steps)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> Int[Array, "B"]:
        check_loop(loop, theta, data, key)
        return jnp.arange(batch, dtype=jnp.int32)

    def grad(
        theta: Any, state: Int[Array, "B"], data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, Int[Array, "B"], dict[str, Array]]:
        del outer_step
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(state)

        def objective(theta: Any) -> tuple[Array, dict[str, Array]]:
            losses, aux = unroll(without_derivatives_beyond(loop, None), theta, data, keys, steps, remat)
            return losses.mean(), jax.tree.map(jnp.mean, aux)

        (loss, aux), gradient = jax.value_and_grad(objective, has_aux=True)(theta)
        return gradient, state, {"loss": loss, **aux}

    return with_typed_keys(Estimator(init, grad, batch))


class TruncatedState(NamedTuple):
    """Trajectories in the middle of their unroll, on the leading axis.

    Attributes:
        clock: where each trajectory stands.
        inner: states [B, ...].
    """

    clock: Clock
    inner: Any


def truncated_backprop(
    loop: InnerLoop, batch: int, window: int, horizon: SupportsIndex | Horizon | None = None, stagger: bool = True
) -> Estimator:
    """Gradients of one window at a time; the inner state is carried over, its derivative is not.

    Args:
        loop: the inner loop; its `step` is used.
        batch: trajectories under way at any time, B.
        window: steps per outer step, W; static.
        horizon: steps of a whole trajectory, or a schedule; None: `loop.length`.
        stagger: spread the first lengths over the multiples of the window, so that at any time all parts of a
            trajectory are learned from.

    Returns:
        An estimator. Its metrics are those of `backprop`, over the steps of the window. A trajectory that has reached
        its length is replaced by a new one at the next window; steps beyond the length are masked. The gradient is that
        of the sum of the losses divided by W, so that the windows of a trajectory add up to its loss.

    Raises:
        ValueError: there is no length, a number is not positive, or the window is longer than the trajectory.
    """
    _check_positive(batch=batch)
    cut = make_windows(loop, window, horizon, stagger)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TruncatedState:
        return TruncatedState(
            initial_clock(batch, key), placeholder_states(check_loop(loop, theta, data, key), (batch,), key)
        )

    def grad(
        theta: Any, state: TruncatedState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, TruncatedState, dict[str, Array]]:
        done, clock = restart_ended(cut, state.clock, key, outer_step)
        begin = jax.vmap(lambda key, length: start(loop, theta, data, key, length))
        inner = replace_ended(done, lambda: begin(clock.key, clock.length), state.inner)
        valid = valid_steps(cut, clock)

        def objective(theta: Any) -> tuple[Array, tuple[Any, Any]]:
            def one(inner: Any, t: Array, length: Array, key: PRNGKeyArray) -> tuple[Any, Array, dict[str, Array]]:
                masked = without_derivatives_beyond(loop, None if ends_with_windows(cut) else length)
                return scan_steps(masked, theta, inner, t, window, key, data)

            after, losses, aux = jax.vmap(one)(inner, clock.t, clock.length, clock.key)
            means = {name: masked_mean(value, valid).mean() for name, value in {"loss": losses, **aux}.items()}
            return jnp.where(valid, losses, 0).sum() / losses.size, (after, means)

        gradient, (after, means) = jax.grad(objective, has_aux=True)(theta)
        return gradient, TruncatedState(clock._replace(t=clock.t + window), after), means

    return with_typed_keys(Estimator(init, grad, batch))


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
