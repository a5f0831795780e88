"""Backpropagation through the inner loop: the whole of it, or windows of it.

Full: Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492 (there with reversible dynamics; here with optional
rematerialisation). Truncated: Williams & Peng 1990, "An efficient gradient-based algorithm for on-line training of
recurrent network trajectories"; its gradient is biased, since a window does not see what came before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from metalearn.gradients.estimator import Estimator
from metalearn.inner import InnerLoop, scan_steps, start, unroll


def backprop(loop: InnerLoop, batch: int, length: int | None = None, remat: bool = False) -> Estimator:
    """Exact gradients of the mean loss over whole trajectories.

    Args:
        loop: the inner loop; its parallel `run` is used where it has one and `length` is the loop's own.
        batch: trajectories an outer step, all of them new each time.
        length: steps of a trajectory; by default the loop's own.
        remat: keep one state a step instead of all intermediates; see `metalearn.inner.scan_steps`.

    Returns:
        An estimator. Its metrics are the mean `loss` over trajectories and steps and, for each aux of the loop, its
        mean under the aux's own name.

    Raises:
        ValueError: when neither the loop nor the caller gives a length, or a number is not positive.
    """
    steps = loop.length if length is None else length
    if steps is None:
        raise ValueError("this inner loop has no length of its own: give backprop(..., length=...)")
    _check_positive(batch=batch, length=steps)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> Int[Array, "B"]:
        del theta, data, key
        return jnp.arange(batch, dtype=jnp.int32)

    def grad(
        theta: Any, state: Int[Array, "B"], data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, Int[Array, "B"], dict[str, Array]]:
        del outer_step
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(state)

        def objective(theta: Any) -> tuple[Array, dict[str, Array]]:
            losses, aux = unroll(loop, theta, data, keys, steps, remat)
            return losses.mean(), jax.tree.map(jnp.mean, aux)

        (loss, aux), gradient = jax.value_and_grad(objective, has_aux=True)(theta)
        return gradient, state, {"loss": loss, **aux}

    return Estimator(init, grad, batch)


class TruncatedState(NamedTuple):
    """Trajectories in the middle of their unroll, on the leading axis."""

    number: Int[Array, "B"]
    key: PRNGKeyArray
    inner: Any
    t: Int[Array, "B"]
    length: Int[Array, "B"]


def truncated_backprop(loop: InnerLoop, batch: int, window: int, length: int | None = None) -> Estimator:
    """Gradients of one window at a time; the inner state is carried over, its gradient is not.

    Trajectories start staggered: the first length of each is drawn uniformly from the multiples of the window up to
    `length`, so that at any time all parts of a trajectory are being learned from. A trajectory whose length is
    reached starts afresh at the next window; steps past its length are masked.

    Args:
        loop: the inner loop; stepped one step at a time.
        batch: trajectories on the way at any time.
        window: steps an outer step; static.
        length: steps of a whole trajectory; by default the loop's own.

    Returns:
        An estimator, its metrics as in `backprop`, over the steps of the window.

    Raises:
        ValueError: when there is no length, a number is not positive, or the window is longer than the trajectory.
    """
    steps = loop.length if length is None else length
    if steps is None:
        raise ValueError("this inner loop has no length of its own: give truncated_backprop(..., length=...)")
    _check_positive(batch=batch, window=window, length=steps)
    if window > steps:
        raise ValueError(f"the window of {window} steps is longer than the trajectory of {steps}: make it shorter")

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> TruncatedState:
        index = jnp.arange(batch, dtype=jnp.int32)
        key, key_stagger = jax.random.split(key)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        windows = -(-steps // window)
        stagger = jax.random.randint(key_stagger, (batch,), 1, windows + 1)
        inner = jax.vmap(lambda k: start(loop, theta, data, k))(keys)
        return TruncatedState(index, keys, inner, jnp.zeros_like(index), jnp.minimum(stagger * window, steps))

    def one(theta: Any, state: TruncatedState, data: Any) -> tuple[Array, tuple[Any, Array, Any]]:
        inner, losses, aux = scan_steps(loop, theta, state.inner, state.t, window, state.key, data)
        inside = (state.t + jnp.arange(window, dtype=jnp.int32) < state.length).astype(losses.dtype)
        return (losses * inside).sum(), (inner, inside.sum(), jax.tree.map(lambda a: (a * inside).sum(), aux))

    def grad(
        theta: Any, state: TruncatedState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, TruncatedState, dict[str, Array]]:
        del outer_step
        fresh_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(state.number)
        fresh = jax.vmap(lambda k: start(loop, jax.lax.stop_gradient(theta), data, k))(fresh_keys)
        done = state.t >= state.length

        def restart(new: Array, old: Array) -> Array:
            return jax.vmap(jnp.where)(done, new, old)

        state = TruncatedState(
            state.number,
            restart(fresh_keys, state.key),
            jax.tree.map(restart, fresh, state.inner),
            jnp.where(done, 0, state.t),
            jnp.where(done, jnp.int32(steps), state.length),
        )

        def objective(theta: Any) -> tuple[Array, tuple[Any, Array, Any]]:
            totals, (inner, counts, aux) = jax.vmap(lambda s: one(theta, s, data))(state)
            # The mean over each trajectory's own valid steps: a short last window weighs as much as a whole one.
            per_step = 1.0 / jnp.maximum(counts, 1.0)
            means = jax.tree.map(lambda a: (a * per_step).mean(), aux)
            return (totals * per_step).mean(), (inner, counts, means)

        (loss, (inner, _, aux)), gradient = jax.value_and_grad(objective, has_aux=True)(theta)
        return gradient, state._replace(inner=inner, t=state.t + window), {"loss": loss, **aux}

    return Estimator(init, grad, batch)


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
