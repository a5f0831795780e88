"""The networks and the data on which optimizers are compared, and one training run as a compiled program.

Networks have ReLU units and no biases, as in the paper, so that every parameter is the kernel of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.optimizers.neurons.methods import Method
from experiments.optimizers.neurons.networks import AUTOENCODER, CONV, Network, draw_kernels
from metalearn_models.optimizers.curvature import mark_logits
from metalearn_tasks import datasets

__all__ = ["NETWORKS", "TASKS", "Data", "Run", "Task", "draw_batches", "draw_data", "init", "loss", "make_training"]


class Task(NamedTuple):
    """What is trained on what.

    Attributes:
        hidden: widths of the hidden layers.
        examples: training examples; None: all that the data set has.
        noise: share of the training labels that are drawn again from all classes.
        batch: examples per update; None: all of them.
        steps: updates of a run.
        source: "digits" (scikit-learn), or "mnist", the data set that the option --mnist names.
        network: name in `NETWORKS`.
        size: height and width to which images are resized; None: as they are.
    """

    hidden: tuple[int, ...]
    examples: int | None
    noise: float
    batch: int | None
    steps: int
    source: Literal["digits", "mnist"] = "digits"
    network: Literal["mlp", "conv", "autoencoder"] = "mlp"
    size: int | None = None


TASKS = {
    "digits": Task((128, 128, 128), None, 0.0, 100, 150),
    "noise": Task((64, 64, 64), 150, 0.5, None, 100),
    "logistic": Task((), 100, 0.0, None, 100),
    "mnist": Task((1000, 1000, 1000), 10_000, 0.0, 100, 300, "mnist"),
    "small-mnist": Task((200, 200, 200), 10_000, 0.0, 100, 150, "mnist", size=14),
}
"""Tasks by name. `noise` and `logistic`, which has no hidden layer, have exact gradients; the others have those of
batches; `small-mnist` is `mnist` at a size that takes ten minutes."""
POINTS = 10
"""Times at which a run is evaluated, at equal distances; the last is its end."""


class Data(NamedTuple):
    """Training and test examples."""

    inputs: Float[Array, "N D"]
    labels: Int[Array, "N"]
    test_inputs: Float[Array, "M D"]
    test_labels: Int[Array, "M"]


class Run(NamedTuple):
    """What is measured of a run.

    Attributes:
        batch_loss: loss on each step's own batch, before its update.
        train_loss: loss on all training examples, at each of the evaluations.
        test_accuracy: at each of the evaluations; of an autoencoder, the share of the variance that it explains.
    """

    batch_loss: Float[Array, "T"]
    train_loss: Float[Array, "E"]
    test_accuracy: Float[Array, "E"]


def draw_data(task: Task, seed: int, mnist: str = "mnist") -> Data:
    """The examples of a task; digits are split, and labels redrawn, by the seed.

    Raises:
        DataNotPreparedError: MNIST is not there.
    """
    found = _load(task, seed, mnist)
    rng = np.random.default_rng(seed)
    inputs, labels = (np.asarray(x) for x in found.train)
    rows = rng.permutation(len(labels))[: task.examples]
    labels = labels[rows]
    redrawn = rng.random(len(rows)) < task.noise
    labels = np.where(redrawn, rng.integers(0, found.classes, len(rows)), labels)
    return Data(*map(jnp.asarray, (inputs[rows], labels, *found.test)))


def init(task: Task, inputs: int, key: PRNGKeyArray) -> list[Array]:
    """Initial kernels, normal with variance 2 / fan_in (He et al. 2015, arXiv 1502.01852)."""
    return NETWORKS[task.network].init(task.hidden, inputs, key)


def predict(params: list[Array], x: Float[Array, "B D"]) -> Float[Array, "B C"]:
    """Logits of a batch."""
    for kernel in params[:-1]:
        x = jax.nn.relu(x @ kernel)
    return x @ params[-1]


def loss(params: list[Array], x: Float[Array, "B D"], y: Int[Array, "B"]) -> Float[Array, ""]:
    """Mean cross-entropy of a batch in nats."""
    logits = mark_logits(predict(params, x))
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()


NETWORKS = {
    "mlp": Network(
        lambda hidden, inputs, key: draw_kernels(list(pairwise((inputs, *hidden, 10))), key),
        loss,
        lambda params, x, y: (predict(params, x).argmax(1) == y).mean(),
    ),
    "conv": CONV,
    "autoencoder": AUTOENCODER,
}
"""Networks by name."""


def make_training(task: Task, method: Method) -> Callable[..., Run]:
    """One run as a compiled function.

    Returns:
        `(rate, damping, data, key, evaluated) -> Run`; with `evaluated` false the evaluations are left out, to time the
        updates alone.
    """
    network = NETWORKS[task.network]

    def train(rate: Float[Array, ""], damping: Float[Array, ""], data: Data, key: PRNGKeyArray, evaluated: Any) -> Run:
        tx = optax.with_extra_args_support(method.make(rate, damping))
        init_key, order_key, step_key = jax.random.split(key, 3)
        params = init(task, data.inputs.shape[1], init_key)
        rows = draw_batches(task, len(data.labels), method.warm_up + task.steps, order_key)

        def step(carry: tuple[Any, Any], given: tuple[Array, ...]) -> tuple[tuple[Any, Any], Array]:
            (params, state), (row, next_row, t) = carry, given
            batch, other = (_select(task, data, r) for r in (row, next_row))
            value, grads, extra = method.compute(network.loss, params, batch, other, jax.random.fold_in(step_key, t))
            updates, state = tx.update(grads, state, params, value=value, **extra)
            return (optax.apply_updates(params, updates), state), value

        def evaluate(params: list[Array]) -> tuple[Array, Array]:
            score = network.score(params, data.test_inputs, data.test_labels)
            return network.loss(params, data.inputs, data.labels), score

        def part(carry: tuple[Any, Any], given: Any) -> tuple[tuple[Any, Any], tuple[Array, ...]]:
            carry, losses = jax.lax.scan(step, carry, given)
            nothing = (jnp.float32(0), jnp.float32(0))
            return carry, (losses, *jax.lax.cond(evaluated, evaluate, lambda params: nothing, carry[0]))

        given = rows, jnp.roll(rows, -1, 0), jnp.arange(len(rows))
        early = jax.tree.map(lambda x: x[: method.warm_up], given)
        parts = jax.tree.map(lambda x: rearrange(x[method.warm_up :], "(e s) ... -> e s ...", e=POINTS), given)
        carry = params, tx.init(params)
        if method.warm_up:  # these batches are measured; the optimizer's updates are 0 meanwhile
            carry, _ = jax.lax.scan(step, carry, early)
        _, (losses, train_loss, accuracy) = jax.lax.scan(part, carry, parts)
        return Run(losses.reshape(-1), train_loss, accuracy)

    return jax.jit(train)


def _select(task: Task, data: Data, rows: Int[Array, "B"]) -> tuple[Array, Array]:
    return (data.inputs, data.labels) if task.batch is None else (data.inputs[rows], data.labels[rows])


def draw_batches(task: Task, examples: int, steps: int, key: PRNGKeyArray) -> Int[Array, "T B"]:
    """The rows of each batch: every epoch goes through all examples once, in an order of its own."""
    if task.batch is None:
        return jnp.zeros((steps, 1), jnp.int32)
    per_epoch = examples // task.batch
    epochs = -(-steps // per_epoch)
    order = jax.vmap(lambda k: jax.random.permutation(k, examples))(jax.random.split(key, epochs))
    batches = rearrange(order[:, : per_epoch * task.batch], "e (s b) -> (e s) b", b=task.batch)
    return batches[:steps]


def _load(task: Task, seed: int, mnist: str) -> datasets.Dataset:
    if task.source == "digits":
        return datasets.load("digits", test_fraction=297 / 1797, seed=seed)
    return datasets.load(mnist, size=task.size)
