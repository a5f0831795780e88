"""Draw tables from the prior, each from a random stream of its own."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

from metalearn_tasks.families.tables.causal import causal
from metalearn_tasks.families.tables.clusters import clusters
from metalearn_tasks.families.tables.columns import categorise, duplicates, irrelevant, lose, quantise, warp
from metalearn_tasks.families.tables.config import PRIOR, Tables, TablesConfig
from metalearn_tasks.families.tables.direct import direct
from metalearn_tasks.families.tables.labels import (
    class_of_intervals,
    class_of_largest,
    compact,
    draw_proportions,
    flip,
    number_of_classes,
)
from metalearn_tasks.families.tables.pieces import draw_inputs, standardise

__all__ = ["LARGEST", "TRIES", "draw_table", "draw_tables", "numbered_tables"]

TRIES = 20
"""A table of one class is drawn again, up to so many times."""
LARGEST = 1e6
"""Values are clipped here, so that float32 and squares of them stay finite."""


def draw_tables(
    rng: np.random.Generator, tables: int, rows: int, features: int, config: TablesConfig = PRIOR
) -> Tables:
    """Draw tables of one shape.

    The generator gives one number per table, from which the table is made. So the first tables of a generator are the
    same however many are drawn.

    Args:
        rng: all randomness.
        tables: how many, B.
        rows: n, at least 2.
        features: F, at least 1.
        config: the prior.

    Raises:
        ValueError: a number out of range.
    """
    return _stack(
        (np.random.default_rng(int(seed)) for seed in rng.integers(2**63, size=tables)), rows, features, config
    )


def numbered_tables(
    seed: int, numbers: Iterable[int], rows: int, features: int, config: TablesConfig = PRIOR
) -> Tables:
    """The tables of a seed with these numbers; table k is the same whichever others are drawn, and by whom.

    Args:
        seed: names the tables, at least 0.
        numbers: which ones, at least 0.
        rows: n, at least 2.
        features: F, at least 1.
        config: the prior.

    Raises:
        ValueError: a number out of range.
    """
    return _stack((np.random.default_rng((seed, int(number))) for number in numbers), rows, features, config)


def draw_table(
    rng: np.random.Generator, rows: int, features: int, config: TablesConfig = PRIOR
) -> tuple[Float[np.ndarray, "{rows} {features}"], Int[np.ndarray, " {rows}"], Bool[np.ndarray, " {features}"]]:
    """Draw one table: features, classes, and which columns hold categories. See `Tables`.

    Raises:
        ValueError: fewer than 2 rows or 1 feature.
    """
    if rows < 2 or features < 1:
        raise ValueError(f"a table needs rows >= 2 and features >= 1, got {rows} and {features}")
    copied = _some(rng, config.duplicated, (features - 1) // 2)
    useless = _some(rng, config.irrelevant, features - 1 - copied)
    xs, ys, categorical = _mechanism(rng, rows, features - copied - useless, config)
    tries = 1
    while ys.min() == ys.max() and tries < TRIES:
        xs, ys, categorical = _mechanism(rng, rows, features - copied - useless, config)
        tries += 1
    if ys.min() == ys.max():  # it can happen with two rows
        ys = rng.permutation(rows) % 2
    ys = compact(rng, ys)
    if useless:
        xs = np.concatenate([xs, irrelevant(rng, xs, useless)], axis=1)
    if copied:
        xs = np.concatenate([xs, duplicates(rng, xs, copied)], axis=1)
    xs, categorical = _finish_columns(rng, xs, np.pad(categorical, (0, useless + copied)), config)
    order = rng.permutation(features)
    xs = np.clip(xs[:, order], -LARGEST, LARGEST).astype(np.float32)
    return xs, ys.astype(np.int32), categorical[order]


def _stack(streams: Iterable[np.random.Generator], rows: int, features: int, config: TablesConfig) -> Tables:
    drawn = [draw_table(rng, rows, features, config) for rng in streams]
    if not drawn:
        raise ValueError("at least one table must be drawn, got none")
    xs, ys, categorical = (np.stack(parts) for parts in zip(*drawn, strict=True))
    return Tables(xs, ys, categorical)


def _some(rng: np.random.Generator, share: float, most: int) -> int:
    """0, or in this share of cases 1 to `most`."""
    return 1 + int(rng.integers(most)) if most > 0 and rng.random() < share else 0


def _mechanism(
    rng: np.random.Generator, rows: int, features: int, config: TablesConfig
) -> tuple[Float[np.ndarray, "{rows} {features}"], Int[np.ndarray, " {rows}"], Bool[np.ndarray, " {features}"]]:
    """Columns, classes and categories by one of the three mechanisms, before anything happens to the columns."""
    classes = number_of_classes(rng, rows, config)
    proportions = draw_proportions(rng, classes, bool(rng.random() < config.imbalanced))
    place = rng.random() * (config.causal + config.direct + config.clusters)
    if place >= config.causal + config.direct:
        ys = np.searchsorted(np.cumsum(proportions)[:-1], rng.random(rows))
        xs, categorical = clusters(rng, ys, features)
        return xs, _flipped(rng, ys, config), categorical
    noise = float(np.exp(rng.uniform(np.log(0.02), np.log(0.5)))) if rng.random() < config.score_noise else 0.0
    # An order of classes along one score is learned from few rows if there are few classes.
    ordered = classes == 2 or (classes <= 5 and rng.random() < 0.3)
    scores = 1 if ordered else classes
    if place < config.causal:
        roots = 1 + int(rng.integers(max(2, min(features, 12))))
        xs, decided = causal(rng, draw_inputs(rng, rows, roots), features, scores, noise / 2)
    else:
        xs = draw_inputs(rng, rows, features)
        decided = direct(rng, xs, scores)
    decided = standardise(decided)
    if noise > 0:
        decided = decided + noise * rng.standard_normal(decided.shape)
    ys = class_of_intervals(decided[:, 0], proportions) if ordered else class_of_largest(decided, proportions)
    return xs, _flipped(rng, ys, config), np.zeros(features, bool)


def _flipped(rng: np.random.Generator, ys: Int[np.ndarray, " n"], config: TablesConfig) -> Int[np.ndarray, " n"]:
    return flip(rng, ys, rng.uniform(0.02, 0.3)) if rng.random() < config.label_noise else ys


def _finish_columns(
    rng: np.random.Generator,
    xs: Float[np.ndarray, "n F"],
    categorical: Bool[np.ndarray, " F"],
    config: TablesConfig,
) -> tuple[Float[np.ndarray, "n F"], Bool[np.ndarray, " F"]]:
    """Monotone maps, few values, categories and missing values."""
    for share, change, names in (
        (config.warped, warp, False),
        (config.quantised, quantise, False),
        (config.categorical, categorise, True),
    ):
        if rng.random() < share:
            for column in np.flatnonzero(~categorical & (rng.random(xs.shape[1]) < rng.uniform(0.1, 1.0))):
                xs[:, column] = change(rng, xs[:, column])
                categorical[column] |= names
    if rng.random() < config.missing:
        xs = lose(rng, xs, categorical)
    return xs, categorical
