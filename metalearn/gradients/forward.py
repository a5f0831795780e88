"""Forward-mode meta-gradients: tangents are carried along with the trajectory, and nothing is stored.

Real-time recurrent learning: Williams & Zipser 1989. Random directions: Silver et al. 2021 (DODGE, "Learning by
directional gradient descent") and Baydin et al. 2022, "Gradients without backpropagation", arXiv 2202.08587.

One loop serves both: `jax.jvp` pushes the derivative of the state along each of D directions in theta-space through
every step. With all P unit vectors as directions the gradient is exact, and the memory is P times that of a state. With
random normal directions, one set per trajectory, it is unbiased, with the variance of NRES as its sigma goes to 0.

Shapes: B trajectories, D directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from metalearn.gradients._checks import check_loop
from metalearn.gradients.estimator import Estimator, with_typed_keys
from metalearn.gradients.noise import dense
from metalearn.gradients.windows import (
    Clock,
    Horizon,
    Windows,
    initial_clock,
    make_windows,
    masked_mean,
    placeholder_states,
    replace_ended,
    restart_ended,
    valid_steps,
)
from metalearn.inner import InnerLoop, scan_steps, start

__all__ = ["ForwardState", "dodge", "rtrl"]


class ForwardState(NamedTuple):
    """Trajectories, and their derivatives along the directions.

    Attributes:
        clock: where each trajectory stands.
        inner: states [B, ...].
        tangents: the derivative of each float leaf of the state, [B, D, ...].
    """

    clock: Clock
    inner: Any
    tangents: list[Array]


def rtrl(
    loop: InnerLoop, batch: int, window: int, horizon: SupportsIndex | Horizon | None = None, *, stagger: bool = True
) -> Estimator:
    """Exact online gradients for a few meta-parameters: one state and P tangents per trajectory.

    Args:
        loop: the inner loop; differentiable.
        batch: trajectories under way at any time, B.
        window: steps per outer step; static.
        horizon: steps of a trajectory, or a schedule; None: `loop.length`.
        stagger: spread the first lengths over the multiples of the window.

    Returns:
        An estimator. Its gradient is that of the mean loss per step, its metrics are those of `backprop`.

    Raises:
        ValueError: a number is not positive, there is no horizon, or the window is longer than the trajectory.
    """

    def directions(theta: Any, key: PRNGKeyArray) -> Any:
        del key
        leaves, tree = jax.tree.flatten(theta)
        sizes = [leaf.size for leaf in leaves]
        basis, at = [], 0
        for leaf, size in zip(leaves, sizes, strict=True):
            rows = jnp.eye(sum(sizes), size, -at, dtype=leaf.dtype)
            basis.append(rows.reshape(sum(sizes), *leaf.shape))
            at += size
        return jax.tree.unflatten(tree, basis)

    def total(u: Any, slopes: Array) -> Any:
        return jax.tree.map(lambda a: jnp.tensordot(slopes.astype(a.dtype), a, 1), u)

    return _forward(loop, batch, make_windows(loop, window, horizon, stagger), directions, total)


def dodge(
    loop: InnerLoop,
    batch: int,
    window: int,
    horizon: SupportsIndex | Horizon | None = None,
    *,
    directions: int = 1,
    stagger: bool = True,
) -> Estimator:
    """Online gradients along random directions, drawn once per trajectory.

    Args:
        loop: the inner loop; differentiable.
        batch: trajectories under way at any time, B.
        window: steps per outer step; static.
        horizon: steps of a trajectory, or a schedule; None: `loop.length`.
        directions: random directions per trajectory, D; the estimate is the mean over them.
        stagger: spread the first lengths over the multiples of the window.

    Returns:
        An estimator; see `rtrl`.

    Raises:
        ValueError: as `rtrl`, or `directions` is not positive.
    """
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")

    def draw(theta: Any, key: PRNGKeyArray) -> Any:
        return jax.vmap(lambda k: dense.draw(theta, k))(jax.random.split(key, directions))

    return _forward(loop, batch, make_windows(loop, window, horizon, stagger), draw, dense.mean)


def _forward(
    loop: InnerLoop,
    batch: int,
    cut: Windows,
    directions: Callable[[Any, PRNGKeyArray], Any],
    combine: Callable[[Any, Array], Any],
) -> Estimator:
    """The loop of both estimators: `directions(theta, key) -> u[D]`, `combine(u[D], slopes[D]) -> gradient`."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")

    def tangents_of(theta: Any, key: PRNGKeyArray, f: Callable[..., Any], state: Any, tangents: list[Array]) -> Any:
        """Evaluate `f(theta, state) -> (loss, state, rest)` and its derivatives along all directions.

        Only the float leaves of a state have derivatives; keys and counters are passed on.
        """
        u = directions(theta, key)
        leaves, tree = jax.tree.flatten(state)
        moving = [i for i, a in enumerate(leaves) if jnp.issubdtype(a.dtype, jnp.floating)]

        def g(theta: Any, floats: list[Array]) -> Any:
            merged = list(leaves)
            for i, a in zip(moving, floats, strict=True):
                merged[i] = a
            value, after, rest = f(theta, jax.tree.unflatten(tree, merged))
            return (value, _floats(after)), (after, rest)

        def along(u: Any, c: list[Array]) -> Any:
            _, slopes, rest = jax.jvp(g, (theta, [leaves[i] for i in moving]), (u, c), has_aux=True)
            return slopes, rest

        (slopes, tangents), rest = jax.vmap(along, out_axes=((0, 0), None))(u, tangents)
        return u, slopes, tangents, rest

    def key_of_directions(key: PRNGKeyArray) -> PRNGKeyArray:
        return jax.random.split(key, 2)[0]

    def key_of_trajectory(key: PRNGKeyArray) -> PRNGKeyArray:
        return jax.random.split(key, 2)[1]

    def number_of_directions(theta: Any, key: PRNGKeyArray) -> int:
        return jax.tree.leaves(jax.eval_shape(directions, theta, key))[0].shape[0]

    def begin(theta: Any, data: Any, key: PRNGKeyArray, length: Array) -> Any:
        def f(theta: Any, nothing: Any) -> Any:
            del nothing
            return jnp.zeros(()), start(loop, theta, data, key_of_trajectory(key), length), ()

        _, _, tangents, (state, _) = tangents_of(theta, key_of_directions(key), f, (), [])
        return state, tangents

    def advance(theta: Any, state: Any, tangents: Any, t: Array, key: PRNGKeyArray, valid: Array, data: Any) -> Any:
        def f(theta: Any, state: Any) -> Any:
            after, losses, aux = scan_steps(loop, theta, state, t, cut.steps, key_of_trajectory(key), data)
            return jnp.where(valid, losses, 0).sum() / cut.steps, after, {"loss": losses, **aux}

        u, slopes, tangents, (after, values) = tangents_of(theta, key_of_directions(key), f, state, tangents)
        return combine(u, slopes), after, tangents, values

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> ForwardState:
        shapes = check_loop(loop, theta, data, key)
        d = number_of_directions(theta, key)
        tangents = placeholder_states(_floats(shapes), (batch, d), key)
        return ForwardState(initial_clock(batch, key), placeholder_states(shapes, (batch,), key), tangents)

    def grad(
        theta: Any, state: ForwardState, data: Any, key: PRNGKeyArray, outer_step: Array
    ) -> tuple[Any, ForwardState, dict[str, Array]]:
        done, clock = restart_ended(cut, state.clock, key, outer_step)
        new = lambda: jax.vmap(lambda k, n: begin(theta, data, k, n))(clock.key, clock.length)  # noqa: E731
        inner, tangents = replace_ended(done, new, (state.inner, state.tangents))
        valid = valid_steps(cut, clock)
        run = jax.vmap(lambda s, c, t, k, v: advance(theta, s, c, t, k, v, data))
        gradients, inner, tangents, values = run(inner, tangents, clock.t, clock.key, valid)
        gradient = jax.tree.map(lambda g: g.mean(0), gradients)
        means = {name: masked_mean(value, valid).mean() for name, value in values.items()}
        return gradient, ForwardState(clock._replace(t=clock.t + cut.steps), inner, tangents), means

    return with_typed_keys(Estimator(init, grad, batch))


def _floats(state: Any) -> list[Any]:
    return [a for a in jax.tree.leaves(state) if jnp.issubdtype(a.dtype, jnp.floating)]
