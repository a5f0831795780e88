"""Every agent as a learner: it is trained anew on all examples so far whenever one more is observed.

Before the first example its networks are as they were drawn. So an agent stands in the same curves as a learner
that reads examples, and `metalearn.joint.chain_rule` asks it for joint predictions too, in which each label is learned
from before the next is predicted. That costs a whole training per example: take few tasks and short sequences. The
random numbers of a sequence are the same at every training, so two trainings differ by what they have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Labels, Learner, Signature
from metalearn_models.epistemic.index import Agent, Knowledge, Params, marginal_log_probs
from metalearn_models.epistemic.training import train, untrained

__all__ = ["AgentState", "as_learner"]


class AgentState(NamedTuple):
    """The examples so far, and the agent that was trained on them.

    Attributes:
        xs: inputs; rows `stored` and later are 0.
        ys: labels; rows `stored` and later are 0.
        stored: number of examples.
        key: of all trainings and predictions of this sequence.
        params: of the agent after the last training.
    """

    xs: Float[Array, "T D"]
    ys: Int[Array, " T"]
    stored: Int[Array, ""]
    key: PRNGKeyArray
    params: Params


def as_learner(
    signature: Signature,
    build: Callable[[Signature], Agent],
    temperature: float = 0.1,
    indices: int = 100,
) -> Learner:
    """An agent as a learner without meta-parameters.

    Args:
        signature: shapes of the task; classification. The memory holds `signature.length` examples; later ones are
            ignored.
        build: makes the agent of a signature, for instance `epinet`.
        temperature: what the agent is told for the temperature of its tasks; the default is our choice.
        indices: indices of a prediction, where there are infinitely many.

    Returns:
        A learner. Its predictions are log-probabilities, those of the mean over indices.

    Raises:
        ValueError: the temperature is not positive, or what `build` raises, as for a signature of regression.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    agent, length = build(signature), signature.length

    def tell(stored: Array) -> Knowledge:
        return Knowledge(jnp.maximum(stored, 1).astype(jnp.float32), jnp.float32(temperature))

    def start(theta: Any, key: PRNGKeyArray) -> AgentState:
        del theta
        xs, ys = jnp.zeros((length, signature.inputs), jnp.float32), jnp.zeros(length, jnp.int32)
        return AgentState(xs, ys, jnp.int32(0), key, untrained(agent, tell(jnp.int32(0)), key))

    def predict(theta: Any, state: AgentState, x: Float[Array, "D"]) -> Float[Array, "C"]:
        del theta
        return marginal_log_probs(agent, state.params, x[None], jax.random.fold_in(state.key, 1), indices)[0]

    def observe(theta: Any, state: AgentState, x: Float[Array, "D"], y: Labels) -> AgentState:
        del theta
        xs = state.xs.at[state.stored].set(x, mode="drop")
        ys = state.ys.at[state.stored].set(y, mode="drop")
        stored = jnp.minimum(state.stored + 1, length)
        params = train(agent, xs, ys, tell(stored), state.key, filled=stored)
        return AgentState(xs, ys, stored, state.key, params)

    shapes = jax.eval_shape(lambda key: start((), key), jax.random.key(0))
    floats = sum(leaf.size for leaf in jax.tree.leaves(shapes) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return Learner(lambda key: (), start, predict, observe, None, int(floats), signature)
