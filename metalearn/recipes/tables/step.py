"""The compiled step of a meta-training on tables, and its state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Int, PRNGKeyArray

from metalearn.recipes.tables.config import TableOptimizerConfig, TrainTablesConfig
from metalearn.recipes.tables.feed import Batch
from metalearn_models.tabular.transformer.learner import network

__all__ = ["State", "decay_begin", "init_state", "make_step", "table_optimizer"]


class State(NamedTuple):
    """The state of a meta-training.

    Attributes:
        theta: the moving average of the weights, which is what is evaluated and saved.
        weights: the weights that are trained.
        optimizer: state of the optimizer.
        step: steps done.
    """

    theta: Any
    weights: Any
    optimizer: Any
    step: Int[Array, ""]


def decay_begin(config: TableOptimizerConfig, steps: int) -> int:
    """The step after which the learning rate falls; until then a step does not depend on the length of the run."""
    return max(config.warmup, steps - round(config.decay * steps))


def table_optimizer(config: TableOptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Muon for matrices, Adam for the rest, behind a clip."""
    begin = decay_begin(config, steps)
    rate: Any = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, max(1, steps - begin)),
        ],
        [config.warmup, begin],
    )
    muon = optax.contrib.muon(rate, beta=config.momentum, adam_b1=0.9, adam_b2=0.98, adam_learning_rate=rate)
    return optax.chain(optax.clip_by_global_norm(config.clip), muon)


def init_state(config: TrainTablesConfig, key: PRNGKeyArray) -> State:
    """The state before the first step."""
    weights = network(config.learner).init(key)
    optimizer = table_optimizer(config.optimizer, config.steps).init(weights)
    return State(jax.tree.map(jnp.copy, weights), weights, optimizer, jnp.int32(0))


def make_step(
    config: TrainTablesConfig, add: Callable[[Any], Any] = lambda tree: tree
) -> Callable[[State, Batch], tuple[State, dict[str, Array]]]:
    """The step, `(state, batch) -> (state, metrics)`; it takes the buffers of its state.

    Where several processes share a batch, each has the whole state and its own tables, and `add` adds up sums and their
    gradients over processes, see `metalearn.runs.processes.add_up`.

    Metrics are those of one step, [1]: mean log loss and accuracy on the test rows, and the norm of the gradient. A
    test row counts if its class is among the training rows.
    """
    tx, run = table_optimizer(config.optimizer, config.steps), network(config.learner).run
    average = config.optimizer.average

    def loss(weights: Any, batch: Batch) -> tuple[Array, tuple[Array, Array]]:
        log_probs = run(weights, batch.context, batch.xs)
        right = jnp.take_along_axis(log_probs, batch.ys[..., None], -1)[..., 0]
        counts = jnp.isfinite(right)
        hits = ((log_probs.argmax(-1) == batch.ys) & counts).sum()
        return -jnp.where(counts, right, 0).sum(), (hits.astype(jnp.float32), counts.sum().astype(jnp.float32))

    @jax.jit
    def slope(weights: Any, batch: Batch) -> tuple[Any, Any]:
        return jax.value_and_grad(loss, has_aux=True)(weights, batch)

    @partial(jax.jit, donate_argnums=0)
    def update(state: State, sums: Any) -> tuple[State, dict[str, Array]]:
        (total, (hits, count)), gradient = sums
        count = jnp.maximum(count, 1)
        gradient = jax.tree.map(lambda x: x / count, gradient)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax's Muon needs both
            updates, optimizer = tx.update(gradient, state.optimizer, state.weights)
        weights: Any = optax.apply_updates(state.weights, updates)
        done = state.step.astype(jnp.float32)
        # The average follows faster at first, so that it forgets the initial weights.
        keep = jnp.minimum(average, (1.0 + done) / (10.0 + done))
        theta = jax.tree.map(lambda old, new: keep * old + (1 - keep) * new, state.theta, weights)
        metrics = {"loss": total / count, "score": hits / count, "grad_norm": optax.tree.norm(gradient)}
        return State(theta, weights, optimizer, state.step + 1), {name: x[None] for name, x in metrics.items()}

    # Two programs: the update is compiled once and not for each shape of tables.
    return lambda state, batch: update(state, add(slope(state.weights, batch)))
