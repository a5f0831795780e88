"""Joint predictions: how probable a learner finds several labels together, and so how well it knows its own doubts.

Osband et al. 2021, "Epistemic neural networks" (arXiv 2107.08924), score agents by the joint log-probability of `tau`
labels: a coin that may be fair and a coin that is known to be fair give the same marginal predictions, but not the same
joint ones. Two kinds of learners have a joint prediction:

- Learners that read examples, by the chain rule: each query is predicted, and then observed with its label. This is
  exact and needs no samples (Mittal et al. 2025, arXiv 2503.01215). It may depend on the order of the queries, so
  `joint_scores` reports the spread over orders.
- Models with an index z (ensembles, epinets, dropout), by the mean over indices of the product over queries.

All are one function, a `LogProb`. Log-probabilities are in nats and summed over the queries, as in DeepMind's code;
divide by tau for a mean per query. Minus infinity is a value like others: it is never clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.intervals import Interval, mean_interval
from metalearn.learner import Family, Learner, predictions, select_classes

__all__ = [
    "JointScores",
    "JointSummary",
    "LogProb",
    "chain_rule",
    "draw_polyad",
    "joint_scores",
    "marginals",
    "mean_over_indices",
    "summarise_joint",
]


LogProb = Callable[..., Float[Array, ""]]
"""`(key, context_xs[n, D], context_ys[n], xs[tau, D], ys[tau], classes=None) -> log-probability[]` of the labels `ys`.

