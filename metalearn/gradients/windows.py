"""Windows of long trajectories: where each trajectory stands, when it ends, how a new one starts.

An online estimator makes one update from a window of steps and continues from there. Trajectories start only at the
start of a window, so that all windows cost the same; steps beyond the end of a trajectory are masked. Lengths are data:
a schedule of horizons never recompiles.

Starts are staggered as in the code of Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835): the first length of each
trajectory is drawn from the multiples of the window, so that at any time all parts of a trajectory are learned from.

Shapes: B trajectories, W steps of a window.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from metalearn.inner import InnerLoop

__all__ = ["Horizon", "constant_horizon", "growing_horizon", "log_uniform_horizon"]


class Horizon(NamedTuple):
    """The lengths of trajectories.

    Attributes:
        sample: `(key, outer_step) -> int32`, the length of a trajectory that starts now; traced.
        longest: the maximum of all lengths.
        shortest: the minimum of all lengths.
    """

    sample: Callable[[PRNGKeyArray, Array], Int[Array, ""]]
    longest: int
    shortest: int


def constant_horizon(length: int) -> Horizon:
    """The same length for all trajectories, `length` steps.

    Raises:
        ValueError: `length` is less than 1.
    """
    _at_least_one(length=length)
    return Horizon(lambda key, outer_step: jnp.int32(length), length, length)


def log_uniform_horizon(shortest: int, longest: int) -> Horizon:
    """Lengths whose logarithm is uniform, from `shortest` to `longest` inclusive.

    Raises:
        ValueError: `shortest` is less than 1, or greater than `longest`.
    """
    _at_least_one(shortest=shortest)
    if longest < shortest:
        raise ValueError(f"shortest must not be greater than longest, got {shortest} and {longest}")

    def sample(key: PRNGKeyArray, outer_step: Array) -> Int[Array, ""]:
        del outer_step
        u = jax.random.uniform(key, (), jnp.float32)
        low, high = jnp.log(jnp.float32(shortest)), jnp.log(jnp.float32(longest + 1))
        return jnp.clip(jnp.exp(low + u * (high - low)).astype(jnp.int32), shortest, longest)

    return Horizon(sample, longest, shortest)


def growing_horizon(first: int, last: int, outer_steps: int) -> Horizon:
    """A curriculum: the length grows linearly from `first` to `last` over `outer_steps`, then stays.

    Raises:
        ValueError: `first` or `outer_steps` is less than 1, or `first` is greater than `last`.
    """
    _at_least_one(first=first, outer_steps=outer_steps)
    if last < first:
        raise ValueError(f"first must not be greater than last, got {first} and {last}")

    def sample(key: PRNGKeyArray, outer_step: Array) -> Int[Array, ""]:
        del key
        share = jnp.clip(outer_step.astype(jnp.float32) / outer_steps, 0.0, 1.0)
        return first + jnp.round(share * (last - first)).astype(jnp.int32)

    return Horizon(sample, last, first)


class Windows(NamedTuple):
    """How trajectories are cut into windows; use `make_windows`, which checks.

    Attributes:
        steps: steps per window, W; static.
        horizon: lengths of trajectories.
        stagger: spread the first lengths over the multiples of the window.
    """

    steps: int
    horizon: Horizon
    stagger: bool


def make_windows(loop: InnerLoop, steps: int | None, horizon: SupportsIndex | Horizon | None, stagger: bool) -> Windows:
    """Fill in defaults, and refuse what does not fit.

    Args:
        loop: the inner loop.
        steps: steps per window; None: whole trajectories.
        horizon: a number of steps, or a schedule; None: `loop.length`.
        stagger: see `Windows`.

    Raises:
        ValueError: there is no horizon, a number is less than 1, or the window is longer than any trajectory.
        TypeError: the horizon is not an integer.
    """
    horizon = loop.length if horizon is None else horizon
    if horizon is None:
        raise ValueError("this inner loop has length=None: pass horizon=... to the estimator")
    horizon = horizon if isinstance(horizon, Horizon) else constant_horizon(operator.index(horizon))
    steps = horizon.longest if steps is None else steps
    _at_least_one(window=steps)
    if steps > horizon.longest:
        raise ValueError(f"window must be at most the length of a trajectory, {horizon.longest} steps, got {steps}")
    return Windows(steps, horizon, stagger)


def ends_with_windows(cut: Windows) -> bool:
    """Whether no window goes beyond the end of its trajectory, so that no step has to be masked."""
    horizon = cut.horizon
    return horizon.shortest == horizon.longest and horizon.longest % cut.steps == 0


class Clock(NamedTuple):
    """Where each trajectory stands.

    Attributes:
        number: the global index of its place in the batch, from which its keys derive, whatever device it is on.
        key: the key of the current trajectory.
        t: steps of it that are done.
        length: its steps; -1 before the first trajectory.
    """

    number: Int[Array, "B"]
    key: Key[Array, "B"]
    t: Int[Array, "B"]
    length: Int[Array, "B"]


def initial_clock(batch: int, key: PRNGKeyArray) -> Clock:
    """A clock before the first trajectories; all start at the next `restart_ended`."""
    number = jnp.arange(batch, dtype=jnp.int32)
    return Clock(number, jnp.broadcast_to(key, (batch,)), jnp.zeros_like(number), jnp.full_like(number, -1))


def restart_ended(cut: Windows, clock: Clock, key: PRNGKeyArray, outer_step: Array) -> tuple[Bool[Array, "B"], Clock]:
    """Start a new trajectory in place of each one that has ended.

    Args:
        cut: windows and horizon.
        clock: the clock before the window.
        key: the key of this outer step.
        outer_step: the argument of horizon schedules.

    Returns:
        Which trajectories start now, and the clock of all.
    """

    def one(number: Array, before: Array) -> tuple[PRNGKeyArray, Array]:
        own, for_length, for_stagger = jax.random.split(jax.random.fold_in(key, number), 3)
        length = cut.horizon.sample(for_length, outer_step)
        if not cut.stagger:
            return own, length
        at_most = -(-length // cut.steps)
        first = jnp.minimum(jax.random.randint(for_stagger, (), 1, at_most + 1, jnp.int32) * cut.steps, length)
        return own, jnp.where(before < 0, first, length)

    done = clock.t >= clock.length
    keys, lengths = replace_ended(done, lambda: jax.vmap(one)(clock.number, clock.length), (clock.key, clock.length))
    return done, Clock(clock.number, keys, jnp.where(done, 0, clock.t), lengths)


def select(done: Bool[Array, "B"], new: Any, old: Any) -> Any:
    """The new tree for the trajectories that are done, the old one for the others; both with a leading axis B."""
    return jax.tree.map(lambda n, o: jax.vmap(jnp.where)(done, n, o), new, old)


def replace_ended(done: Bool[Array, "B"], new: Callable[[], Any], old: Any) -> Any:
    """`select(done, new(), old)`, where `new` is only computed in windows in which a trajectory starts."""
    return jax.lax.cond(done.any(), lambda: select(done, new(), old), lambda: old)


def placeholder_states(shapes: Any, leading: tuple[int, ...], key: PRNGKeyArray) -> Any:
    """States before the first trajectory: of the right shapes and dtypes, and replaced before they are used.

    Args:
        shapes: the shapes of one state, as from `jax.eval_shape`.
        leading: axes to put in front.
        key: any key; it fills the keys in the states.
    """

    def leaf(a: jax.ShapeDtypeStruct) -> Array:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(key, (*leading, *a.shape))
        return jnp.zeros((*leading, *a.shape), a.dtype)

    return jax.tree.map(leaf, shapes)


def valid_steps(cut: Windows, clock: Clock) -> Bool[Array, "B W"]:
    """Which steps of the window are before the end of their trajectory."""
    steps = jnp.arange(cut.steps, dtype=jnp.int32)
    return jax.vmap(lambda t, length: t + steps < length)(clock.t, clock.length)


def masked_mean(values: Float[Array, "B W"], valid: Bool[Array, "B W"]) -> Float[Array, "B"]:
    """The mean of each row over its valid entries, at least one, in float32 or wider."""
    values = at_least_float32(values)
    return jnp.where(valid, values, 0).sum(-1) / valid.sum(-1).astype(values.dtype)


def without_derivatives_beyond(loop: InnerLoop, length: Int[Array, ""] | None) -> InnerLoop:
    """The same loop, through whose last steps nothing is backpropagated: those that do not count in the loss.

    A mask gives the loss of such a step the derivative 0, but 0 times an infinite derivative inside the step is NaN.
    Therefore theta and the state have no derivative where they enter the step.

    Args:
        loop: the inner loop; its `step` is used, and its `counts`.
        length: no step from this one on counts either; None: only `counts` decides.
    """
    counts = loop.counts
    if counts is None and length is None:
        return loop

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        differentiated = jnp.bool_(True) if length is None else t < length
        if counts is not None:
            differentiated &= counts(t, data)

        def leaf(a: Array) -> Array:
            is_float = jnp.issubdtype(a.dtype, jnp.floating)
            return jnp.where(differentiated, a, jax.lax.stop_gradient(a)) if is_float else a

        theta, state = jax.tree.map(leaf, (theta, state))
        return loop.step(theta, state, t, key, data)

    return loop._replace(step=step)


def at_least_float32(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Values in float32 or wider, which differences of losses need, whatever the dtype of the loop."""
    return values if values.dtype.itemsize >= 4 else values.astype(jnp.float32)


def _at_least_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
