"""Epistemic networks: networks with an index z, whose spread says what the network does not know.

Osband et al. 2021, "Epistemic neural networks" (arXiv 2107.08924). A network `f(params, xs, z)` is drawn by drawing z.
For one z its predictions of several inputs are independent; averaged over z they are not, so that one label tells
something about the next. Every agent of this folder is one such network and the loss that it is trained by, so one
compiled loop (`training.py`) trains all of them, and `joint` asks all of them for joint predictions.

Shapes: N examples, D inputs, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.joint import LogProb, mean_over_indices
from metalearn.learner import Signature

__all__ = ["Agent", "Examples", "Knowledge", "Params", "joint", "marginal_log_probs"]


class Knowledge(NamedTuple):
    """What an agent is told about a task besides its examples, as the neural testbed tells it.

    Both are arrays, so one compiled program serves tasks that differ in them.

    Attributes:
        examples: n, their number; at least 1.
        temperature: what the teacher's logits were divided by: small if labels are nearly sure.
    """

    examples: Float[Array, ""]
    temperature: Float[Array, ""]


class Examples(NamedTuple):
    """A minibatch.

    Attributes:
        xs: inputs.
        ys: labels.
        weights: 1 for an example that counts, 0 for one that does not.
    """

    xs: Float[Array, "N D"]
    ys: Int[Array, " N"]
    weights: Float[Array, " N"]


class Params(NamedTuple):
    """Parameters of an agent.

    Attributes:
        learned: what training changes, a pytree.
        fixed: what it never changes, such as networks drawn from a prior and their scale; `()` if there is nothing.
    """

    learned: Any
    fixed: Any


class Agent(NamedTuple):
    """An epistemic network and how it is trained.

    Attributes:
        init: `(key, knowledge) -> Params`.
        apply: `(params, xs[N, D], z) -> logits[N, C]`.
        draw: `(key, count) -> indices`, a pytree with an axis of indices in front. An agent with finitely many indices
            gives all of them, whatever the count, but at least two.
        loss: `(params, examples, knowledge, key) -> scalar`.
        optimizer: `(knowledge, key) -> transformation` of optax, of `Params.learned`.
        steps: training steps.
        signature: the shapes that it was built for.
        snapshots: how many of the parameters that training passes through are kept, at equal distances over the last
            four fifths of the steps. They are then `Params.learned` for `apply`, with an axis of snapshots in front,
            while `init` and `loss` know one. 0: only the last parameters are kept, without an axis.
    """

    init: Callable[[PRNGKeyArray, Knowledge], Params]
    apply: Callable[[Params, Float[Array, "N D"], Any], Float[Array, "N C"]]
    draw: Callable[[PRNGKeyArray, int], Any]
    loss: Callable[[Params, Examples, Knowledge, PRNGKeyArray], Float[Array, ""]]
    optimizer: Callable[[Knowledge, PRNGKeyArray], optax.GradientTransformation]
    steps: int
    signature: Signature
    snapshots: int = 0


def joint(agent: Agent, params: Params, indices: int = 1000) -> LogProb:
    """The joint prediction of a trained agent.

    Args:
        agent: any agent.
        params: its trained parameters.
        indices: how many indices the mean is over, where there are infinitely many; 1,000 as in the testbed.

    Returns:
        A `LogProb` of `metalearn.joint`. Its context is not read: the agent has been trained on it.

    Raises:
        ValueError: fewer than two indices.
    """
    if indices < 2:
        raise ValueError(f"a joint prediction is a mean over indices: indices must be at least 2, got {indices}")
    return mean_over_indices(lambda z, xs: agent.apply(params, xs, z), lambda key: agent.draw(key, indices))


def marginal_log_probs(
    agent: Agent, params: Params, xs: Float[Array, "N D"], key: PRNGKeyArray, indices: int = 1000
) -> Float[Array, "N C"]:
    """Log-probabilities of the classes of each input on its own: the mean over indices of the probabilities.

    Args:
        agent: any agent.
        params: its trained parameters.
        xs: inputs.
        key: draws the indices.
        indices: how many, where there are infinitely many.

    Returns:
        Log-probabilities, normalised over the classes.
    """
    drawn = agent.draw(key, indices)
    logits = jax.vmap(lambda z: agent.apply(params, xs, z))(drawn).astype(jnp.float32)
    return jax.scipy.special.logsumexp(jax.nn.log_softmax(logits), 0) - jnp.log(logits.shape[0])
