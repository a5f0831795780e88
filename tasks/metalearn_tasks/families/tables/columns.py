"""What happens to columns: irrelevant and duplicated ones, monotone maps, few values, categories, missing values."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from metalearn_tasks.families.tables.pieces import draw_inputs

__all__ = ["categorise", "duplicates", "irrelevant", "lose", "quantise", "warp"]


def irrelevant(rng: np.random.Generator, xs: Float[np.ndarray, "n k"], count: int) -> Float[np.ndarray, "n {count}"]:
    """Columns that say nothing about the rows: fresh ones, or columns of the table with the rows shuffled."""
    if rng.random() < 0.5:
        return draw_inputs(rng, len(xs), count)
    return xs[:, rng.integers(xs.shape[1], size=count)][rng.permutation(len(xs))]


def duplicates(rng: np.random.Generator, xs: Float[np.ndarray, "n k"], count: int) -> Float[np.ndarray, "n {count}"]:
    """Copies of columns, each after a monotone map of its own."""
    copies = xs[:, rng.integers(xs.shape[1], size=count)]
    return np.stack([warp(rng, column) for column in copies.T], axis=1)


def warp(rng: np.random.Generator, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """A strictly monotone map, increasing or decreasing, up to rounding."""
    centre, deviation = x.mean(), x.std()
    z = (x - centre) / (deviation if deviation > 1e-9 else 1.0)
    kind = rng.integers(5)
    if kind == 0:
        z = np.exp(rng.uniform(0.3, 1.2) * z)
    elif kind == 1:
        z = np.sign(z) * np.abs(z) ** rng.uniform(0.4, 3.0)
    elif kind == 2:
        z = np.tanh(rng.uniform(0.5, 1.0) * z)
    elif kind == 3:
        z = np.sinh(rng.uniform(0.5, 1.2) * z)
    scale = np.exp(2.0 * rng.standard_normal()) * rng.choice((-1.0, 1.0))
    return scale * (z + 3.0 * rng.standard_normal())


def quantise(rng: np.random.Generator, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The column rounded to 2 to 20 steps between its ends."""
    low, high = x.min(), x.max()
    if high - low < 1e-9:
        return x
    steps = 1 + int(rng.integers(20))
    return np.rint((x - low) / (high - low) * steps)


def categorise(rng: np.random.Generator, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """2 to 12 categories: intervals between values of random rows, whose numbers are shuffled."""
    levels = 2 + int(rng.integers(11))
    cuts = np.sort(x[rng.integers(len(x), size=levels - 1)])
    return rng.permutation(levels)[np.searchsorted(cuts, x)].astype(np.float64)


def lose(
    rng: np.random.Generator, xs: Float[np.ndarray, "n F"], categorical: Bool[np.ndarray, " F"]
) -> Float[np.ndarray, "n F"]:
    """Some columns lose values, at random or (numbers only) the larger ones more often; at least one value is kept."""
    share = rng.uniform(0.02, 0.4)
    concerned = rng.random(xs.shape[1]) < rng.uniform(0.2, 1.0)
    chance = np.full(xs.shape, share)
    if rng.random() < 0.3:
        above = xs > np.median(xs, axis=0)
        chance = np.where(categorical, chance, share * np.where(above, 1.6, 0.4))
    lost = (rng.random(xs.shape) < chance) & concerned
    lost[rng.integers(len(xs), size=xs.shape[1]), np.arange(xs.shape[1])] = False
    return np.where(lost, np.nan, xs)
