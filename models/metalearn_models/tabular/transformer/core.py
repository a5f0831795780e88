"""Read a table of any size with the Transformer for tables, and answer for new rows.

A view is one reading of the table. Views differ in the codes of the classes and of the categories. Where a table has
more rows than a context holds, they share out its rows (`rows.py`). Where it has more columns than the network was
trained for, there are kinds of views (`views.py`).

Rows, columns and classes are padded to a few sizes, so that few programs are compiled; padding changes no answer.
Attention over rows goes through the rows in chunks, so memory grows with the number of training rows and not with its
square: a view keeps 256 L F S numbers of 4 bytes at most, for L layers, F columns and S rows, and needs 250 F S more
while it works.
Shapes: n training rows, N rows, F columns, K classes, V views.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_models.tabular.transformer.learner import network
from metalearn_models.tabular.transformer.library import TrainedTables
from metalearn_models.tabular.transformer.network import Context, Memory
from metalearn_models.tabular.transformer.views import View, draw_table_views, show_columns

__all__ = ["CHUNK", "Fitted", "answer", "predict_log_proba", "read_table", "read_view", "show_rows", "weigh_rows"]

CHUNK = 64
"""So many rows at most pass the blocks at once: what they compare with 1,024 rows then stays in a processor's cache.
With 256 rows at once, reading 1,024 rows of 64 columns takes 1.5 times as long."""
_PADDED = 256
_SIZES = (8, 16, 32, 64)


class Fitted(NamedTuple):
    """A table that was read.

    Attributes:
        trained: the learner.
        views: how each view shows the table.
        memories: what each view keeps of it.
        shown: which training rows each view has.
        classes: K.
    """

    trained: TrainedTables
    views: tuple[View, ...]
    memories: tuple[Memory, ...]
    shown: Bool[np.ndarray, "V n"]
    classes: int


def read_table(
    trained: TrainedTables,
    xs: Float[np.ndarray, "n F"],
    ys: Int[np.ndarray, " n"],
    *,
    categorical: Bool[np.ndarray, " F"] | None = None,
    views: int = 4,
    rows: int = 1024,
    columns: int = 64,
    rng: np.random.Generator,
    first: int = 0,
    turned: bool = True,
) -> Fitted:
    """Read the training rows of a table.

    Args:
        trained: the learner.
        xs: training rows; NaN for a missing value, whole numbers for categories.
        ys: classes, 0 to K - 1, each of which occurs.
        categorical: which columns hold categories; None: none does.
        views: how many readings, V.
        rows: a view has at most so many of them, but one per class at least.
        columns: a view has at most so many of them.
        rng: all randomness.
        first: number of the first view; views of different numbers may show different things.
        turned: whether some views show principal components of a table that fits into a view, too.
    """
    categorical = np.zeros(xs.shape[1], bool) if categorical is None else categorical
    drawn = draw_table_views(xs, ys, categorical, views, rows, columns, trained.config.codes, rng, first, turned)
    memories = []
    for view in drawn:
        memories.append(read_view(trained, show_rows(view, xs[view.rows], ys[view.rows])))
    shown = np.zeros((len(drawn), len(xs)), bool)
    for number, view in enumerate(drawn):
        shown[number, view.rows] = True
    return Fitted(trained, tuple(drawn), tuple(memories), shown, int(ys.max()) + 1)


def show_rows(view: View, xs: Float[np.ndarray, "m F"], ys: Int[np.ndarray, " m"]) -> Context:
    """Rows as a view shows them, in the shapes of a compiled program, in which they are read.

    Args:
        view: which columns and codes; its rows are not read.
        xs: rows of the table.
        ys: their classes; -1 for a row that is not to be read, as if it were not there.
    """
    x = show_columns(view, xs)
    size, width, classes = len(x), x.shape[1], len(view.codes)
    return Context(
        _pad(x, (_row_size(size), _size(width)))[None],
        _pad(ys.astype(np.int32), (_row_size(size),), -1)[None],
        _pad(view.categorical, (_size(width),))[None],
        _pad(np.ones(width, np.float32), (_size(width),))[None],
        _pad(view.spin, (_size(width), 2))[None],
        _pad(view.codes, (_class_size(classes), view.codes.shape[1]))[None],
    )


def read_view(trained: TrainedTables, context: Context) -> Memory:
    """What one view keeps of the rows that it shows."""
    return _programs(trained.config, CHUNK)[0](trained.theta, context)


def answer(
    fitted: Fitted, xs: Float[np.ndarray, "N F"], wanted: Bool[np.ndarray, "V N"] | None = None
) -> Float[np.ndarray, "V N K"]:
    """Log-probabilities of the classes of rows, each row by itself, from each view.

    Args:
        fitted: the table that was read.
        xs: rows.
        wanted: which views answer for which rows; the others' answers are -inf. None: all answer.
    """
    out = np.full((len(fitted.views), len(xs), fitted.classes), -np.inf, np.float32)
    run = _programs(fitted.trained.config, CHUNK)[1]
    for number, (view, memory) in enumerate(zip(fitted.views, fitted.memories, strict=True)):
        rows = np.arange(len(xs)) if wanted is None else np.flatnonzero(wanted[number])
        x = show_columns(view, xs[rows])
        width = _size(x.shape[1])
        for begin in range(0, len(x), CHUNK):
            part = x[begin : begin + CHUNK]
            size = min(CHUNK, max(16, 1 << (len(part) - 1).bit_length()))
            log_probs = run(fitted.trained.theta, memory, _pad(part, (size, width))[None])
            out[number, rows[begin : begin + CHUNK]] = np.asarray(log_probs)[0, : len(part), : fitted.classes]
    return out


def weigh_rows(fitted: Fitted, view: int, xs: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N m"]:
    """How much each training row of one view counts in its answers for rows; the weights of a row add up to 1.

    The decoder is an attention over training rows. So the weights of the rows of a class add up to its probability.

    Args:
        fitted: the table that was read.
        view: number of the view.
        xs: rows.
    """
    memory = fitted.memories[view]
    each = np.asarray(memory.rows)[:, :, None] * np.eye(memory.rows.shape[1], dtype=np.float32)
    rows = len(fitted.views[view].rows)
    alone = Fitted(
        fitted.trained, (fitted.views[view],), (memory._replace(labels=each),), fitted.shown[view : view + 1], rows
    )
    weights = np.exp(answer(alone, xs)[0].astype(np.float64))
    return weights / weights.sum(1, keepdims=True)


def predict_log_proba(
    trained: TrainedTables,
    context_xs: Float[np.ndarray, "n F"],
    context_ys: Int[np.ndarray, " n"],
    query_xs: Float[np.ndarray, "N F"],
    *,
    categorical: Bool[np.ndarray, " F"] | None = None,
    views: int = 4,
    rng: np.random.Generator,
) -> Float[np.ndarray, "N K"]:
    """Read training rows and answer for others: log of the mean probability over views. Arguments as `read_table`."""
    fitted = read_table(trained, context_xs, context_ys, categorical=categorical, views=views, rng=rng)
    return np.log(np.exp(answer(fitted, query_xs)).mean(0))


@functools.lru_cache(maxsize=8)
def _programs(config: TableTransformerConfig, chunk: int) -> tuple[Any, Any]:
    learner = network(config)

    def read(theta: Any, context: Context) -> Memory:
        return learner.read(theta, context, chunk)

    def answer(theta: Any, memory: Memory, xs: Array) -> Array:
        return learner.answer(theta, memory, xs)

    return jax.jit(read), jax.jit(answer)


def _size(columns: int) -> int:
    return next((size for size in _SIZES if size >= columns), -(-columns // 32) * 32)


def _row_size(rows: int) -> int:
    return max(16, 1 << (rows - 1).bit_length()) if rows <= _PADDED else -(-rows // _PADDED) * _PADDED


def _class_size(classes: int) -> int:
    return max(16, 1 << (classes - 1).bit_length())


def _pad(x: np.ndarray, shape: tuple[int, ...], value: float = 0) -> np.ndarray:
    x = x.astype(np.float32) if x.dtype == np.float64 else x
    return np.pad(x, [(0, to - now) for to, now in zip(shape, x.shape, strict=True)], constant_values=value)
