"""Windows of long trajectories: where each stands, when it ends, how it begins again.

An online estimator makes one update from a window of steps and goes on from there. Trajectories begin only at the
beginning of a window, so that a step costs no more than a step; what lies past a trajectory's end is masked. Lengths
are data: a schedule of horizons never recompiles.

Starts are staggered as in the code of Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835): the first length of each
trajectory is drawn from the multiples of the window, so that at any time all parts of a trajectory are learned from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn.inner import InnerLoop

__all__ = ["Horizon", "constant_horizon", "growing_horizon", "log_uniform_horizon"]


class Horizon(NamedTuple):
    """How long trajectories are.

    Attributes:
        sample: `(key, outer_step) -> int32`, the length of a trajectory that begins now; traced.
        longest: no length is greater.
        shortest: no length is less.
    """

    sample: Callable[[PRNGKeyArray, Array], Int[Array, ""]]
    longest: int
    shortest: int


def constant_horizon(length: int) -> Horizon:
    """Trajectories of `length` steps."""
    _at_least_one(length=length)
    return Horizon(lambda key, outer_step: jnp.int32(length), length, length)


def log_uniform_horizon(shortest: int, longest: int) -> Horizon:
    """Lengths whose logarithm is uniform from `shortest` to `longest`, both included."""
    _at_least_one(shortest=shortest)
    if longest < shortest:
        raise ValueError(f"lengths go from the shortest to the longest, got {shortest} to {longest}")

    def sample(key: PRNGKeyArray, outer_step: Array) -> Int[Array, ""]:
        del outer_step
        u = jax.random.uniform(key, (), jnp.float32)
        low, high = jnp.log(jnp.float32(shortest)), jnp.log(jnp.float32(longest + 1))
        return jnp.clip(jnp.exp(low + u * (high - low)).astype(jnp.int32), shortest, longest)

    return Horizon(sample, longest, shortest)


def growing_horizon(first: int, last: int, outer_steps: int) -> Horizon:
    """A curriculum: the length grows linearly from `first` to `last` over `outer_steps`, then stays."""
    _at_least_one(first=first, outer_steps=outer_steps)
    if last < first:
        raise ValueError(f"a curriculum grows from its first to its last length, got {first} to {last}")

    def sample(key: PRNGKeyArray, outer_step: Array) -> Int[Array, ""]:
        del key
        share = jnp.clip(outer_step.astype(jnp.float32) / outer_steps, 0.0, 1.0)
        return first + jnp.round(share * (last - first)).astype(jnp.int32)

    return Horizon(sample, last, first)


class Windows(NamedTuple):
    """How trajectories are cut; made by `windows`, which checks.

    Attributes:
        steps: steps of a window, W; static.
        horizon: lengths of trajectories.
        stagger: whether first lengths are spread over the multiples of the window.
    """

    steps: int
    horizon: Horizon
    stagger: bool


def windows(loop: InnerLoop, steps: int | None, horizon: int | Horizon | None, stagger: bool) -> Windows:
    """Fill in what a caller left open, and refuse what does not fit.

    Args:
        loop: its `length` is the horizon when there is no other.
        steps: steps of a window; None: whole trajectories.
        horizon: a number of steps, or a schedule.
        stagger: see `Windows`.

    Raises:
        ValueError: there is no horizon, a number is not positive, or the window is longer than any trajectory.
        TypeError: the horizon is no whole number.
    """
    horizon = loop.length if horizon is None else horizon
    if horizon is None:
        raise ValueError("this inner loop has no length of its own: give the estimator a horizon=...")
    horizon = horizon if isinstance(horizon, Horizon) else constant_horizon(operator.index(horizon))
    steps = horizon.longest if steps is None else steps
    _at_least_one(window=steps)
    if steps > horizon.longest:
        raise ValueError(
            f"the window of {steps} steps is longer than the trajectory of {horizon.longest}: make it shorter"
        )
    return Windows(steps, horizon, stagger)


class Clock(NamedTuple):
    """Where each trajectory stands.

    Attributes:
        number: the trajectory's global number, which names its keys whatever device it is on.
        key: the key of the trajectory it is in.
        t: steps done of it.
        length: its steps; -1 before the first.
    """

    number: Int[Array, "B"]
    key: PRNGKeyArray
    t: Int[Array, "B"]
    length: Int[Array, "B"]


def stopped(batch: int, key: PRNGKeyArray) -> Clock:
    """Trajectories that begin at the next `renewed`."""
    number = jnp.arange(batch, dtype=jnp.int32)
    return Clock(number, jnp.broadcast_to(key, (batch,)), jnp.zeros_like(number), jnp.full_like(number, -1))


def renewed(cut: Windows, clock: Clock, key: PRNGKeyArray, outer_step: Array) -> tuple[Bool[Array, "B"], Clock]:
    """Start a new trajectory for each that has ended.

    Args:
        cut: windows and horizon.
        clock: before the window.
        key: of this outer step.
        outer_step: what horizon schedules go by.

    Returns:
        Which ones begin now, and the clock of all.
    """

    def one(number: Array, before: Array) -> tuple[PRNGKeyArray, Array]:
        own, for_length, for_stagger = jax.random.split(jax.random.fold_in(key, number), 3)
        length = cut.horizon.sample(for_length, outer_step)
        if not cut.stagger:
            return own, length
        at_most = -(-length // cut.steps)
        first = jnp.minimum(jax.random.randint(for_stagger, (), 1, at_most + 1) * cut.steps, length)
        return own, jnp.where(before < 0, first, length)

    done = clock.t >= clock.length
    fresh = lambda: jax.vmap(one)(clock.number, clock.length)  # noqa: E731
    keys, lengths = begun(done, fresh, (clock.key, clock.length))
    return done, Clock(clock.number, keys, jnp.where(done, 0, clock.t), lengths)


def choose(done: Bool[Array, "B"], new: Any, old: Any) -> Any:
    """For each trajectory the new or the old of two trees, both with the trajectories on the leading axis."""
    return jax.tree.map(lambda n, o: jax.vmap(jnp.where)(done, n, o), new, old)


def begun(done: Bool[Array, "B"], fresh: Callable[[], Any], old: Any) -> Any:
    """`choose`, with `fresh()` computed only in a window in which some trajectory begins."""
    return jax.lax.cond(done.any(), lambda: choose(done, fresh(), old), lambda: old)


def blank(shapes: Any, leading: tuple[int, ...], key: PRNGKeyArray) -> Any:
    """States before the first trajectory: right in shape and dtype, to be replaced before they are used.

    Args:
        shapes: of one state, as `jax.eval_shape` gives them.
        leading: axes to put in front.
        key: any; stands where states hold keys.
    """

    def leaf(a: jax.ShapeDtypeStruct) -> Array:
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jnp.broadcast_to(key, (*leading, *a.shape))
        return jnp.zeros((*leading, *a.shape), a.dtype)

    return jax.tree.map(leaf, shapes)


def inside(cut: Windows, clock: Clock) -> Bool[Array, "B W"]:
    """Which steps of the window lie before the end of their trajectory."""
    steps = jnp.arange(cut.steps, dtype=jnp.int32)
    return jax.vmap(lambda t, length: t + steps < length)(clock.t, clock.length)


def masked_mean(values: Float[Array, "B W"], valid: Bool[Array, "B W"]) -> Float[Array, "B"]:
    """The mean of each row over its valid entries, in float32 at least; there is at least one."""
    values = accurate(values)
    return jnp.where(valid, values, 0).sum(-1) / valid.sum(-1).astype(values.dtype)


def accurate(values: Float[Array, "..."]) -> Float[Array, "..."]:
    """In float32 at least: differences of losses need it, whatever the loop computes in."""
    return values if values.dtype.itemsize >= 4 else values.astype(jnp.float32)


def _at_least_one(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
