"""GL2O, guarded learned optimization: the learned candidate is taken if the guard's own step from it is short.

Heaton, Chen, Wang and Yin 2020, "Safeguarded learned convex optimization" (arXiv 2003.01880).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from metalearn_models.optimizers.contract import require_params
from metalearn_models.optimizers.wrappers.guard import GuardState, guard_parts, is_finite, require_value_fn, select

__all__ = ["gl2o"]


def gl2o(
    learned: optax.GradientTransformation,
    guard: optax.GradientTransformation,
    factor: float = 0.99,
    mixing: float = 0.25,
    on_fallback: str = "keep",
) -> optax.GradientTransformationExtraArgs:
    """Guarded learned optimization: the learned candidate is taken if it leaves the guard little to do.

    It is taken if it is finite and the guard's step S from it has `|S| <= factor mu`. Then
    `mu' = mixing |S| + (1 - mixing) mu`, the paper's moving average; `mixing=1` is its recent term. mu starts as the
    length of the guard's first step. Otherwise the guard's own candidate is taken.

    A bound on S bounds what is left to minimise only if the guard is `x - S(x)` with a fixed S, such as `optax.sgd`
    without momentum on a fixed loss. A step of Adam is about as long anywhere, so that it guards against nothing.

    Args:
        learned: the learned part.
        guard: the guard.
        factor: a of the paper, in [0, 1); the default is ours.
        mixing: theta of the paper, in (0, 1]; the default is ours.
        on_fallback: as in `lgl2o`.

    Returns:
        The transformation. `update` needs `params` and `value_fn`: `(params) -> loss`, whose gradient is taken at the
        learned candidate. Other arguments go to both parts.

    Raises:
        UnknownNameError: `on_fallback` is neither "keep" nor "reset".
        ValueError: `factor` or `mixing` is out of range; by `update`: params or `value_fn` are missing.
    """
    if not (0 <= factor < 1 and 0 < mixing <= 1):
        raise ValueError(f"gl2o needs factor in [0, 1) and mixing in (0, 1], got factor={factor}, mixing={mixing}")
    parts = guard_parts(learned, guard, on_fallback)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, *, value_fn: Any = None, **extra: Any
    ) -> tuple[optax.Updates, GuardState]:
        params, value_fn = require_params(params), require_value_fn("gl2o", value_fn)
        (ours, learned_memory), (guards, guard_memory) = parts.propose(updates, state, params, extra)
        candidate = optax.apply_updates(params, ours)
        loss, grads = jax.value_and_grad(value_fn)(candidate)
        step, _ = parts.guard.update(grads, state.guard, candidate, **(extra | {"value": loss}))
        bound = jnp.where((state.step == 0) | ~jnp.isfinite(state.bound), _length(guards), state.bound)
        length = _length(step)
        accepted = is_finite(ours) & (length <= factor * bound)  # False if the length is NaN
        bound = jnp.where(accepted, mixing * length + (1 - mixing) * bound, bound)
        state = parts.next_state(accepted, params, learned_memory, guard_memory, state, bound)
        return select(accepted, ours, guards), state

    return optax.GradientTransformationExtraArgs(parts.init, update)


def _length(updates: Any) -> Float[Array, ""]:
    """The Euclidean length of all updates together."""
    return jnp.sqrt(sum((jnp.square(x.astype(jnp.float32)).sum() for x in jax.tree.leaves(updates)), jnp.float32(0)))
