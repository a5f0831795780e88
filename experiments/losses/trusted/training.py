"""Training many small networks at once on data sets of many shapes, each with its own loss, by one compiled program.

Data sets are padded to common shapes, losses enter as tables of their gradients (`losses.search.table`). So a network
is a row of numbers: data set, labels, loss, learning rate, key. Networks have one hidden layer, or two where the data
set says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from metalearn_models.losses import HandmadeLoss, SymbolicLoss
from metalearn_models.losses.elementwise import Prediction
from metalearn_models.losses.search.table import (
    LOGITS,
    Table,
    gradient_cells,
    logit_position,
    look_up,
)

__all__ = ["Job", "Rows", "Shape", "curves", "pad", "train"]

Loss = SymbolicLoss | HandmadeLoss
NOTHING = -1e9
"""The logit of a class that a data set lacks."""


@dataclass(frozen=True)
class Shape:
    """What data sets are padded to, and how the networks on them are trained."""

    inputs: int
    """Largest number of inputs."""
    classes: int
    """Largest number of classes."""
    width: int
    """Of the hidden layers."""
    examples: tuple[int, int, int]
    """Largest numbers of training, validation and test examples."""
    steps: int = 400
    """Of Adam."""
    batch: int = 64
    """Examples per step, drawn with replacement."""
    at_once: int = 24
    """Networks that are trained side by side."""


class Rows(NamedTuple):
    """Data sets in padded arrays; S of them.

    Attributes:
        x: inputs of training, validation and test examples.
        y: labels, of the training examples possibly wrong.
        sizes: number of examples of each part.
        inputs: number of real inputs.
        classes: number of classes.
        deep: whether the network has two hidden layers.
    """

    x: tuple[np.ndarray | Array, ...]
    y: tuple[np.ndarray | Array, ...]
    sizes: np.ndarray | Array
    inputs: np.ndarray | Array
    classes: np.ndarray | Array
    deep: np.ndarray | Array


class Job(NamedTuple):
    """A network to train.

    Attributes:
        data: number of its data set.
        table: number of the table of its loss.
        rate: learning rate of Adam.
        seed: of its initial weights and its batches.
    """

    data: int
    table: int
    rate: float
    seed: int


def curves(loss: Loss, classes: int) -> Float[np.ndarray, "2 K 4"]:
    """The gradient p dl/dp of a loss of classification with so many classes, as `gradient_cells`; its scale is removed.

    Args:
        loss: a sum over classes of terms in the target and the probability.
        classes: how many there are.
    """
    log_p, log_rest = -np.logaddexp(0, -LOGITS), -np.logaddexp(0, LOGITS)

    def term(y: Array, log_p: Array, log_rest: Array) -> Array:
        one = Prediction(jnp.exp(log_p)[None], log_p[None], lambda: log_rest[None], classes)
        return loss.terms(y[None], one)[0]

    slope = jax.vmap(jax.grad(term, 1), (None, 0, 0))
    with jax.enable_x64(True):
        points = jnp.asarray(log_p), jnp.asarray(log_rest)
        h = np.stack([np.asarray(slope(jnp.asarray(y), *points)) for y in (0.0, 1.0)])
    h = h / max(float(np.abs(h).mean()), 1e-30)
    nothing = np.zeros_like(h)
    slopes = np.gradient(h, LOGITS[1] - LOGITS[0], axis=1)
    return gradient_cells(Table(nothing, nothing, h, slopes), "classification")


def pad(data: Sequence[tuple[Any, np.ndarray, bool]], shape: Shape) -> Rows:
    """Put data sets into arrays of one shape.

    Args:
        data: a `data.Data` with the training labels to use and whether its network is deep, per row.
        shape: what they must fit into.
    """
    parts = [((one.train[0], labels), one.valid, one.test) for one, labels, _ in data]

    def stack(i: int, which: int) -> np.ndarray:
        tail = (shape.inputs,) if which == 0 else ()
        out = np.zeros((len(parts), shape.examples[i], *tail), np.float32 if which == 0 else np.int32)
        for r, row in enumerate(parts):
            values = row[i][which]
            out[(r, slice(len(values)), *(slice(n) for n in values.shape[1:]))] = values
        return out

    return Rows(
        tuple(stack(i, 0) for i in range(3)),
        tuple(stack(i, 1) for i in range(3)),
        np.array([[len(part[1]) for part in row] for row in parts], np.int32),
        np.array([one.train[0].shape[1] for one, _, _ in data], np.int32),
        np.array([one.classes for one, _, _ in data], np.int32),
        np.array([deep for _, _, deep in data]),
    )


def train(
    rows: Rows, tables: Float[np.ndarray, "T 2 K 4"], jobs: Sequence[Job], shape: Shape
) -> Float[np.ndarray, "J 2"]:
    """Train a network per job; the error rates on validation and test examples, 1 where a network diverged.

    Args:
        rows: the data sets.
        tables: gradients of losses, `curves` or `gradient_cells` of `classification_table`.
        jobs: the networks.
        shape: of the data sets.
    """
    columns = [np.array(column) for column in zip(*jobs, strict=True)]
    done, first = [], 0
    while first < len(jobs):
        left = len(jobs) - first
        count = shape.at_once if left > shape.at_once // 2 else -(-shape.at_once // 4)  # two programs, less waste
        part = [c[first : first + count] for c in columns]
        part = [np.concatenate([c, np.repeat(c[:1], count - len(c))]) for c in part]
        chosen: Rows = jax.tree.map(
            lambda a, at=part[0]: a[at], rows
        )  # here, so that any number of rows is one program
        rates, seeds = part[2].astype(np.float32), part[3].astype(np.uint32)
        done.append(_train_some(chosen, tables[part[1]], rates, seeds, shape))
        first += count
    return np.concatenate([np.asarray(one, np.float64) for one in done])[: len(jobs)]


@partial(jax.jit, static_argnames="shape")
def _train_some(rows: Rows, cells: Array, rates: Array, seeds: Array, shape: Shape) -> Array:
    return jax.vmap(partial(_train_one, shape=shape))(rows, cells, rates, seeds)


def _train_one(row: Rows, cells: Array, rate: Array, seed: Array, shape: Shape) -> Array:
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), seed), 4)
    sizes = ((shape.inputs, shape.width), (shape.width, shape.width), (shape.width, shape.classes))
    fan_in = (jnp.asarray(row.inputs).astype(jnp.float32), jnp.float32(shape.width), jnp.float32(shape.width))
    params = [
        (jnp.sqrt((2.0 if i < 2 else 1.0) / n) * jax.random.normal(k, size), jnp.zeros(size[1]))
        for i, (k, size, n) in enumerate(zip(keys[:3], sizes, fan_in, strict=True))
    ]
    real = jnp.arange(shape.classes) < row.classes
    deep, rule = row.deep, optax.scale_by_adam()

    def apply(params: Any, x: Array) -> Array:
        (w1, b1), (w2, b2), (w3, b3) = params
        h = jax.nn.relu(x @ w1 + b1[None])
        h = jnp.where(deep, jax.nn.relu(h @ w2 + b2[None]), h)
        return jnp.where(real[None], h @ w3 + b3[None], NOTHING)

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        params, state = carry
        chosen = jax.random.randint(jax.random.fold_in(keys[3], t), (shape.batch,), 0, row.sizes[0])
        logits, pull = jax.vjp(lambda p: apply(p, jnp.asarray(row.x[0])[chosen]), params)
        p, position = logit_position(logits)
        is_label = jax.nn.one_hot(jnp.asarray(row.y[0])[chosen], shape.classes, dtype=jnp.int32)
        h = jnp.where(real[None], look_up(cells, is_label, position), 0)
        (gradient,) = pull((h - p * h.sum(-1, keepdims=True)) / shape.batch)
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            direction, state = rule.update(gradient, state, params)
        return (jax.tree.map(lambda a, d: a - rate * d, params, direction), state), None

    with jax.numpy_dtype_promotion("standard"):
        state = rule.init(params)
    (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(shape.steps))

    def error(part: int) -> Array:
        logits = apply(params, jnp.asarray(row.x[part]))
        wrong = (jnp.argmax(logits, -1) != row.y[part]) | ~jnp.isfinite(logits).all(-1)
        counted = jnp.arange(wrong.shape[0]) < row.sizes[part]
        return (wrong & counted).sum() / row.sizes[part]

    return jnp.stack([error(1), error(2)])
