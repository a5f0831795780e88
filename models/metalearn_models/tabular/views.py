"""A table as an in-context learner wants to see it, in several views whose predictions are averaged.

A learner that was meta-trained on D inputs, C labels and sequences of T examples knows no other table. One view of
any table is: the features standardised, reduced to D by principal components where there are more, mapped to
D inputs by a random rotation, and scaled to the unit deviation of meta-training; at most T - 1 rows, stratified, in
random order; the classes named by random labels. Where the features leave room, every second view sees their squares
as well: a learner that was meta-trained on many inputs uses few of them badly. With more classes than labels, a view
merges classes at random under each label, an error-correcting output code (Dietterich & Bakiri 1995, arXiv
cs/9501101) with C symbols.

Everything here runs once a fit, on the host; only `inputs_of` runs a prediction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "CLIP",
    "PCA_ROWS",
    "Features",
    "Standardiser",
    "Views",
    "draw_views",
    "features_of",
    "fit_features",
    "fit_standardiser",
    "inputs_of",
    "standardise",
]

CLIP = 10.0
"""Standardised features are cut off here, in standard deviations; a learner has seen nothing further out."""
PCA_ROWS = 1000
"""Principal components are those of at most so many rows."""


class Standardiser(NamedTuple):
    """`clip((x / largest - mean) / scale)`; dividing by the largest value first keeps squares from overflowing."""

    largest: Float[np.ndarray, " F"]
    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]


class Features(NamedTuple):
    """How features are made of a table: its columns standardised, and, where there is room, their squares likewise."""

    columns: Standardiser
    squares: Standardiser | None


class Views(NamedTuple):
    """M views of one table of N rows and K classes.

    Attributes:
        projection: features to the inputs of each view.
        rows: which rows a view shows, in which order.
        labels: the label that stands for each class.
    """

    projection: Float[np.ndarray, "M D F"]
    rows: Int[np.ndarray, "M n"]
    labels: Int[np.ndarray, "M K"]


def fit_standardiser(x: Float[np.ndarray, "N F"]) -> Standardiser:
    """Mean and deviation of each feature; a constant feature is mapped to 0."""
    largest = np.abs(x).max(0)
    largest = np.where(largest > 0, largest, 1.0)
    z = x / largest
    scale = z.std(0)
    # Rounding can leave a constant feature a deviation of 1e-17, hence the comparison.
    return Standardiser(largest, z.mean(0), np.where((scale > 1e-12) & (z.max(0) > z.min(0)), scale, np.inf))


def standardise(standardiser: Standardiser, x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    """Standardised and clipped features, each row by itself."""
    with np.errstate(over="ignore"):  # a value beyond all measure may become infinite
        z = np.clip(x / standardiser.largest, -1e100, 1e100)
    return np.clip((z - standardiser.mean) / standardiser.scale, -CLIP, CLIP)


def fit_features(x: Float[np.ndarray, "N P"], inputs: int) -> Features:
    """The features of a table for a learner with D = `inputs`; squares if they fit in beside the P columns."""
    columns = fit_standardiser(x)
    if 2 * x.shape[1] > inputs:
        return Features(columns, None)
    return Features(columns, fit_standardiser(np.square(standardise(columns, x))))


def features_of(features: Features, x: Float[np.ndarray, "N P"]) -> Float[np.ndarray, "N F"]:
    """Features of rows, each by itself; F is P, or 2 P with the squares behind."""
    z = standardise(features.columns, x)
    if features.squares is None:
        return z
    return np.concatenate([z, standardise(features.squares, np.square(z))], axis=1)


def draw_views(
    x: Float[np.ndarray, "N F"],
    squares: bool,
    y: Int[np.ndarray, " N"],
    shapes: tuple[int, int, int],
    count: int,
    rng: np.random.Generator,
) -> Views:
    """Draw the views of a table.

    Args:
        x: features.
        squares: whether the second half of them are squares, which only every second view sees.
        y: classes, 0 to K - 1, each with a row.
        shapes: D, C, T of the learner.
        count: the fewest views; as many more as it takes to show every row.
        rng: all randomness.
    """
    inputs, outputs, length = shapes
    size = min(len(y), length - 1)  # position T - 1 is the query's
    rows = _blocks(y, size, count, rng)
    axes = _principal_axes(x, inputs, rng)
    plain = axes[: len(axes) // 2] if squares else axes
    projection = np.stack([_projection(x, (plain, axes)[view % 2], inputs, rng) for view in range(len(rows))])
    labels = np.stack([_code(int(y.max()) + 1, outputs, rng) for _ in rows])
    return Views(projection, rows, labels)


def inputs_of(projection: Float[np.ndarray, "M D F"], x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N M D"]:
    """The inputs that each view makes of features, in float32.

    One product a row, always of the same shape and from the same place in memory: the sums of a product of two
    matrices may be ordered by the number of rows, and a row's prediction must not depend on the other rows.
    """
    views, inputs, features = projection.shape
    flat = np.ascontiguousarray(projection.reshape(-1, features))
    row, out = np.empty(features), np.empty((len(x), views * inputs), np.float32)
    for i in range(len(x)):
        row[:] = x[i]
        out[i] = flat @ row
    return out.reshape(-1, views, inputs)


def _blocks(y: Int[np.ndarray, " N"], size: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, "M n"]:
    """At least `count` random stratified sets of `size` rows, every row in one of them, each in random order."""
    views = max(count, -(-len(y) // size))
    stream = np.concatenate([_stratified(y, rng) for _ in range(-(-views * size // len(y)))])
    blocks = [stream[i * size : (i + 1) * size] for i in range(views)]
    if len(y) > size:
        # A block that reaches from one pass over the rows into the next may hold a row twice: all different instead.
        for i, block in enumerate(blocks):
            kept = np.unique(block)
            if len(kept) < size:
                others = np.setdiff1d(np.arange(len(y)), kept)
                blocks[i] = np.concatenate([kept, rng.choice(others, size - len(kept), replace=False)])
    return np.stack([rng.permutation(block) for block in blocks])


def _stratified(y: Int[np.ndarray, " N"], rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """All rows in a random order in which every stretch has the classes in about their proportions."""
    place = np.empty(len(y))
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _principal_axes(x: Float[np.ndarray, "N F"], most: int, rng: np.random.Generator) -> Float[np.ndarray, "k F"]:
    """The identity where the features are few enough, else the `most` leading principal axes (fewer if N is less)."""
    if x.shape[1] <= most:
        return np.eye(x.shape[1])
    if len(x) > PCA_ROWS:
        x = x[rng.choice(len(x), PCA_ROWS, replace=False)]
    return np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:most]


def _projection(
    x: Float[np.ndarray, "N F"], axes: Float[np.ndarray, "k F"], inputs: int, rng: np.random.Generator
) -> Float[np.ndarray, "D F"]:
    """The features along `axes`, turned by a random map with orthonormal columns, with mean square 1 an input."""
    q, r = np.linalg.qr(rng.standard_normal((inputs, len(axes))))
    deviation = np.sqrt(np.square(x @ axes.T).sum(1).mean() / inputs)
    return (q * np.sign(np.diag(r))) @ axes / (deviation if deviation > 0 else 1.0)


def _code(classes: int, outputs: int, rng: np.random.Generator) -> Int[np.ndarray, " K"]:
    """A label for each class: different ones if there are enough, else each for about as many classes."""
    order = rng.permutation(classes)
    labels = rng.permutation(outputs)
    code = np.empty(classes, np.int32)
    code[order] = labels[np.arange(classes) % outputs]
    return code
