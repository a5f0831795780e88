"""Tables for each step, drawn ahead by a thread: those of step t are the same whoever draws them, and when.

Steps take turns at a few shapes of tables, each compiled once. Nothing is padded but the classes.
Shapes: B tables, S training rows, N test rows, F columns, C classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from metalearn_models.tabular.transformer.network import Context
from metalearn_tasks.families.tables import TablesConfig
from metalearn_tasks.families.tables.draw import numbered_tables

__all__ = ["SHAPES", "Batch", "Feed", "Shape", "draw_batch", "feed", "tables_of"]


class Shape(NamedTuple):
    """The shape of the tables of one step."""

    train: int
    """Training rows."""
    test: int
    """Test rows."""
    columns: int
    """Columns."""


SHAPES = (
    Shape(50, 30, 12),
    Shape(200, 50, 10),
    Shape(40, 24, 5),
    Shape(100, 40, 20),
    Shape(50, 20, 56),
    Shape(400, 60, 7),
    Shape(50, 30, 28),
)
"""Each comes once in so many steps as there are shapes, in an order that is drawn anew each time."""
PER_STEP = 4096
"""No step has more tables: table i of step t has number t * PER_STEP + i."""


class Batch(NamedTuple):
    """Tables of one step: training rows, and test rows with their labels."""

    context: Context
    xs: Float[np.ndarray, "B N F"]
    ys: Int[np.ndarray, "B N"]


def tables_of(shape: Shape, size: int) -> int:
    """How many tables of this shape have about `size` thousand cells, the labels' counted."""
    return min(PER_STEP, max(1, round(1000 * size / ((shape.train + shape.test) * (shape.columns + 1)))))


def draw_batch(
    step: int, seed: int, prior: TablesConfig, size: int, codes: int, part: tuple[int, int] = (0, 1)
) -> Batch:
    """The tables of a step, or a share of them: the shares in order are the tables.

    Args:
        step: from 0.
        seed: of the tables.
        prior: where they come from.
        size: thousands of cells.
        codes: numbers in the code of a class, at least as many as the prior has classes.
        part: number of the share, and how many there are; at most as many as any step has tables.
    """
    cycle, place = divmod(step, len(SHAPES))
    shape = SHAPES[np.random.default_rng((seed, cycle, 2)).permutation(len(SHAPES))[place]]
    count = tables_of(shape, size)
    first, end = (count * i // part[1] for i in (part[0], part[0] + 1))
    numbers = range(step * PER_STEP + first, step * PER_STEP + end)
    tables = numbered_tables(seed, numbers, shape.train + shape.test, shape.columns, prior)
    rng = np.random.default_rng((seed, step, 1))
    spin = rng.integers(32, size=(count, shape.columns, 2)).astype(np.int32)
    names = np.stack([np.eye(codes, dtype=np.float32)[rng.permutation(codes)] for _ in range(count)])
    xs, ys = tables.xs, tables.ys
    columns = np.ones((end - first, shape.columns), np.float32)
    spin, names = spin[first:end], names[first:end]  # drawn whole, so that they do not depend on the share
    context = Context(xs[:, : shape.train], ys[:, : shape.train], tables.categorical, columns, spin, names)
    return Batch(context, xs[:, shape.train :], ys[:, shape.train :])


class Feed:
    """Batches in order of the steps, from any step on."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        seed: int,
        prior: TablesConfig,
        size: int,
        codes: int,
        part: tuple[int, int] = (0, 1),
        ahead: int = 4,
    ):
        self._pool, self._ahead = pool, ahead
        self._arguments = (seed, prior, size, codes, part)
        self._next = 0
        self._waiting: deque[Future[Batch]] = deque()

    def take(self, step: int) -> Batch:
        """The batch of a step; those of the steps after it are begun."""
        if step != self._next:
            self._waiting.clear()
        while len(self._waiting) <= self._ahead:
            self._waiting.append(self._pool.submit(draw_batch, step + len(self._waiting), *self._arguments))
        self._next = step + 1
        return self._waiting.popleft().result()


@contextmanager
def feed(seed: int, prior: TablesConfig, size: int, codes: int, part: tuple[int, int] = (0, 1)) -> Iterator[Feed]:
    """A feed of a share of the tables, whose thread ends with the block."""
    pool = ThreadPoolExecutor(1)
    try:
        yield Feed(pool, seed, prior, size, codes, part)
    finally:
        pool.shutdown(cancel_futures=True)
