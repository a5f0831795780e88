"""Sparse training as an optax transformation around any inner optimizer, hand-designed or learned.

Evci, Gale, Menick, Castro and Elsen 2020, "Rigging the lottery: making all tickets winners" (arXiv 1911.11134), and the
methods it compares. The masks are in the state. What is off is exactly zero: its update is minus the parameter. So the
model needs no mask, no hook after the step, and its ordinary gradient is the dense gradient that rules grow by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, PRNGKeyArray

from metalearn_models.optimizers.frame import transformation
from metalearn_models.sparsity.contract import Change, Masks, Moment, Rule, SparseState
from metalearn_models.sparsity.distributions import Distribution, erk
from metalearn_models.sparsity.masks import Which, apply_masks, check_masks, draw_masks, kernels

__all__ = ["sparse", "sparse_with_masks"]


def sparse(
    inner: optax.GradientTransformation,
    rule: Rule,
    distribution: Distribution = erk,
    sparsity: float = 0.9,
    *,
    which: Which = kernels,
    key: PRNGKeyArray | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Train sparse layers, from random masks.

        optimizer = sparse(optax.adam(1e-3), rigl(end=7_500), erk, 0.9)
        state = optimizer.init(params)
        params = apply_masks(params, state.masks)

    Without the last line, only the first gradient is that of dense layers. This transformation must be the outermost
    one: whatever changes its updates later would move what is off.

    A loop that knows when connections change can say so: `update(grads, state, params, due=False)` is a program without
    the change, at the cost of static masks, and `due=True` one with it. The results are the same if `due` is what the
    rule says of `state.step`. If it is not, an error says so. A compiled program cannot raise one: there, all
    parameters that are off become NaN, so that the next loss is NaN. All others stay, and
    `apply_masks(params, state.masks)` brings the zeros back; the change was left out or made too early.

    Args:
        inner: any optimizer. It sees gradients that are zero where connections are off, and its state restarts where
            connections grow. Other arguments of `update` reach it.
        rule: how connections change, such as `static()` or `rigl(end=...)`.
        distribution: how many connections each layer gets.
        sparsity: share of the entries of all sparse leaves that is off, in [0, 1).
        which: chooses the sparse leaves by path and shape.
        key: random key of the masks and of the rule. None: `jax.random.key(0)`.

    Returns:
        The transformation; its state is a `SparseState`. `update` needs `params`.

    Raises:
        ValueError: by `init`: the sparsity is outside [0, 1), or a layer would be left without connections; by
            `update`: the parameters are missing, the state belongs to another rule or to other parameters, or `due` is
            not what the rule says.
    """
    key = jax.random.key(0) if key is None else key
    start, later = jax.random.split(key)
    return _transformation(inner, rule, lambda params: draw_masks(start, params, distribution, sparsity, which), later)


def sparse_with_masks(
    inner: optax.GradientTransformation, rule: Rule, masks: Masks, *, key: PRNGKeyArray | None = None
) -> optax.GradientTransformationExtraArgs:
    """Train sparse layers, from given masks: pruned ones, those of a lottery ticket, or data of a program.

    Args:
        inner: any optimizer.
        rule: how connections change.
        masks: the connections that `sparse` would draw; None where a leaf is dense.
        key: random key of the rule. None: `jax.random.key(0)`.

    Returns:
        The transformation, as that of `sparse`.

    Raises:
        ValueError: by `init`: masks that do not fit the parameters; by `update` as in `sparse`.
    """

    def start(params: Any) -> Masks:
        if not jax.tree.leaves(params):
            return params
        check_masks(params, masks)
        return jax.tree.map(lambda x, m: None if m is None else jnp.asarray(m), params, masks)

    return _transformation(inner, rule, start, jax.random.key(0) if key is None else key)


