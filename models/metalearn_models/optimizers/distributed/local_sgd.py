"""Local SGD: every device takes H steps of its own, then the devices move on together by an outer optimizer.

Stich 2018, "Local SGD converges fast and communicates little" (arXiv 1805.09767): the outer step is to the mean of the
parameters. Douillard et al. 2023, "DiLoCo" (arXiv 2311.08105): the mean movement of a round, with its sign changed, is
the gradient of an outer optimizer, SGD with Nesterov's momentum. On one device with outer SGD of rate alpha this is
Lookahead (Zhang, Lucas, Hinton, Ba 2019, arXiv 1907.08610).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from metalearn_models.optimizers.distributed.compressor import Axis
from metalearn_models.optimizers.distributed.error_feedback import all_reduce
from metalearn_models.optimizers.frame import transformation

__all__ = ["LocalState", "diloco", "local_sgd"]


class LocalState(NamedTuple):
    """What a device remembers between two of its steps.

    Attributes:
        inner: of the inner optimizer, of this device alone.
        outer: of the outer optimizer, the same on all devices.
        anchor: the parameters at the start of the round, the same on all devices.
        exchange: of the exchange.
        step: steps taken.
    """

    inner: Any
    outer: Any
    anchor: Any
    exchange: Any
    step: Int[Array, ""]


def local_sgd(
    inner: optax.GradientTransformation,
    outer: optax.GradientTransformation,
    period: int,
    axis: Axis,
    exchange: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Steps of an inner optimizer on each device, and a common outer step after every `period` of them.

    The transformation runs on every device with the gradient of its own share of the batch, see `data_parallel`.
    Between two outer steps the parameters of the devices differ, and nothing is sent. After an outer step they are
    equal up to rounding. Where the axis is not bound, there is one device, and the same code runs.

    A device leaves out a step whose update is not finite. An outer step whose mean is not finite is left out by all:
    each then continues from its own parameters.

    Args:
        inner: the optimizer of each device, such as `optax.sgd(0.1)`.
        outer: turns the mean of `anchor - params` over the devices into the update of the anchor. `optax.sgd(1.0)` sets
            the parameters to their mean.
        period: inner steps per outer step, H.
        axis: name of the mesh axis of the devices, or several names.
        exchange: the mean over devices, such as `compressed_all_reduce(eight_bit(), axis)`; None: `all_reduce(axis)`.

    Returns:
        The transformation; its `update` needs params.

    Raises:
        ValueError: the period is less than 1; by `update`: params are missing.
    """
    if period < 1:
        raise ValueError(f"local_sgd needs a period of at least 1 step, got {period}")
    within = optax.with_extra_args_support(inner)
    together = all_reduce(axis) if exchange is None else optax.with_extra_args_support(exchange)
    outside = optax.with_extra_args_support(outer)

    def start(params: Any) -> LocalState:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            states = within.init(params), outside.init(params), params, together.init(params)
        return LocalState(*states, jnp.int32(0))

    def outer_step(here: Any, state: LocalState) -> tuple[Any, LocalState]:
        drift = jax.tree.map(lambda a, p: a - p, state.anchor, here)
        movement, exchange = together.update(drift, state.exchange, state.anchor)
        updates, outer = outside.update(movement, state.outer, state.anchor)
        anchor = optax.apply_updates(state.anchor, updates)
        new = state._replace(outer=outer, anchor=anchor, exchange=exchange)
        return _select(_is_finite(movement), (anchor, new), (here, state))

    def update(updates: Any, state: LocalState, params: Any = None, **extra: Any) -> tuple[Any, LocalState]:
        if params is None:
            raise ValueError("local_sgd reads the parameters: call update(grads, state, params), got None")
        with jax.numpy_dtype_promotion("standard"):
            own, memory = within.update(updates, state.inner, params, **extra)
            zeros = jax.tree.map(jnp.zeros_like, own)
            own, memory = _select(_is_finite(own), (own, memory), (zeros, state.inner))
            state = state._replace(inner=memory, step=state.step + 1)
            here = optax.apply_updates(params, own)
            ends = state.step % period == 0
            there, state = jax.lax.cond(ends, outer_step, lambda here, state: (here, state), here, state)
            own = jax.tree.map(lambda a, p, u: jnp.where(ends, a - p, u), there, params, own)
        return own, state

    return transformation((), start, update)


def diloco(
    inner: optax.GradientTransformation,
    period: int,
    axis: Axis,
    learning_rate: Any = 0.7,
    momentum: Any = 0.9,
    exchange: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`local_sgd` with outer SGD and Nesterov's momentum, as in DiLoCo, whose inner optimizer is AdamW.

    The defaults of the outer rate and momentum are the paper's from memory, and were not compared with it. A good
    period depends on the problem; the paper's were in the hundreds.

    Args:
        inner: the optimizer of each device, such as `optax.adamw(1e-3)`.
        period: inner steps per outer step.
        axis: as in `local_sgd`.
        learning_rate: of the outer step.
        momentum: of the outer step.
        exchange: as in `local_sgd`.
    """
    return local_sgd(inner, optax.sgd(learning_rate, momentum, nesterov=True), period, axis, exchange)


def _is_finite(tree: Any) -> Bool[Array, ""]:
    return jnp.stack([jnp.array(True), *(jnp.isfinite(x).all() for x in jax.tree.leaves(tree))]).all()


def _select(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
