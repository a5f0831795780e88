"""Pieces that the mechanisms are made of: inputs, activations, random trees."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["activate", "draw_inputs", "standardise", "tree_values"]

_ACTIVATIONS = (
    np.tanh,
    lambda z: np.maximum(z, 0.0),
    np.sin,
    np.abs,
    np.square,
    lambda z: z,
    lambda z: np.exp(-np.square(z)),
    np.sign,
)


def draw_inputs(rng: np.random.Generator, rows: int, columns: int) -> Float[np.ndarray, "{rows} {columns}"]:
    """Independent rows: Gaussian, uniform, heavy-tailed, in two heaps, or correlated through fewer causes."""
    z = rng.standard_normal((rows, columns))
    kind = rng.integers(6)
    if kind == 1:
        return np.sqrt(3.0) * (2.0 * rng.random((rows, columns)) - 1.0)
    if kind == 2:
        return standardise(np.sinh(rng.uniform(0.4, 0.9) * z))
    if kind == 3:
        return standardise(z + rng.uniform(1.0, 4.0) * (rng.random((rows, columns)) < rng.uniform(0.2, 0.8)))
    if kind >= 4 and columns > 1:
        few = 1 + int(rng.integers(columns))
        mixing = rng.standard_normal((few, columns)) / np.sqrt(few)
        return z[:, :few] @ mixing + rng.uniform(0.0, 0.5) * rng.standard_normal((rows, columns))
    return z


def standardise(z: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Columns of mean 0 and deviation 1; a constant column becomes 0."""
    z = z - z.mean(0)
    deviation = np.sqrt(np.square(z).mean(0))
    return z / np.where(deviation > 1e-9, deviation, 1.0)


def activate(rng: np.random.Generator, z: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """One or several nonlinear functions, each on some of the columns."""
    kinds = rng.integers(len(_ACTIVATIONS), size=1 + int(rng.integers(3)))
    if len(kinds) == 1:
        return _ACTIVATIONS[kinds[0]](z)
    owner = rng.integers(len(kinds), size=z.shape[1])
    out = np.empty_like(z)
    for i, kind in enumerate(kinds):
        mine = owner == i
        out[:, mine] = _ACTIVATIONS[kind](z[:, mine])
    return out


def tree_values(
    rng: np.random.Generator, z: Float[np.ndarray, "n k"], outputs: int, depth: int, trees: int
) -> Float[np.ndarray, "n {outputs}"]:
    """The sum of random binary trees: a node compares a column with its value in a random row, leaves are Gaussian."""
    nodes, each = 2**depth - 1, np.arange(len(z))
    total = np.zeros((len(z), outputs))
    for _ in range(trees):
        columns = rng.integers(z.shape[1], size=nodes)
        thresholds = z[rng.integers(len(z), size=nodes), columns]
        where = np.zeros(len(z), np.int64)
        for _ in range(depth):
            where = 2 * where + 1 + (z[each, columns[where]] > thresholds[where])
        total += rng.standard_normal((nodes + 1, outputs))[where - nodes]
    return total
