"""A warning once a meta-trained optimizer is used for more steps than it is known to be of use for.

That is the length of the runs of its meta-training, or of longer ones that it was measured on. Past it, its updates
come from inputs that it never met, and may undo what was reached.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool

__all__ = ["LoadedOptimizer", "watch_horizon"]


class LoadedOptimizer(optax.GradientTransformationExtraArgs):
    """An optax transformation that says how far it is known to be of use.

    Attributes:
        horizon: number of steps of the training runs that it was meta-trained on, or of longer ones that it was
            measured on. None: not known.
    """

    horizon: int | None = None


def watch_horizon(
    transform: optax.GradientTransformationExtraArgs, name: str, horizon: int | None, num_steps: Any = None
) -> LoadedOptimizer:
    """The same transformation, which warns once past its horizon.

    If `num_steps` is given, the warning comes at once, or never. Otherwise the first step past the horizon gives it,
    also in a compiled program. Such a program has a callback to the host, and JAX's persistent compilation cache and
    `jax.export` do not take it. An optimizer whose state has no `step` is not watched.

    Args:
        transform: the transformation.
        name: what the warning calls it.
        horizon: number of steps it is known to be of use for. None: not known, and nothing is watched.
        num_steps: number of steps to come, if it is known; a traced number is not compared.
    """
    text = (
        f"{name} is known from training runs of {horizon} steps and is used past them, where its updates may "
        "undo what was reached: stop there, or continue with another optimizer"
    )
    if horizon is None or num_steps is not None:
        if horizon is not None and not isinstance(num_steps, Tracer) and num_steps > horizon:
            warnings.warn(f"{text} (num_steps={num_steps})", stacklevel=3)
        return _with_horizon(transform, transform.update, horizon)
    notice = _once(text)

    def update(updates: optax.Updates, state: Any, params: Any = None, **extra: Any) -> tuple[optax.Updates, Any]:
        step = getattr(state, "step", None)
        if isinstance(step, Tracer):
            notice(step == horizon)
        elif step is not None and jnp.any(step == horizon):
            notice(True)
        return transform.update(updates, state, params, **extra)

    return _with_horizon(transform, update, horizon)


def _with_horizon(transform: Any, update: Any, horizon: int | None) -> LoadedOptimizer:
    loaded = LoadedOptimizer(transform.init, update)
    loaded.horizon = horizon
    return loaded


def _once(text: str) -> Callable[[Any], Any]:
    """A function that warns the first time it is called with True, in a trace or outside."""
    given = []

    def warn() -> None:
        if not given:
            given.append(True)
            warnings.warn(text, stacklevel=2)

    @jax.custom_batching.custom_vmap
    def notice(past: Bool[Array, ""]) -> Bool[Array, ""]:
        jax.lax.cond(past, lambda: jax.debug.callback(warn), lambda: None)
        return past

    @notice.def_vmap
    def over_a_batch(size: int, batched: Any, past: Bool[Array, "B"]) -> tuple[Bool[Array, ""], bool]:
        # One condition for the whole batch: a condition per training would call the host in every step.
        del size, batched
        return notice(past.any()), False

    return lambda past: warn() if past is True else notice(past)
