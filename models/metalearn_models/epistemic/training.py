"""One compiled loop that trains every agent, for many tasks at once.

Examples are rows of an array that may be longer than their number: the rows after them are padding. So tasks of
different sizes, temperatures and seeds are one program under `jax.vmap`. Minibatches are drawn with replacement from
the examples; up to `batch` rows are one batch, in order. The testbed takes 100 (Osband et al. 2022, arXiv 2110.04629).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.epistemic.index import Agent, Examples, Knowledge, Params

__all__ = ["train", "untrained"]

BURN_IN = (1, 4)
"""Steps before the first kept snapshot to steps after it."""


def untrained(agent: Agent, knowledge: Knowledge, key: PRNGKeyArray) -> Params:
    """The parameters that `train` with this key starts from, in the form in which `agent.apply` takes them.

    Args:
        agent: any agent.
        knowledge: what the agent is told.
        key: as of `train`.
    """
    params = agent.init(jax.random.split(key, 3)[0], knowledge)
    if not agent.snapshots:
        return params
    return params._replace(learned=jax.tree.map(lambda leaf: jnp.stack([leaf] * agent.snapshots), params.learned))


def train(
    agent: Agent,
    xs: Float[Array, "N D"],
    ys: Int[Array, " N"],
    knowledge: Knowledge,
    key: PRNGKeyArray,
    batch: int = 100,
    filled: Int[Array, ""] | None = None,
) -> Params:
    """Train an agent on the examples of one task, from fresh parameters.

    Args:
        agent: any agent.
        xs: inputs; rows from `filled` on are padding and may hold anything finite.
        ys: labels below the agent's number of classes.
        knowledge: what the agent is told.
        key: initial parameters, minibatches and the agent's own randomness.
        batch: the most rows per step.
        filled: number of rows that are examples; None: `knowledge.examples`.

    Returns:
        Trained parameters; the fixed ones are as they were drawn.

    Raises:
        ValueError: the inputs do not fit the agent, or the numbers of inputs and labels differ.
    """
    if xs.shape != (len(ys), agent.signature.inputs):
        raise ValueError(
            f"xs must be [{len(ys)}, {agent.signature.inputs}], one row of the agent's inputs per label; got "
            f"{list(xs.shape)}"
        )
    key_init, key_optimizer, key_steps = jax.random.split(key, 3)
    params = agent.init(key_init, knowledge)
    tx = agent.optimizer(knowledge, key_optimizer)
    count = jnp.asarray(knowledge.examples if filled is None else filled).astype(jnp.int32)

    def body(carry: tuple[Any, Any], step: Array) -> tuple[tuple[Any, Any], None]:
        learned, memory = carry
        key_batch, key_loss = jax.random.split(jax.random.fold_in(key_steps, step))
        if len(ys) <= batch:
            rows, weights = jnp.arange(len(ys)), (jnp.arange(len(ys)) < count).astype(jnp.float32)
        else:
            rows = jax.random.randint(key_batch, (batch,), 0, jnp.maximum(count, 1))
            weights = jnp.broadcast_to((count > 0).astype(jnp.float32), (batch,))

        def loss(learned: Any) -> Array:
            given = Params(learned, params.fixed)
            return agent.loss(given, Examples(xs[rows], ys[rows], weights), knowledge, key_loss)

        updates, memory = tx.update(jax.grad(loss)(learned), memory, learned)
        return (optax.apply_updates(learned, updates), memory), None

    carry, kept = (params.learned, tx.init(params.learned)), agent.snapshots
    every = BURN_IN[1] * agent.steps // (BURN_IN[1] + BURN_IN[0]) // kept if kept else 0
    first = agent.steps - kept * every
    carry, _ = jax.lax.scan(body, carry, jnp.arange(first))
    if not kept:
        return Params(carry[0], params.fixed)

    def keep(carry: tuple[Any, Any], steps: Array) -> tuple[tuple[Any, Any], Any]:
        carry, _ = jax.lax.scan(body, carry, steps)
        return carry, carry[0]

    steps = rearrange(jnp.arange(first, agent.steps), "(kept every) -> kept every", every=every)
    return Params(jax.lax.scan(keep, carry, steps)[1], params.fixed)
