"""Views of a table, each in the shapes of an in-context learner; their predictions are averaged.

A learner that was meta-trained on D inputs, C labels and sequences of T examples knows no other shapes. A view of a
table has these parts:

- inputs: the features are standardised, reduced to D by principal components if there are more, mapped to D inputs by a
  random rotation, and scaled to the unit deviation of meta-training;
- rows: at most T - 1 of them, stratified, in random order;
- labels: random names of the classes.

If the features leave room, every second view also has their squares: a learner that was meta-trained on many inputs
makes poor use of few. With more classes than labels, a view merges classes at random under each label. This is an
error-correcting output code (Dietterich & Bakiri 1995, arXiv cs/9501101) with C symbols.

Everything here runs once per fit, on the host. Only `features_of`, `reduce` and `inputs_of` run per prediction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

__all__ = [
    "CLIP",
    "EXACT",
    "PCA_ROWS",
    "PLACES",
    "VIEWS",
    "Features",
    "Standardiser",
    "Views",
    "draw_looks",
    "draw_views",
    "features_of",
    "fit_features",
    "fit_standardiser",
    "inputs_of",
    "leading_axes",
    "reduce",
    "standardise",
    "stratified_order",
]

CLIP = 10.0
"""Standardised features are clipped here, in standard deviations; a learner has seen nothing further out."""
PCA_ROWS = 1000
"""Principal components are those of at most so many rows."""
EXACT = 256
"""Up to so many rows or features principal axes are singular vectors, beyond them eigenvectors of a Gram matrix."""
PLACES = 64
"""Features are reduced to so many principal components, or to D if that is more. A view has the first D of them.
Nearness is measured in all of them. Every second context of nearest rows has a random projection of all of them: what
tells classes apart need not be among the first."""
VIEWS = 16
"""Up to so many views are drawn, beyond what is asked for, to show every row to one of them."""


class Standardiser(NamedTuple):
    """`clip((x / largest - mean) / scale)`; dividing by the largest value first keeps squares from overflowing."""

    largest: Float[np.ndarray, " F"]
    mean: Float[np.ndarray, " F"]
    scale: Float[np.ndarray, " F"]


class Features(NamedTuple):
    """How features are made of a table: its columns standardised, and their squares too if there is room."""

    columns: Standardiser
    squares: Standardiser | None


class Views(NamedTuple):
    """M views of one table of N rows and K classes.

    Attributes:
        axes: the k directions to which `reduce` reduces features, the leading ones first; None: all features are kept.
        projection: reduced features to the inputs of each view.
        rows: which rows a view shows, in which order.
        labels: the label that stands for each class.
    """

    axes: Float[np.ndarray, "k F"] | None
    projection: Float[np.ndarray, "M D k"]
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
    with np.errstate(over="ignore"):  # a huge value may become infinite
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
        squares: whether the second half of them are squares, which only every second view has.
        y: classes, 0 to K - 1, each with a row.
        shapes: D, C, T of the learner.
        count: number of views; up to `VIEWS` if more are needed to show every row to one of them.
        rng: all randomness.
    """
    inputs, _, length = shapes
    size = min(len(y), length - 1)  # position T - 1 is the query's
    rows = _blocks(y, size, count, rng)
    axes = None if x.shape[1] <= inputs else _principal_axes(x, max(inputs, PLACES), rng)
    z = reduce(axes, x)
    whole = min(z.shape[1], inputs)
    widths = (whole // 2 if squares else whole, whole)
    projection, labels = draw_looks(z, widths, int(y.max()) + 1, shapes, len(rows), rng)
    return Views(axes, projection, rows, labels)


def draw_looks(
    z: Float[np.ndarray, "N k"],
    widths: tuple[int, int],
    classes: int,
    shapes: tuple[int, int, int],
    count: int,
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "M D k"], Int[np.ndarray, "M K"]]:
    """Draw the projections of M views, and their names of the classes.

    Args:
        z: reduced features.
        widths: how many of them, from the first on, the first view has and every second one after it, and the others.
        classes: K.
        shapes: D, C, T of the learner.
        count: M.
        rng: all randomness.
    """
    inputs, outputs, _ = shapes
    projection = np.stack([_projection(z, widths[view % 2], inputs, rng) for view in range(count)])
    return projection, np.stack([_code(classes, outputs, rng) for _ in range(count)])


