"""Many training runs as one compiled program that records parameters and losses at chosen steps.

The idea of a data set of checkpoints is that of Peebles, Radosavovic, Brooks, Efros and Malik 2022, "Learning to learn
with generative models of neural network checkpoints" (arXiv 2209.12892). They kept 200 random steps per run; steps at
logarithmic distances are our choice, since the loss falls fastest in the beginning.

Shapes: R runs, S recorded steps, P parameters, L losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

__all__ = ["Recording", "Training", "log_spaced_steps", "record_runs", "train_by_gradients"]


class Training(NamedTuple):
    """One training run as pure functions.

    Attributes:
        init: `(key) -> state`.
        step: `(state, key) -> state`; the key is the same for all runs that are recorded together, so that they read
            their examples in one order, and their products with the examples are one large product.
        params: `(state) -> params`, what is recorded.
        losses: `(params) -> {name: scalar}`, what each checkpoint is measured by, such as the loss on the training and
            validation examples.
    """

    init: Callable[[PRNGKeyArray], Any]
    step: Callable[[Any, PRNGKeyArray], Any]
    params: Callable[[Any], Any]
    losses: Callable[[Any], Mapping[str, Float[Array, ""]]]


class Recording(NamedTuple):
    """What was recorded.

    Attributes:
        params: float32; each checkpoint as `ravel_pytree` flattens it.
        losses: float32 by name.
    """

    params: Float[Array, "R S P"]
    losses: dict[str, Float[Array, "R S"]]


def train_by_gradients(
    init: Callable[[PRNGKeyArray], Any],
    loss: Callable[[Any, Any], Float[Array, ""]],
    sample: Callable[[PRNGKeyArray], Any],
    optimizer: optax.GradientTransformation,
    losses: Callable[[Any], Mapping[str, Float[Array, ""]]],
) -> Training:
    """Train by an optax transformation, one of a learned optimizer included.

    Args:
        init: `(key) -> params`.
        loss: `(params, batch) -> scalar`; a learned loss fits as well.
        sample: `(key) -> batch`.
        optimizer: receives the loss as `value`, if it takes such arguments.
        losses: see `Training`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def start(key: PRNGKeyArray) -> Any:
        params = init(key)
        return params, optimizer.init(params)

    def step(state: Any, key: PRNGKeyArray) -> Any:
        params, memory = state
        value, gradient = jax.value_and_grad(loss)(params, sample(key))
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it, whatever the caller's setting
            updates, memory = optimizer.update(gradient, memory, params, value=value)
            return optax.apply_updates(params, updates), memory

    return Training(start, step, lambda state: state[0], losses)


def log_spaced_steps(steps: int, snapshots: int) -> tuple[int, ...]:
    """Step 0, and `snapshots - 1` further steps whose logarithms are about equally far apart; the last is `steps`.

    Raises:
        ValueError: fewer than two snapshots, or more than there are steps.
    """
    if not 2 <= snapshots <= steps + 1:
        raise ValueError(f"snapshots must be between 2 and steps + 1 = {steps + 1}, got {snapshots}")
    at = [0]
    for left in range(snapshots - 1, 0, -1):
        # Each step is at least one after the last, and what is left is spaced anew.
        at.append(max(at[-1] + 1, round(max(at[-1], 1) * (steps / max(at[-1], 1)) ** (1 / left))))
        if left == snapshots - 1:
            at[-1] = 1 if snapshots > 2 else steps
    return tuple(at)


def record_runs(
    training: Training, keys: Key[Array, "R"], order: PRNGKeyArray, at: tuple[int, ...] | Int[np.ndarray, "S"]
) -> Recording:
    """Train R runs at once and record them.

    Args:
        training: what is trained.
        keys: of the initial states, one per run.
        order: the key that all steps' keys are folded from.
        at: the steps to record, increasing from 0 or later.

    Raises:
        ValueError: the steps do not increase.
    """
    steps = np.asarray(at, np.int32)
    if len(steps) == 0 or steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise ValueError(f"the steps to record must increase from 0 on, got {tuple(at)}")
    return _record(training, keys, order, jnp.asarray(steps))


@partial(jax.jit, static_argnums=0)
def _record(training: Training, keys: Array, order: PRNGKeyArray, at: Array) -> Recording:
    def advance(states: Any, ends: tuple[Array, Array]) -> tuple[Any, tuple[Array, Any]]:
        def step(t: Array, states: Any) -> Any:
            key = jax.random.fold_in(order, t)
            return jax.vmap(lambda state: training.step(state, key))(states)

        states = jax.lax.fori_loop(*ends, step, states)
        params = jax.vmap(training.params)(states)
        flat = jax.vmap(lambda tree: ravel_pytree(tree)[0].astype(jnp.float32))(params)
        losses = {name: x.astype(jnp.float32) for name, x in jax.vmap(training.losses)(params).items()}
        return states, (flat, losses)

    begins = jnp.concatenate([jnp.zeros(1, jnp.int32), at[:-1]])
    _, (flat, losses) = jax.lax.scan(advance, jax.vmap(training.init)(keys), (begins, at))
    return Recording(flat.swapaxes(0, 1), {name: x.swapaxes(0, 1) for name, x in losses.items()})
