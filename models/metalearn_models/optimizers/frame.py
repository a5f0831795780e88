"""What every optimizer of this package does around its own rule, so that no rule has to think of it.

Rules see arrays with entries only. A Python float becomes an array. A leaf without entries becomes None, also in the
state: no checkpoint can hold an array of size zero. A state holds no buffer twice and none of the parameters or theta,
so that it can be donated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.contract import check_params

__all__ = ["LARGEST", "copy_shared", "hold_still", "read_gradient", "transformation"]

LARGEST = 1e15
"""Gradients are read as if they were at most this large: the square of a larger one has no mean in float32."""


def transformation(
    theta: Any, start: Callable[[Any], Any], update: Callable[..., tuple[Any, Any]]
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation from a rule for arrays with entries.

    Args:
        theta: the meta-parameters, which the state must not share buffers with.
        start: `(params) -> state`.
        update: `(updates, state, params, **extra) -> (updates, state)`; params are None where the caller gave none.

    Returns:
        The transformation. Its `init` raises TypeError if a parameter is not floating-point.
    """

    def init(params: optax.Params) -> Any:
        check_params(params)
        return copy_shared(start(_with_entries(params)), (params, theta))

    def step(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, Any]:
        seen = None if params is None else _with_entries(params)
        new, state = update(_with_entries(updates), state, seen, **extra)
        leaves, tree = jax.tree.flatten(updates)
        rest = iter(jax.tree.leaves(new))
        full = [next(rest) if jnp.size(x) else jnp.zeros_like(x) for x in leaves]
        return tree.unflatten(full), copy_shared(state, (updates, params, theta))

    return optax.GradientTransformationExtraArgs(init, step)


def copy_shared(state: Any, others: Any) -> Any:
    """The state, with a copy of each array that it holds twice or shares with `others`: buffers can then be donated."""
    seen = {id(x) for x in jax.tree.leaves(others)}

    def own(x: Any) -> Any:
        if id(x) in seen:
            return jnp.array(x, copy=True)
        seen.add(id(x))
        return x

    return jax.tree.map(own, state)


def read_gradient(g: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """A gradient in float32, finite values within `LARGEST`; NaN and infinity stay what they are."""
    if float(jnp.finfo(g.dtype).max) > LARGEST:
        g = jnp.where(jnp.isfinite(g), jnp.clip(g, -LARGEST, LARGEST), g)
    return jnp.asarray(g, jnp.float32)


def hold_still(step: Float[Array, "*S"], g: Float[Array, "*#S"], momenta: Iterable[Array]) -> Float[Array, "*S"]:
    """The step, but 0 where the gradient and all momenta are exactly 0.

    Nothing is known of such a parameter: it belongs to a frozen layer, to a row of an embedding that no batch has had,
    or to a dead unit. A network's output for it is not 0, and would move it without bound.
    """
    still = g == 0
    for m in momenta:  # no reduction: these comparisons are part of the loop that makes the step
        still &= m == 0
    return jnp.where(still, 0.0, step)


def _with_entries(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x) if jnp.size(x) else None, tree)
