"""The prior over tables as a family of tasks, for learners that read sequences of one width.

Tables are drawn on the host, in NumPy, before meta-training begins, and are its `data`. A task is a table of this pool
with its columns in random order and direction and random names for its classes. An episode is a random choice of its
rows. Held-out tasks are made from tables of a second pool.

A table with fewer columns than inputs is padded with zeros before its columns are shuffled. Columns are standardised
and clipped, missing values are 0, the mean, and inputs are scaled so that E|x|^2 = D, as in `synthetic.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn.learner import Family, Signature
from metalearn.ranges import Seed, Size, Steps, Within
from metalearn_tasks.families._task_numbers import numbered_tasks
from metalearn_tasks.families.tables.config import TablesConfig
from metalearn_tasks.families.tables.draw import draw_table

__all__ = ["Pool", "TableTask", "TablesFamilyConfig", "draw_pool", "tables"]

CLIP = 10.0  # standard deviations


@dataclass(frozen=True)
class TablesFamilyConfig:
    """The family of generated tables."""

    inputs: Size = 16
    """D, the width of one input; a table has 2 to D columns."""
    classes: Annotated[int, Within(2, 1024)] = 10
    """C, the largest number of classes; every table has 2 to C."""
    length: Size = 64
    """T, examples per sequence."""
    pool: Annotated[int, Within(1, 2**20)] = 4096
    """Tables that are drawn before meta-training; each gives any number of tasks."""
    num_tasks: Steps | None = None
    """Number of meta-training tasks, at least 1. None: a new order of columns and names of classes every time."""
    seed: Seed = 0
    """Names the tables and the tasks."""


class Pool(NamedTuple):
    """Drawn tables: n rows each, twice as many as an episode shows.

    Attributes:
        xs: features, scaled, with zeros in the place of missing columns and values.
        ys: classes.
        classes: the number of classes of each table.
    """

    xs: Float[Array, "B n D"]
    ys: Int[Array, "B n"]
    classes: Int[Array, " B"]


class TableTask(NamedTuple):
    """One task.

    Attributes:
        table: its table's number in the pool.
        order: which column of the table each input shows.
        sign: 1 or -1 per input.
        names: the label of each class.
    """

    table: Int[Array, ""]
    order: Int[Array, " D"]
    sign: Float[Array, " D"]
    names: Int[Array, " C"]


def tables(config: TablesFamilyConfig) -> Family:
    """Make the family; its `data` is a `Pool`, see `draw_pool`.

    Raises:
        ValueError: a number of tasks below 1 or above 2^31 - 1.
    """

    def draw(data: Pool, key: PRNGKeyArray) -> TableTask:
        keys = jax.random.split(key, 4)
        return TableTask(
            table=jax.random.randint(keys[0], (), 0, data.xs.shape[0]),
            order=jax.random.permutation(keys[1], config.inputs).astype(jnp.int32),
            sign=jax.random.rademacher(keys[2], (config.inputs,), jnp.float32),
            names=jax.random.permutation(keys[3], config.classes).astype(jnp.int32),
        )

    sample, seen, unseen = numbered_tasks(draw, config.num_tasks, config.seed)

    def episode(data: Pool, task: TableTask, key: PRNGKeyArray) -> tuple[Array, Array]:
        rows = jax.random.permutation(key, data.xs.shape[1])[: config.length]
        xs = data.xs[task.table][rows][:, task.order] * task.sign[None]
        return xs, task.names[data.ys[task.table][rows]]

    return Family(Signature(config.inputs, config.classes, config.length), sample, seen, unseen, episode)


def draw_pool(config: TablesFamilyConfig, prior: TablesConfig | None = None, held_out: bool = False) -> Pool:
    """Draw the tables that tasks are made from; .4 ms per table.

    Args:
        config: the family.
        prior: the prior; None: the default one, with this family's number of classes.
        held_out: a second pool that shares no table with the first.
    """
    prior = TablesConfig(classes=config.classes) if prior is None else prior
    rows = 2 * config.length
    xs, ys = np.zeros((config.pool, rows, config.inputs), np.float32), np.zeros((config.pool, rows), np.int32)
    for number in range(config.pool):
        rng = np.random.default_rng((config.seed, int(held_out), number))
        features = 1 if config.inputs == 1 else 2 + int(rng.integers(config.inputs - 1))
        drawn, ys[number], _ = draw_table(rng, rows, features, prior)
        xs[number, :, :features] = _scale(drawn) * np.sqrt(config.inputs / features)
    return Pool(jnp.asarray(xs), jnp.asarray(ys), jnp.asarray(ys.max(1) + 1))


def _scale(xs: Float[np.ndarray, "n F"]) -> Float[np.ndarray, "n F"]:
    wide = xs.astype(np.float64)
    deviation = np.nanstd(wide, axis=0)
    z = (wide - np.nanmean(wide, axis=0)) / np.where(deviation > 1e-9, deviation, 1.0)
    return np.nan_to_num(np.clip(z, -CLIP, CLIP)).astype(np.float32)