def _transformation(
    inner: optax.GradientTransformation, rule: Rule, first: Callable[[Any], Masks], key: PRNGKeyArray
) -> optax.GradientTransformationExtraArgs:
    inner, kind = optax.with_extra_args_support(inner), jax.random.key_impl(key)

    def init(params: Any) -> SparseState:
        wanted = first(params)
        masks, memory = rule.start(wanted), rule.init(params, wanted)
        zero = jnp.int32(0)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            return SparseState(
                zero, jax.random.key_data(key), masks, zero, zero, {rule.name: memory}, inner.init(params)
            )

    def update(grads: Any, state: Any, params: Any = None, *, due: Any = None, **extra: Any) -> tuple[Any, SparseState]:
        memory = _check(rule, state, params)
        off = 0.0 if due is None else _off_if(rule, state.step, due)
        memory = rule.watch(memory, grads, state.masks)
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key, impl=kind), state.step)

        def descend(masks: Masks) -> tuple[Any, Any]:
            with jax.numpy_dtype_promotion("standard"):
                return inner.update(apply_masks(grads, masks), state.inner, params, **extra)

        def keep() -> _Found:
            return _Found(_kinds(state.masks, None), memory, jnp.int32(0))

        def change(decide: Callable[[Moment], Change]) -> _Found:
            after = params
            if not rule.pauses:
                after = optax.apply_updates(params, _hold(descend(state.masks)[0], params, state.masks))
            change = decide(Moment(state.step, step_key, after, grads, state.masks, memory))
            return _Found(_kinds(change.masks, change.fresh), change.memory, change.skipped)

        if due is False or rule.due is None or rule.change is None or not jax.tree.leaves(state.masks):
            now, masks, skipped = jnp.array(False), state.masks, jnp.int32(0)
            updates, inner_state = descend(masks)
            updates = _hold(updates, params, masks, off)
        else:
            now, some = rule.due(state.step) if due is None else jnp.array(True), partial(change, rule.change)
            # What leaves a branch is copied at every step, so one byte per entry does. A rule that pauses drops the
            # inner step of a change, so its inner step can read the new masks and the old ones need no copy.
            kinds, memory, skipped = jax.lax.cond(now, some, keep) if due is None else some()
            masks, old, fresh = (jax.tree.map(f, kinds) for f in (lambda k: k > 0, lambda k: k == 1, lambda k: k == 2))
            updates, inner_state = descend(old if rule.pauses else state.masks)
            if rule.pauses:
                updates, inner_state = _choose(~now, (updates, inner_state), (_zeros(updates), state.inner))
            inner_state = _restart(inner, inner_state, apply_masks(params, old), fresh)
            updates = _hold(updates, params, old, off)
        counts = (state.changes + now.astype(jnp.int32), state.skipped + skipped)
        return updates, SparseState(state.step + 1, state.key, masks, *counts, {rule.name: memory}, inner_state)

    return transformation(None, init, update)


class _Found(NamedTuple):
    """What leaves the decision: by sparse leaf 0 where it is off, 1 at a connection, 2 at a fresh one; and the rest."""

    kinds: Any
    memory: Any
    skipped: Any


def _kinds(masks: Masks, fresh: Masks | None) -> Any:
    kinds = jax.tree.map(lambda m: m.astype(jnp.uint8), masks)
    return kinds if fresh is None else jax.tree.map(lambda k, f: k + f.astype(jnp.uint8), kinds, fresh)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


def _choose(first: Any, one: Any, other: Any) -> Any:
    """The first tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), one, other)


def _off_if(rule: Rule, step: Any, due: Any) -> Any:
    """What parameters that are off are set to: 0, or NaN if the rule says something else of a step of a program.

    Raises:
        TypeError: `due` is not a bool of Python.
        ValueError: the rule says something else of a step that is known now.
    """
    if not isinstance(due, bool):
        raise TypeError(
            f"due chooses a program, so it must be True or False, got {type(due).__name__}; or leave it out"
        )
    right = (jnp.array(False) if rule.due is None else rule.due(step)) == due
    if not isinstance(right, Tracer) and not right.all():
        raise ValueError(
            f"update got due={due}, and the rule {rule.name} says {not due} of step {np.asarray(step)}: leave due out, "
            "or count the steps from state.step"
        )
    return jnp.where(right, 0.0, jnp.nan)


def _hold(updates: Any, params: Any, on: Masks, off: Any = 0.0) -> Any:
    """Updates in the dtype of the parameters, which end at exactly `off` where a mask is off."""

    def hold(p: Array, m: Array | None, u: Array) -> Array:
        u = u.astype(p.dtype)
        return u if m is None else jnp.where(m, u, jnp.asarray(off, p.dtype) - p)

    return jax.tree.map(hold, params, on, updates)


class _Both(NamedTuple):
    now: Any
    new: Any


def _restart(inner: optax.GradientTransformation, state: Any, params: Any, fresh: Masks) -> Any:
    """The inner optimizer's state, with that of new parameters where connections are fresh."""
    with jax.numpy_dtype_promotion("standard"):
        new = inner.init(params)
    both = jax.tree.map(_Both, state, new)

    def restart(pair: Any, f: Any) -> Any:
        if not isinstance(pair, _Both):  # an inner optimizer that leaves this parameter out
            return pair
        now, new = pair
        if f is None or now.shape[now.ndim - f.ndim :] != f.shape:  # statistics of rows, or of the tensor
            return now
        return jnp.where(jnp.broadcast_to(f, now.shape), new.astype(now.dtype), now)

    return optax.tree_utils.tree_map_params(
        inner,
        restart,
        both,
        fresh,
        transform_non_params=lambda pair: pair.now,
        is_leaf=lambda x: isinstance(x, _Both | optax.MaskedNode),
    )


def _check(rule: Rule, state: Any, params: Any) -> Any:
    """The memory of the rule, from a state that belongs to the rule and to the parameters."""
    if params is None:
        raise ValueError("sparse optimizers read the parameters: call update(grads, state, params), got None")
    if not isinstance(state, SparseState):
        raise ValueError(f"sparse optimizers need the SparseState that their init made, got {type(state).__name__}")
    if list(state.rule) != [rule.name]:
        raise ValueError(
            f"this state was made under the rule {', '.join(state.rule)}, and the optimizer has {rule.name}: continue "
            "with the rule of the state, or start sparse_with_masks(inner, rule, state.masks)"
        )
    check_masks(params, state.masks)
    return state.rule[rule.name]
