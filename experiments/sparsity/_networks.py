"""Networks to prune: a data set, an architecture and how it is trained, with the ordinary loop for every part of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.errors import unknown_name
from metalearn_models.networks import conv, mlp
from metalearn_models.sparsity import sparse_with_masks, static
from metalearn_tasks import datasets
from metalearn_tasks.datasets import Dataset, Split


class Pair(NamedTuple):
    """A data set and an architecture.

    Attributes:
        data: "digits" or "mnist".
        size: height and width of its images; None: as they are.
        make: `(dataset) -> Network`.
    """

    data: str
    size: int | None
    make: Callable[[Dataset], Any]


PAIRS: dict[str, Pair] = {
    "digits, MLP 64-64": Pair("digits", None, lambda d: mlp(d.inputs, (64, 64), d.classes)),
    "digits, conv 32-64": Pair("digits", None, lambda d: conv(d.shape, (32, 64), d.classes)),
    "MNIST, LeNet-300-100": Pair("mnist", None, lambda d: mlp(d.inputs, (300, 100), d.classes)),
    "MNIST 14x14, conv 16-32-64": Pair("mnist", 14, lambda d: conv(d.shape, (16, 32, 64), d.classes)),
}


class Task(NamedTuple):
    """What a network learns, as compiled functions of its own.

    Attributes:
        init: `(key) -> params`.
        apply: `(params, x[B, D]) -> logits[B, C]`.
        loss: `(params, Split) -> scalar`.
        train: `(params, masks, key, steps, rate, decay=0) -> params`: AdamW, cosine schedule; what is off stays 0.
        data: all examples.
    """

    init: Callable[[Any], Any]
    apply: Callable[[Any, Any], Any]
    loss: Callable[[Any, Split], Any]
    train: Callable[..., Any]
    data: Dataset


@lru_cache
def load_task(name: str, mnist: str, batch: int = 64) -> Task:
    """The task of a pair.

    Args:
        name: of the pair.
        mnist: what `datasets.load` takes for the pairs on MNIST.
        batch: examples per step.

    Raises:
        DataNotPreparedError: MNIST is not here.
    """
    if name not in PAIRS:
        raise unknown_name("pair of data and architecture", name, PAIRS)
    pair = PAIRS[name]
    data = datasets.load(mnist if pair.data == "mnist" else pair.data, size=pair.size)
    network = pair.make(data)
    apply = jax.vmap(network.apply, (None, 0))
    examples = jax.tree.map(jnp.asarray, data.train)

    def loss(params: Any, part: Split) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, part.inputs), part.labels).mean()

    @jax.jit
    def train(params: Any, masks: Any, key: Any, steps: Any, rate: Any, decay: Any = 0.0) -> Any:
        def scale(t: Any) -> Any:
            return -rate * 0.5 * (1 + jnp.cos(jnp.pi * t / steps))

        inner = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(decay), optax.scale_by_schedule(scale))
        optimizer = sparse_with_masks(inner, static(), masks)

        def step(t: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(key, t), (batch,), 0, len(examples.labels))
            grads = jax.grad(loss)(params, jax.tree.map(lambda a: a[rows], examples))
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]

    return Task(network.init, apply, loss, train, data)


def dense_masks(params: Any) -> Any:
    """Masks of a network without a sparse leaf."""
    return jax.tree.map(lambda leaf: None, params)


def draw_batches(task: Task, key: Any, count: int, size: int) -> Split:
    """Batches of training examples, [count, size, ...]."""
    rows = np.asarray(jax.random.randint(key, (count, size), 0, len(task.data.train.labels)))
    return Split(jnp.asarray(task.data.train.inputs[rows]), jnp.asarray(task.data.train.labels[rows]))
