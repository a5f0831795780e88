"""How sure a learner is of its own probabilities, from how far each example still moved them.

Fortini, Ng, Petrone, Rousseau and Wei 2026 (arXiv 2602.04596): a learner that predicts as Bayes' rule does gives
probabilities that settle as examples arrive. How far they are from where they will settle can be read from their
updates. With p_k the prediction after k of n examples, the limit is nearly normal around p_n with variance

    V / n,      V = 1/n sum_k k^2 (p_k - p_{k-1})^2.

A learner that reads all examples anew for each of its predictions is asked after some numbers of examples only,
n_0 < ... < n_J. Between two of them the sum of the updates has variance V (1/n_{j-1} - 1/n_j), so with J such steps

    V = 1/J sum_j (p_{n_j} - p_{n_{j-1}})^2 / (1/n_{j-1} - 1/n_j),

which is our reading of the formula above: with a step per example its denominator is 1 / (k (k - 1)).

It needs no samples, no other inputs and no second network: only the predictions along the context. It is as good as the
learner's predictions are like Bayes' rule, and an average over orders of the examples is steadier than one order.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Labels, Learner, select_classes

__all__ = ["epistemic_variance", "step_variance", "update_variance"]


def update_variance(probabilities: Float[Array, "n1 *Q C"]) -> Float[Array, "*Q C"]:
    """The variance of where probabilities will settle, from their values after 0, 1, ..., n examples.

    Args:
        probabilities: along the context; the first row is before any example.

    Returns:
        V / n of each entry.

    Raises:
        ValueError: there are fewer than two rows, so no update.
    """
    n = len(probabilities) - 1
    if n < 1:
        raise ValueError(
            "a variance needs at least one update: probabilities must have a row before the first example and one "
            f"after each, got {len(probabilities)} rows"
        )
    k = jnp.arange(1, n + 1, dtype=jnp.float32).reshape(-1, *[1] * (probabilities.ndim - 1))
    return jnp.square(k * jnp.diff(probabilities.astype(jnp.float32), axis=0)).sum(0) / n**2


def step_variance(
    probabilities: Float[np.ndarray, "J1 *Q C"], examples: Int[np.ndarray, " J1"]
) -> Float[np.ndarray, "*Q C"]:
    """The variance of where probabilities will settle, from their values after some numbers of examples.

    Args:
        probabilities: along the context.
        examples: how many had been read; positive, each more than the one before.

    Returns:
        V over the last number, of each entry.

    Raises:
        ValueError: there are fewer than two numbers, or they do not grow, or are not those of the rows.
    """
    if len(examples) < 2 or len(examples) != len(probabilities) or examples[0] < 1 or (np.diff(examples) < 1).any():
        raise ValueError(
            "need at least two growing numbers of examples, one per row of probabilities, from 1 on; got "
            f"{np.asarray(examples).tolist()} for {len(probabilities)} rows"
        )
    share = (-np.diff(1.0 / examples)).reshape(-1, *[1] * (probabilities.ndim - 1))
    return (np.square(np.diff(probabilities, axis=0)) / share).mean(0) / examples[-1]


def epistemic_variance(
    learner: Learner,
    theta: Any,
    xs: Float[Array, "n D"],
    ys: Labels,
    queries: Float[Array, "Q D"],
    key: PRNGKeyArray,
    classes: Any = None,
    orders: int = 8,
) -> tuple[Float[Array, "Q C"], Float[Array, "Q C"]]:
    """A learner's probabilities of queries, and the variance of where they will settle.

    The learner reads the examples in several random orders; both results are means over these.

    Args:
        learner: any learner of classes.
        theta: its meta-parameters.
        xs: examples, at least one.
        ys: their labels.
        queries: inputs to predict; they are never observed.
        key: draws the orders.
        classes: which outputs are classes; None: all.
        orders: how many orders.

    Raises:
        ValueError: the learner predicts real numbers, the examples do not fit into its context, there is none, or a
            number is out of its range.
    """
    signature = learner.signature
    if signature.regression:
        raise ValueError("a learner of regression predicts a number, which has no probability: take one of classes")
    if not 1 <= len(ys) <= signature.length:
        raise ValueError(f"need 1 to {signature.length} examples, what the learner's context holds; got {len(ys)}")
    if orders < 1:
        raise ValueError(f"orders must be at least 1, got {orders}")

    def in_order(key: PRNGKeyArray) -> tuple[Array, Array]:
        key_order, key_learner = jax.random.split(key)
        order = jax.random.permutation(key_order, len(ys))

        def ask(state: Any) -> Float[Array, "Q C"]:
            logits = jax.vmap(lambda x: learner.predict(theta, state, x))(queries)
            return jax.nn.softmax(select_classes(logits.astype(jnp.float32), signature, classes))

        def body(state: Any, example: tuple[Array, Array]) -> tuple[Any, Array]:
            state = learner.observe(theta, state, *example)
            return state, ask(state)

        start = learner.start(theta, key_learner)
        _, after = jax.lax.scan(body, start, (xs[order], ys[order]))
        return after[-1], update_variance(jnp.concatenate([ask(start)[None], after]))

    found, variance = jax.lax.map(in_order, jax.random.split(key, orders))
    return found.mean(0), variance.mean(0)