The context is what is learned from; n may be 0. `classes[C]` says which outputs are classes, and only these get
probability; None: all of them.
"""


def chain_rule(learner: Learner, theta: Any) -> LogProb:
    """The joint prediction of a learner: the sum of the log-probabilities of each label after all that precede it.

    Args:
        learner: any learner of classes. Its context must hold the examples and the queries.
        theta: its meta-parameters.

    Returns:
        The `LogProb`. It raises ValueError if examples and queries are more than the learner's context holds.

    Raises:
        ValueError: the learner predicts real numbers, which have no probability.
    """
    signature = learner.signature
    if signature.regression:
        raise ValueError(
            "a learner of regression predicts a number, which has no probability: take a learner of classes"
        )

    def log_prob(
        key: PRNGKeyArray, context_xs: Array, context_ys: Array, xs: Array, ys: Array, classes: Any = None
    ) -> Float[Array, ""]:
        seen, queries = len(context_ys), len(ys)
        if seen + queries > signature.length:
            raise ValueError(
                f"{seen} examples and {queries} queries are longer than the learner's context of {signature.length}: "
                f"take at most {signature.length - queries} examples, or a learner with a longer context"
            )
        all_xs, all_ys = jnp.concatenate([context_xs, xs]), jnp.concatenate([context_ys, ys])
        logits = predictions(learner, theta, all_xs, all_ys, key)[seen:]
        return _log_probs(select_classes(logits, signature, _named(classes, signature.outputs)), ys).sum()

    return log_prob


def mean_over_indices(
    apply: Callable[[Any, Float[Array, "tau D"]], Float[Array, "tau C"]], draw: Callable[[PRNGKeyArray], Any]
) -> LogProb:
    """The joint prediction of a model with an index: queries are independent given z, and z is averaged over.

    The model has learned already; the context is in its parameters, and its examples are not read.

    Args:
        apply: `(z, xs) -> logits`.
        draw: `(key) -> indices`, a pytree whose leaves have one axis of indices in front. An ensemble gives all of its
            members and ignores the key. A model with infinitely many indices gives a sample of them.

    Returns:
        The `LogProb`. It raises ValueError if `draw` gives fewer than two indices.
    """

    def log_prob(
        key: PRNGKeyArray, context_xs: Array, context_ys: Array, xs: Array, ys: Array, classes: Any = None
    ) -> Float[Array, ""]:
        del context_xs, context_ys
        indices = draw(key)
        counts = {len(leaf) for leaf in jax.tree.leaves(indices)}
        count = counts.pop() if len(counts) == 1 else 0
        if count < 2:
            raise ValueError(
                "a joint prediction is a mean over indices: draw must give at least 2 in the first axis of all leaves, "
                f"got {jax.tree.map(jnp.shape, indices)}"
            )

        def of_one(index: Any) -> Float[Array, ""]:
            logits = apply(index, xs).astype(jnp.float32)
            named = _named(classes, logits.shape[-1])
            return _log_probs(logits if named is None else jnp.where(named, logits, -jnp.inf), ys).sum()

        return jax.scipy.special.logsumexp(jax.vmap(of_one)(indices)) - jnp.log(count)

    return log_prob


def marginals(log_prob: LogProb) -> LogProb:
    """The same learner asked for each query on its own: the sum of the marginal log-probabilities.

    Args:
        log_prob: a joint prediction.
    """

    def separate(
        key: PRNGKeyArray, context_xs: Array, context_ys: Array, xs: Array, ys: Array, classes: Any = None
    ) -> Float[Array, ""]:
        each = jax.vmap(lambda x, y: log_prob(key, context_xs, context_ys, x[None], y[None], classes))(xs, ys)
        return each.sum()

    return separate


def draw_polyad(
    key: PRNGKeyArray,
    anchors: Float[Array, "kappa D"],
    label: Callable[[PRNGKeyArray, Float[Array, "D"]], Array],
    tau: int,
) -> tuple[Float[Array, "tau D"], Int[Array, " tau"]]:
    """Queries that lie at few places, with a fresh label each: what tells agents apart in high dimensions.

    The labels are drawn anew at each visit. Copies of one label would reward a learner that remembers its context.
    Data without a teacher have no fresh labels: there, take `tau` different examples.

    Args:
        key: random key.
        anchors: kappa places; the testbed takes 2.
        label: `(key, x) -> y`, draws a label from the teacher.
        tau: number of queries; the testbed takes 10.
    """
    key_places, key_labels = jax.random.split(key)
    xs = anchors[jax.random.randint(key_places, (tau,), 0, len(anchors))]
    return xs, jax.vmap(label)(jax.random.split(key_labels, tau), xs)


class JointScores(NamedTuple):
    """Log-probabilities per task, in nats, summed over the queries.

    Attributes:
        joint: of the queries in the order of the episode: `[tasks]`.
        marginal: the same, each query on its own: `[tasks]`.
        spread: standard deviation of `joint` over orders of the queries: `[tasks]`; 0 for one order. Examples that can
            be exchanged have none.
    """

    joint: Float[Array, " tasks"]
    marginal: Float[Array, " tasks"]
    spread: Float[Array, " tasks"]


def joint_scores(
    log_prob: LogProb,
    family: Family,
    task: Callable[..., Any],
    *,
    context: int,
    queries: int,
    tasks: int = 128,
    orders: int = 8,
) -> Callable[[Any, PRNGKeyArray], JointScores]:
    """Compile the scoring of joint predictions on numbered tasks, at different inputs of one episode per task.

    Args:
        log_prob: what is scored.
        family: the source of episodes; labels are classes.
        task: `(data, index) -> task`, such as `family.unseen`.
        context: n, examples that are learned from.
        queries: tau, examples that are predicted together, those of the episode after the context.
        tasks: number of tasks, numbered from 0.
        orders: random orders of the queries for the spread.

    Returns:
        A compiled function `(data, key) -> JointScores`. Learners that are given the same key meet the same episodes.

    Raises:
        ValueError: a number is out of its range, or episodes are too short.
    """
    length = family.signature.length
    if context < 0 or min(queries, tasks, orders) < 1:
        raise ValueError(
            "context must be at least 0, and queries, tasks and orders at least 1; got "
            f"context={context}, queries={queries}, tasks={tasks}, orders={orders}"
        )
    if context + queries > length:
        raise ValueError(f"context={context} and queries={queries} are more than the {length} examples of an episode")

    @jax.jit
    def score(data: Any, key: PRNGKeyArray) -> JointScores:
        def of_task(index: Array) -> JointScores:
            key_episode, key_learner, key_orders = jax.random.split(jax.random.fold_in(key, index), 3)
            one = task(data, index)
            xs, ys = family.episode(data, one, key_episode)
            # Always said, so that a model with too few outputs is refused and others are no answer.
            classes = jnp.ones(family.signature.outputs, bool)
            classes = classes if family.classes is None else family.classes(data, one)
            given, end = (xs[:context], ys[:context]), context + queries
            xs, ys = xs[context:end], ys[context:end]

            def in_order(order: Array) -> Array:
                return log_prob(key_learner, *given, xs[order], ys[order], classes)

            several = jax.vmap(lambda k: in_order(jax.random.permutation(k, queries)))
            return JointScores(
                in_order(jnp.arange(queries)),
                marginals(log_prob)(key_learner, *given, xs, ys, classes),
                several(jax.random.split(key_orders, orders)).std(),
            )

        return jax.lax.map(of_task, jnp.arange(tasks), batch_size=16)

    return score


class JointSummary(NamedTuple):
    """Mean log-probabilities over tasks with 95 % intervals, and what the means leave out.

    Attributes:
        joint: of the queries together.
        marginal: of each query on its own, summed.
        spread: mean over tasks of the standard deviation over orders.
        impossible: number of tasks whose labels together have probability 0. They are not in `joint` and `spread`; with
            them the mean would be minus infinity.
        impossible_alone: the same for `marginal`.
    """

    joint: Interval
    marginal: Interval
    spread: float
    impossible: int
    impossible_alone: int


def summarise_joint(scores: JointScores) -> JointSummary:
    """Means over tasks. A log-probability of minus infinity is counted, and not averaged; a NaN makes its mean NaN.

    Args:
        scores: of `joint_scores`.
    """
    joint, marginal, spread = (np.asarray(values, np.float64) for values in scores)
    possible, possible_alone = joint != -np.inf, marginal != -np.inf
    return JointSummary(
        mean_interval(joint, where=possible),
        mean_interval(marginal, where=possible_alone),
        float(spread[possible].mean()) if possible.any() else float("nan"),
        int((~possible).sum()),
        int((~possible_alone).sum()),
    )


def _named(classes: Any, outputs: int) -> Any:
    """Which outputs of a model are classes; outputs beyond the tasks' are none.

    Raises:
        ValueError: the tasks have more classes than the model has outputs.
    """
    if classes is None:
        return None
    if len(classes) > outputs:
        raise ValueError(
            f"a joint prediction of {len(classes)} classes was asked of a model that has {outputs}: take a model with "
            "at least as many outputs"
        )
    return jnp.pad(jnp.asarray(classes), (0, outputs - len(classes)))


def _log_probs(logits: Float[Array, "tau C"], ys: Int[Array, " tau"]) -> Float[Array, " tau"]:
    """The log-probability of each label; minus infinity for labels that the logits do not have."""
    known = (ys >= 0) & (ys < logits.shape[-1])
    found = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), ys[:, None], -1, mode="clip")[:, 0]
    return jnp.where(known, found, -jnp.inf)