def reduce(axes: Float[np.ndarray, "k F"] | None, x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N k"]:
    """Features along the axes, each row by itself; see `inputs_of`."""
    return x if axes is None else _products(axes, x)


def inputs_of(projection: Float[np.ndarray, "M D k"], z: Float[np.ndarray, "N k"]) -> Float[np.ndarray, "N M D"]:
    """The inputs of each view for reduced features, in float32.

    There is one product per row, always of the same shape and from the same place in memory: the order of the sums in a
    product of two matrices may depend on the number of rows, and a row's prediction must not depend on the other rows.
    """
    flat = rearrange(projection, "m d k -> (m d) k")
    return rearrange(_products(flat, z).astype(np.float32), "n (m d) -> n m d", m=len(projection))


def _products(matrix: Float[np.ndarray, "A F"], x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N A"]:
    matrix, row = np.ascontiguousarray(matrix), np.empty(x.shape[1])
    out = np.empty((len(x), len(matrix)))
    for i in range(len(x)):
        row[:] = x[i]
        out[i] = matrix @ row
    return out


def _blocks(y: Int[np.ndarray, " N"], size: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, "M n"]:
    """Random stratified sets of `size` rows, each in random order, every row in one of them if `VIEWS` suffice."""
    views = max(count, min(-(-len(y) // size), VIEWS))
    stream = np.concatenate([stratified_order(y, rng) for _ in range(-(-views * size // len(y)))])
    blocks = [stream[i * size : (i + 1) * size] for i in range(views)]
    if len(y) > size:
        # A block that reaches from one pass over the rows into the next may hold a row twice: replace the second.
        for i, block in enumerate(blocks):
            kept = np.unique(block)
            if len(kept) < size:
                others = np.setdiff1d(np.arange(len(y)), kept)
                blocks[i] = np.concatenate([kept, rng.choice(others, size - len(kept), replace=False)])
    return np.stack([rng.permutation(block) for block in blocks])


def stratified_order(y: Int[np.ndarray, " N"], rng: np.random.Generator) -> Int[np.ndarray, " N"]:
    """All rows in a random order in which the classes have about their proportions in every stretch."""
    place = np.empty(len(y))
    for label in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place, kind="stable")


def _principal_axes(x: Float[np.ndarray, "N F"], most: int, rng: np.random.Generator) -> Float[np.ndarray, "k F"]:
    """The `most` leading principal axes (fewer if N or F is less)."""
    if len(x) > PCA_ROWS:
        x = x[rng.choice(len(x), PCA_ROWS, replace=False)]
    x = x - x.mean(0)
    return leading_axes(x, most)


def leading_axes(x: Float[np.ndarray, "N F"], most: int) -> Float[np.ndarray, "k F"]:
    """The `most` leading right singular vectors (fewer if N or F is less, or if the rank of a large `x` is)."""
    x = np.asarray(x, np.float64)  # float32 could not tell small directions from rounding
    if min(x.shape) <= EXACT:
        return np.linalg.svd(x, full_matrices=False)[2][:most]
    # A singular value decomposition would find all vectors; this finds the leading ones of the smaller product.
    turned = x if x.shape[0] < x.shape[1] else x.T
    gram = turned @ turned.T
    # Threads wait for each other at every column, and where other programs run they spin.
    with threadpool_limits(1, "blas"):
        squares, vectors = eigh(gram, subset_by_index=[max(0, len(gram) - most), len(gram) - 1])
    squares, vectors = squares[::-1], vectors[:, ::-1]
    if x.shape[0] >= x.shape[1]:
        return vectors.T
    kept = squares > 1e-10 * squares[0]  # beyond, rounding decides: a product has the square of the singular value
    kept[0] = True
    return (vectors[:, kept] / np.sqrt(np.maximum(squares[kept], 1e-300))).T @ x


def _projection(
    z: Float[np.ndarray, "N k"], width: int, inputs: int, rng: np.random.Generator
) -> Float[np.ndarray, "D k"]:
    """A random map of the first `width` of z, scaled to mean square 1 per input.

    Its columns are orthonormal, a rotation, or its rows if they are fewer, a random projection.
    """
    q, r = np.linalg.qr(rng.standard_normal((max(inputs, width), min(inputs, width))))
    turned = q * np.sign(np.diag(r)) if width <= inputs else q.T
    deviation = np.sqrt(np.square(z[:, :width] @ turned.T).sum(1).mean() / inputs)
    projection = np.zeros((inputs, z.shape[1]))
    projection[:, :width] = turned / (deviation if deviation > 0 else 1.0)
    return projection


def _code(classes: int, outputs: int, rng: np.random.Generator) -> Int[np.ndarray, " K"]:
    """A label for each class: all different if there are enough, else each label for about as many classes."""
    order = rng.permutation(classes)
    labels = rng.permutation(outputs)
    code = np.empty(classes, np.int32)
    code[order] = labels[np.arange(classes) % outputs]
    return code
