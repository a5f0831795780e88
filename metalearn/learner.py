"""What learns from examples, what it learns from, and the loss that meta-training minimises.

A `Learner` turns examples into predictions, one at a time: it predicts the label of `x`, then observes `(x, y)`. How it
does so is up to the learner: a Transformer that reads a sequence, a network that is trained online by Adam and a
nearest-neighbour rule all have the same five functions. `inner_loop` puts any learner on any family of tasks, and gives
the `InnerLoop` that all gradient estimators and learning curves drive.

One learner sees one sequence. Batches are `jax.vmap`, except for the parallel `run`, which takes leading axes.
Shapes: T examples, D inputs, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import pack, rearrange, unpack
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from metalearn.inner import InnerLoop

__all__ = [
    "Family",
    "Labels",
    "Learner",
    "Signature",
    "batch_run",
    "check_signatures",
    "encode_label",
    "inner_loop",
    "prediction_loss",
    "prediction_score",
    "predictions",
    "predictions_in_order",
    "select_classes",
]

Labels = Int[Array, "*T"] | Float[Array, "*T"]
"""Labels of a sequence: classes as integers, or real numbers."""


class Signature(NamedTuple):
    """The shapes on which a family of tasks and a learner must agree.

    Attributes:
        inputs: D, the width of one example.
        outputs: C, the number of classes; 1 for regression.
        length: T, the number of examples in a sequence.
        regression: True if labels are real numbers (`float32`), False if they are classes (`int32`).
    """

    inputs: int
    outputs: int
    length: int
    regression: bool = False


class Learner(NamedTuple):
    """A learning algorithm: five pure functions, the size of its state, and the shapes it was built for.

    Attributes:
        init: `(key) -> theta`, initial meta-parameters, a pytree of float arrays; empty if nothing is meta-learned.
        start: `(theta, key) -> state`, the state before the first example.
        predict: `(theta, state, x[D]) -> logits[C]`, or the predicted value `[1]` in regression.
        observe: `(theta, state, x[D], y[]) -> state`, learns from one labelled example.
        run: `(theta, xs[*B, T, D], ys[*B, T]) -> logits[*B, T, C]`, whole sequences in parallel, with any leading axes.
            It must equal the loop over `predict` and `observe`, in which row `t` is predicted before `ys[t]` is
            observed. None: there is only the loop.
        state_size: N_S, the number of floats in `state` that can influence the next prediction (Kirsch et al. 2022,
            arXiv 2212.04458, section 4.2).
        signature: the shapes that it was built for.
    """

    init: Callable[..., Any]
    start: Callable[..., Any]
    predict: Callable[..., Any]
    observe: Callable[..., Any]
    run: Callable[..., Any] | None
    state_size: int
    signature: Signature


class Family(NamedTuple):
    """A distribution of tasks: those of meta-training, and those held out from it.

    A task is any pytree. The examples are in the argument `data`, so that the same tasks can be drawn on training and
    on test examples. `data` is `()` for a family that makes its own examples.

    Attributes:
        signature: shapes of its sequences.
        sample: `(data, key) -> task`, a task of the meta-training distribution.
        seen: `(data, index) -> task`, the index-th task of meta-training; None if each task of meta-training is new.
        unseen: `(data, index) -> task`, the index-th task that does not occur in meta-training.
        episode: `(data, task, key) -> (xs[T, D], ys[T])`, a new sequence of examples of one task.
        classes: `(data, task) -> bool[C]`, the outputs that stand for a class of the data; only these compete in scores
            and losses. None: the first `signature.outputs`.
    """

    signature: Signature
    sample: Callable[..., Any]
    seen: Callable[..., Any] | None
    unseen: Callable[..., Any]
    episode: Callable[..., tuple[Array, Array]]
    classes: Callable[..., Array] | None = None


def encode_label(y: Labels, outputs: int) -> Float[Array, "*T C"]:
    """Encode a label as input of a learner: a class (integer) as one-hot vector, a real label as the number itself."""
    if jnp.issubdtype(y.dtype, jnp.integer):
        return jax.nn.one_hot(y, outputs, dtype=jnp.float32)
    return jnp.broadcast_to(y[..., None], (*y.shape, outputs)).astype(jnp.float32)


def select_classes(
    logits: Float[Array, "*T C"], signature: Signature, classes: Bool[Array, "..."] | None = None
) -> Float[Array, "..."]:
    """Leave only the outputs that stand for a class of the data: a learner can have more than there are classes.

    A name that no class has is no answer. It must neither win nor take probability from the classes.

    Args:
        logits: of a learner.
        signature: of the tasks; outputs from `signature.outputs` on are dropped. In regression all are kept.
        classes: which of the remaining outputs are classes; it broadcasts against them. None: all.

    Returns:
        The first `signature.outputs` logits, -inf where no class is. The same array where nothing is dropped.
    """
    if signature.regression:
        return logits
    kept = logits if logits.shape[-1] == signature.outputs else logits[..., : signature.outputs]
    return kept if classes is None else jnp.where(classes, kept, -jnp.inf)


def prediction_loss(logits: Float[Array, "*T C"], y: Labels) -> Float[Array, "*T"]:
    """Cross-entropy for classes (integer `y`), squared error for real labels. Computed in float32."""
    logits = logits.astype(jnp.float32)
    if jnp.issubdtype(y.dtype, jnp.integer):
        return optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.square(logits[..., 0] - y)


def prediction_score(logits: Float[Array, "*T C"], y: Labels) -> Float[Array, "*T"]:
    """The score in learning curves: 1 for the right class and 0 for a wrong one; the squared error for real labels."""
    if jnp.issubdtype(y.dtype, jnp.integer):
        return (jnp.argmax(logits, -1) == y).astype(jnp.float32)
    return prediction_loss(logits, y)


def predictions(
    learner: Learner, theta: Any, xs: Float[Array, "*B T D"], ys: Labels, key: PRNGKeyArray
) -> Float[Array, "*B T C"]:
    """Predict every example of every sequence from the examples before it, in parallel if the learner can.

    Args:
        learner: the learner; its `run` is used if it has one, else the loop.
        theta: its meta-parameters.
        xs: examples, with any leading axes.
        ys: their labels; `ys[..., t]` is observed after row `t` is predicted.
        key: randomness of `learner.start`, different for each sequence.

    Returns:
        Logits; row `t` depends on `xs[..., :t+1, :]` and `ys[..., :t]` only.
    """
    if learner.run is not None:
        return learner.run(theta, xs, ys)
    (flat_xs, batch), (flat_ys, _) = pack([xs], "* t d"), pack([ys], "* t")
    keys = jax.random.split(key, flat_xs.shape[0])
    logits = jax.vmap(lambda x, y, k: predictions_in_order(learner, theta, x, y, k))(flat_xs, flat_ys, keys)
    return unpack(logits, batch, "* t c")[0]


def predictions_in_order(
    learner: Learner, theta: Any, xs: Float[Array, "T D"], ys: Labels, key: PRNGKeyArray
) -> Float[Array, "T C"]:
    """The loop over `predict` and `observe` on one sequence, which `run` must equal. Arguments as in `predictions`."""

    def body(state: Any, example: tuple[Array, Array]) -> tuple[Any, Array]:
        x, y = example
        return learner.observe(theta, state, x, y), learner.predict(theta, state, x)

    return jax.lax.scan(body, learner.start(theta, key), (xs, ys))[1]


def batch_run(run: Callable[..., Array]) -> Callable[..., Array]:
    """Turn a `run` for one sequence, `(theta, xs[T, D], ys[T])`, into one for any leading axes."""

    def run_batch(theta: Any, xs: Float[Array, "*B T D"], ys: Labels) -> Float[Array, "*B T C"]:
        (flat_xs, batch), (flat_ys, _) = pack([xs], "* t d"), pack([ys], "* t")
        logits = jax.vmap(lambda x, y: run(theta, x, y))(flat_xs, flat_ys)
        return unpack(logits, batch, "* t c")[0]

    return run_batch


def check_signatures(learner: Learner, family: Family) -> None:
    """Refuse a learner whose shapes do not fit the tasks.

    Raises:
        ValueError: the inputs or the kind of label differ, or the learner has too few outputs or too short a context;
            the message names both signatures.
    """
    have, need = learner.signature, family.signature
    if have.outputs < need.outputs and not need.regression:
        raise ValueError(
            f"the tasks have {need.outputs} classes, the learner has only {have.outputs} outputs: "
            f"build the learner with at least {need.outputs} outputs"
        )
    if have.inputs != need.inputs or have.regression != need.regression or have.length < need.length:
        raise ValueError(
            f"the learner was built for {have}, the tasks have {need}: build it with the signature of the tasks"
        )


def inner_loop(learner: Learner, family: Family, sequences: int = 1) -> InnerLoop:
    """Unroll a learner over one task of a family: step `t` predicts example `t`, then observes it.

    Args:
        learner: any learner.
        family: any family of tasks whose signature fits.
        sequences: independent sequences of the same task per trajectory; their losses are averaged. The sequences share
            the cost of making the task.

    Returns:
        An `InnerLoop` of `family.signature.length` steps, with the `data` of the family. The loss of a step is
        `prediction_loss`, its aux is `{"score": prediction_score}`, both of the outputs that `select_classes` leaves.

    Raises:
        ValueError: the signatures do not fit.
    """
    check_signatures(learner, family)
    length = family.signature.length

    def compete(logits: Array, classes: list[Array]) -> Array:
        return select_classes(logits, family.signature, *classes)

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> Any:
        key_task, key_episode, key_learner = jax.random.split(key, 3)
        task = family.sample(data, key_task)
        episode = jax.vmap(lambda k: family.episode(data, task, k))(jax.random.split(key_episode, sequences))
        if family.classes is not None:
            episode = (*episode, family.classes(data, task))
        state = jax.vmap(lambda k: learner.start(theta, k))(jax.random.split(key_learner, sequences))
        return episode, state

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        del key, data  # all randomness of an episode is drawn in init
        episode, inner = state
        xs, ys, *classes = episode
        x, y = jax.lax.dynamic_index_in_dim(xs, t, 1, False), jax.lax.dynamic_index_in_dim(ys, t, 1, False)
        logits = compete(jax.vmap(lambda s, x: learner.predict(theta, s, x))(inner, x), classes)
        inner = jax.vmap(lambda s, x, y: learner.observe(theta, s, x, y))(inner, x, y)
        aux = {"score": prediction_score(logits, y).mean()}
        return (episode, inner), prediction_loss(logits, y).mean(), aux

    def run(
        theta: Any, states: Any, t0: Array, window: int, keys: Key[Array, "B"], data: Any
    ) -> tuple[Any, Array, dict[str, Array]]:
        del t0, keys, data
        (xs, ys, *classes), _ = states
        assert learner.run is not None and window == length, "the parallel run covers whole sequences"
        classes = [rearrange(c, "b c -> b 1 1 c") for c in classes]
        logits = compete(learner.run(theta, xs, ys), classes)  # [B, S, T, C]
        return states, prediction_loss(logits, ys).mean(1), {"score": prediction_score(logits, ys).mean(1)}

    return InnerLoop(init, step, run if learner.run is not None else None, length)
