"""The inner loop: one task, one trajectory, and the functions that unroll it.

Everything that the library meta-trains is an `InnerLoop`: an in-context learner that reads examples, a network that is
trained by a learned optimizer or by a learned loss, a simulated system. Estimators see only these functions. Batches of
trajectories are `jax.vmap`.

Shapes: B trajectories, T steps of a trajectory, W steps of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, UInt32

__all__ = ["InnerLoop", "add_up_steps", "over_rows", "scan_steps", "start", "typed_key", "unroll"]


class InnerLoop(NamedTuple):
    """One trajectory of something that depends on meta-parameters `theta`.

    All randomness of a trajectory comes from its key: `init` gets `fold_in(key, 0)`, step `t` gets
    `fold_in(key, t + 1)`. Two trajectories with the same key therefore see the same task and the same noise, whatever
    their theta, and noise can be drawn again instead of stored.

    Attributes:
        init: `(theta, data, key) -> state`; samples its own task.
        step: `(theta, state, t, key, data) -> (state, loss, aux)`; `loss` is a float scalar, `aux` a dict of scalars to
            report, `{}` if there are none. The state keeps its shapes and dtypes.
        run: `(theta, states, t0, window, keys, data) -> (states, losses[B, window], aux)`, a batch of trajectories over
            many steps at once, for loops that compute these in parallel; the leading axis of `states` and `keys` is B.
            It must equal the loop over `step`. None: there is only the loop. It is called for whole trajectories only,
            with `t0` = 0 and `window` = `length`, and its final state is not continued.
        length: T, the steps of a whole trajectory; None: it has no natural end.
        counts: `(t, data) -> bool`, whether step t counts in the loss; once one does not, none after it does. The loss
            of `step` is 0 where it does not, and backpropagation leaves out such steps. None: all steps count.
        with_length: `(state, length) -> state`, the state at the start of a trajectory that will have `length` steps,
            for loops in which a step depends on that, as a schedule does. Estimators that give trajectories lengths of
            their own call it after `init`. None: no step depends on it.
    """

    init: Callable[..., Any]
    step: Callable[..., tuple[Any, Array, dict[str, Array]]]
    run: Callable[..., tuple[Any, Array, dict[str, Array]]] | None = None
    length: int | None = None
    counts: Callable[[Array, Any], Array] | None = None
    with_length: Callable[[Any, Array], Any] | None = None


def typed_key(key: Any) -> Any:
    """A key as `jax.random.key` makes it. Raw keys of `jax.random.PRNGKey` are wrapped, with the same random numbers.

    Raises:
        TypeError: neither kind of key, or more than one.
    """
    if getattr(key, "shape", None) == () and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if getattr(key, "dtype", None) == jnp.uint32 and key.ndim == 1:
        return jax.random.wrap_key_data(key)
    raise TypeError(f"key must be one key, such as jax.random.key(0), got {key!r:.80}")


def start(loop: InnerLoop, theta: Any, data: Any, key: PRNGKeyArray, length: Int[Array, ""] | None = None) -> Any:
    """The state at the start of the trajectory of `key`, which will have `length` steps; None: as many as the loop."""
    state = loop.init(theta, data, jax.random.fold_in(typed_key(key), 0))
    return state if length is None or loop.with_length is None else loop.with_length(state, length)


def scan_steps(
    loop: InnerLoop,
    theta: Any,
    state: Any,
    t0: Int[Array, ""],
    window: int,
    key: PRNGKeyArray,
    data: Any,
    remat: bool = False,
) -> tuple[Any, Float[Array, "W"], dict[str, Float[Array, "W"]]]:
    """Unroll `window` steps from step `t0`, one after the other.

    Args:
        loop: the inner loop.
        theta: meta-parameters.
        state: the state before step `t0`.
        t0: index of the first step; may be traced.
        window: number of steps W; static.
        key: the key of the whole trajectory, the same for each of its windows.
        data: passed on to `loop.step`.
        remat: recompute each step in the backward pass instead of keeping its intermediates. Memory falls from all
            intermediates of every step to one state per step, at the price of one more forward pass.

    Returns:
        The state after the window, the loss of each step, and the aux of each step.
    """
    key = typed_key(key)

    def body(state: Any, t: Array) -> tuple[Any, tuple[Array, dict[str, Array]]]:
        state, loss, aux = loop.step(theta, state, t, jax.random.fold_in(key, t + 1), data)
        return state, (loss, aux)

    steps = jnp.asarray(t0, jnp.int32) + jnp.arange(window, dtype=jnp.int32)
    state, (losses, aux) = jax.lax.scan(jax.checkpoint(body) if remat else body, state, steps)
    return state, losses, aux


def add_up_steps(
    loop: InnerLoop,
    theta: Any,
    state: Any,
    t0: Int[Array, ""],
    window: int,
    length: Int[Array, ""] | None,
    key: PRNGKeyArray,
    data: Any,
) -> tuple[Any, Float[Array, ""], dict[str, Float[Array, "W"]]]:
    """`scan_steps` that keeps only the sum of the losses, for windows whose steps are cheap.

    Args:
        loop: the inner loop.
        theta: meta-parameters.
        state: the state before step `t0`.
        t0: index of the first step; may be traced.
        window: number of steps W; static.
        length: losses from this step on are not added; None: all are.
        key: the key of the whole trajectory.
        data: passed on to `loop.step`.

    Returns:
        The state after the window, the sum in JAX's default float type, and the aux of each step.
    """
    key, wide = typed_key(key), jnp.result_type(float)

    def body(carry: tuple[Any, Array], t: Array) -> tuple[tuple[Any, Array], dict[str, Array]]:
        state, total = carry
        state, loss, aux = loop.step(theta, state, t, jax.random.fold_in(key, t + 1), data)
        loss = loss.astype(wide)
        return (state, total + (loss if length is None else jnp.where(t < length, loss, 0))), aux

    steps = jnp.asarray(t0, jnp.int32) + jnp.arange(window, dtype=jnp.int32)
    (state, total), aux = jax.lax.scan(body, (state, jnp.zeros((), wide)), steps)
    return state, total, aux


def over_rows(f: Callable[..., Any], rows: int) -> Callable[..., Any]:
    """`jax.vmap(f)` over `rows` rows. A single row is taken out: an axis of one would take as long to trace as any."""
    if rows > 1:
        return jax.vmap(f)
    return lambda *args: jax.tree.map(lambda a: a[None], f(*jax.tree.map(lambda a: a[0], args)))


def unroll(
    loop: InnerLoop,
    theta: Any,
    data: Any,
    keys: Key[Array, "B"] | UInt32[Array, "B _"],
    length: int,
    remat: bool = False,
) -> tuple[Float[Array, "B T"], dict[str, Float[Array, "B T"]]]:
    """Unroll whole trajectories from their start, in parallel if the loop can.

    Args:
        loop: the inner loop.
        theta: meta-parameters.
        data: passed on to the loop.
        keys: one per trajectory, raw or not.
        length: number of steps T; static.
        remat: see `scan_steps`.

    Returns:
        The loss and the aux of each step of each trajectory.
    """
    keys = jax.vmap(typed_key)(keys)
    states = jax.vmap(lambda key: start(loop, theta, data, key))(keys)
    if loop.run is not None and length == loop.length:
        _, losses, aux = loop.run(theta, states, jnp.int32(0), length, keys, data)
        return losses, aux

    def one(state: Any, key: PRNGKeyArray) -> tuple[Any, Array, dict[str, Array]]:
        return scan_steps(loop, theta, state, jnp.int32(0), length, key, data, remat)

    _, losses, aux = jax.vmap(one)(states, keys)
    return losses, aux
