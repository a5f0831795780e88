"""Lookahead: an optimizer runs ahead for k steps, and slow weights follow it part of the way.

Zhang, Lucas, Hinton and Ba 2019, "Lookahead optimizer: k steps forward, 1 step back" (arXiv 1907.08610). From the slow
weights phi, an inner optimizer makes k steps to theta. Then `phi <- phi + alpha (theta - phi)`, and the inner optimizer
continues from phi. Test with the slow weights, see `slow_weights`: they vary less than the fast ones.

`optax.lookahead` has the same updates. It wants pairs of parameters in the place of the parameters and refuses extra
arguments. Here the slow weights are part of the state, so that this transformation goes wherever its inner one goes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Int

from metalearn.errors import unknown_name
from metalearn_models.optimizers.frame import transformation

__all__ = ["ON_SYNC", "LookaheadState", "lookahead", "slow_weights"]

ON_SYNC = ("keep", "reset", "pull-back")
"""What happens to the inner optimizer's memory when the slow weights move: it continues, starts afresh, or goes the
same part of the way from where it was k steps ago."""


class LookaheadState(NamedTuple):
    """What Lookahead remembers.

    Attributes:
        inner: memory of the inner optimizer.
        slow: the slow weights.
        before: memory of the inner optimizer when the slow weights moved last; None unless memory is pulled back.
        step: number of inner steps since then.
    """

    inner: Any
    slow: Any
    before: Any
    step: Int[Array, ""]


def lookahead(
    inner: optax.GradientTransformation,
    sync_period: Any = 5,
    slow_step_size: Any = 0.5,
    on_sync: str = "keep",
) -> optax.GradientTransformationExtraArgs:
    """Lookahead around any optimizer.

    The authors' code has `sync_period=5` and `slow_step_size=0.8`; the paper also uses 0.5. Their TensorFlow code makes
    one inner step more per period than is said; their PyTorch code and this one do not.

    Args:
        inner: the optimizer that runs ahead.
        sync_period: k, inner steps per move of the slow weights; a number or a traced scalar.
        slow_step_size: alpha, the part of the way that they follow, greater than 0; a number, or a traced scalar such
            as a meta-parameter. 1 gives the inner optimizer.
        on_sync: "keep", "reset" or "pull-back", see `ON_SYNC`. Counters of the inner memory are not pulled back.

    Returns:
        The transformation. `update` needs `params`; other arguments go to the inner optimizer.

    Raises:
        UnknownNameError: `on_sync` is none of the three.
        ValueError: `sync_period` or `slow_step_size` is out of range; by `update`: params are missing.
    """
    if on_sync not in ON_SYNC:
        raise unknown_name("on_sync", on_sync, ON_SYNC)
    if not isinstance(sync_period, Tracer) and not sync_period >= 1:
        raise ValueError(f"sync_period must be at least 1 step, got {sync_period}")
    if not isinstance(slow_step_size, Tracer) and not slow_step_size > 0:
        raise ValueError(f"slow_step_size must be greater than 0, or the weights never move, got {slow_step_size}")
    inner = optax.with_extra_args_support(inner)

    def start(params: Any) -> LookaheadState:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            memory = inner.init(params)
        return LookaheadState(memory, params, memory if on_sync == "pull-back" else None, jnp.int32(0))

    def update(updates: Any, state: LookaheadState, params: Any, **extra: Any) -> tuple[Any, LookaheadState]:
        if params is None:
            raise ValueError("lookahead reads the parameters: call update(grads, state, params), got None")
        with jax.numpy_dtype_promotion("standard"):
            steps, memory = inner.update(updates, state.inner, params, **extra)
        sync = state.step + 1 >= sync_period
        fast = optax.apply_updates(params, steps)
        slow = _between(state.slow, fast, slow_step_size)
        to_slow = jax.tree.map(lambda s, p, u: (s - p).astype(u.dtype), slow, params, steps)
        before = None
        if on_sync == "reset":
            with jax.numpy_dtype_promotion("standard"):
                memory = _choose(sync, inner.init(slow), memory)
        elif on_sync == "pull-back":
            memory = _choose(sync, _between(state.before, memory, slow_step_size), memory)
            before = _choose(sync, memory, state.before)
        after = LookaheadState(
            memory, _choose(sync, slow, state.slow), before, jnp.where(sync, 0, state.step + 1).astype(jnp.int32)
        )
        return _choose(sync, to_slow, steps), after

    return transformation((sync_period, slow_step_size), start, update)


def slow_weights(state: Any, params: Any) -> Any:
    """The slow weights, to test with.

    Args:
        state: of an optimizer with Lookahead in it, at any depth of `chain` and other wrappers.
        params: the fast weights; what has no slow weights, such as a parameter without entries, is taken from them.

    Raises:
        ValueError: there is no Lookahead in the state, or more than one.
    """
    is_lookahead = lambda x: isinstance(x, LookaheadState)  # noqa: E731
    found = [x for x in jax.tree.leaves(state, is_leaf=is_lookahead) if is_lookahead(x)]
    if len(found) != 1:
        raise ValueError(f"the state must hold one LookaheadState, got {len(found)} in {type(state).__name__}")
    slow = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(found[0].slow)}
    return jax.tree_util.tree_map_with_path(lambda path, x: slow.get(jax.tree_util.keystr(path), x), params)


def _between(start: Any, end: Any, part: Any) -> Any:
    """What lies that part of the way from `start` to `end`, leaf by leaf; counters and keys are taken from `end`."""

    def move(x: Array, y: Array) -> Array:
        if not jnp.issubdtype(jnp.result_type(y), jnp.inexact):
            return y
        return x + jnp.asarray(part, x.dtype) * (y - x)

    return jax.tree.map(move, start, end)


def _choose(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
