"""The update of one tensor by small_fc or STAR.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860), appendix on `AdafacMLPLOpt`.

The 39 features of a parameter are never put side by side. The network's first layer is a sum of products, one feature
after the other, with each weight already multiplied by its feature's normaliser. Features of a whole row or column are
multiplied once per row or column. The time features, the same for all parameters, are part of the bias. A tensor that
does not fit a cache is processed in blocks, twice: once for the normalisers, once for the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from metalearn_models.optimizers.contract import Layers, inverse_rms
from metalearn_models.optimizers.frame import hold_still
from metalearn_models.optimizers.learned.parts.blocks import Block
from metalearn_models.optimizers.learned.parts.fused import network, over_blocks, products, scalars

__all__ = ["NORMALISED", "Features", "Mixing", "Rule", "factored_axes", "update_matrix", "update_vector"]

NORMALISED = 28
"""Number of features that are divided by their root mean square over the tensor; the 11 time features follow them."""

Features = dict[int, Array]
"""Features by their number in the paper's code, which is their row of the first weight matrix."""

Rule = Callable[[list[Array], Features], Array]
"""`(outputs, features) -> update`, see `with_factored_features`."""


class Mixing(NamedTuple):
    """1 - decay of every accumulator."""

    momentum: Float[Array, "3"]
    second_moment: Float[Array, ""]
    factored: Float[Array, "3"]


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The second largest axis and the largest, the later of equal ones; None for vectors and scalars."""
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable")
    return int(order[-2]), int(order[-1])


def update_vector(
    layers: Layers,
    mixing: Mixing,
    rule: Rule,
    g: Array,
    p: Array,
    momenta: Array,
    second: Array,
    *factored: Array | None,
) -> tuple[Array | None, ...]:
    """Update and new accumulators of a vector or scalar, whose square gradients are not factored."""
    rows, columns = factored  # a vector has no columns
    assert rows is not None
    ms, second = _accumulate(mixing.momentum, momenta, g), _second_moment(mixing, second, g)
    rs = _accumulate(mixing.factored, rows, g * g + 1e-30)
    features = _elementwise(g, p, ms, second, [_safe_rsqrt(r + 1e-9) for r in rs], [_rsqrt(r + 1e-6) for r in rs])
    for row, column, new in ((13, 16, rs), (19, 22, [_rsqrt(r + 1e-8) for r in rs])):
        features |= _number(row, new) | _number(column, new)
    weight = _normalise(layers, _mean_squares(features))
    units = [jnp.broadcast_to(b, p.shape) for b in scalars(layers[0]["bias"][None])[0]]
    step = hold_still(rule(network(layers, _add_features(units, features, weight)), features), g, ms)
    return step, jnp.stack(ms), second, jnp.stack(rs), columns


def update_matrix(
    layers: Layers, mixing: Mixing, rule: Rule, g: Array, p: Array, momenta: Array, second: Array, *factored: Array
) -> tuple[Array, ...]:
    """Update and new accumulators of a tensor with rows and columns, block after block."""
    axes = factored_axes(p.shape)
    assert axes is not None
    d1, d0 = axes
    square = g * g + 1e-30
    # What is constant along an axis keeps that axis with length 1.
    rows, columns = (jnp.expand_dims(x, axis + 1) for x, axis in zip(factored, (d0, d1), strict=True))
    rs = _accumulate(mixing.factored, rows, square.mean(d0, keepdims=True))
    cs = _accumulate(mixing.factored, columns, square.mean(d1, keepdims=True))
    by_row = [_safe_rsqrt(r / (r.mean(d1, keepdims=True) + 1e-9)) for r in rs]
    by_column = [_safe_rsqrt(c) for c in cs]
    along_rows = _number(13, rs) | _number(19, [_rsqrt(r + 1e-8) for r in rs])
    along_columns = _number(16, cs) | _number(22, [_rsqrt(c + 1e-8) for c in cs])
    axis = min(axes)

    def features_at(block: Block, ms: list[Array], second: Array) -> Features:
        factors = [block.of(r, axis) * block.of(c, axis) for r, c in zip(by_row, by_column, strict=True)]
        return _elementwise(block.of(g, axis), block.of(p, axis), ms, second, factors, factors)

    def remember(block: Block, memory: tuple[Array, Array, dict[int, Array]]) -> tuple[Array, Array, dict[int, Array]]:
        momenta, second, means = memory
        ms = _accumulate(mixing.momentum, [block.of(m, axis) for m in momenta], block.of(g, axis))
        new = _second_moment(mixing, block.of(second, axis), block.of(g, axis))
        share = new.size / p.size
        means = {i: means[i] + share * mean for i, mean in _mean_squares(features_at(block, ms, new)).items()}
        return block.put(momenta, jnp.stack(ms), axis + 1), block.put(second, new, axis), means

    elementwise = dict.fromkeys([*range(13), 25, 26, 27], jnp.float32(0))
    memory = over_blocks(p, axis, remember, (momenta, second, elementwise))
    momenta, second, means = memory
    weight = _normalise(layers, means | _mean_squares(along_rows) | _mean_squares(along_columns))
    biases = [b.reshape((1,) * p.ndim) for b in scalars(layers[0]["bias"][None])[0]]
    row_units = _add_features(biases, along_rows, weight)
    column_units = products(list(along_columns.values()), weight[np.array(list(along_columns))])

    def apply(block: Block, step: Array) -> Array:
        ms = [block.of(m, axis) for m in momenta]
        features = features_at(block, ms, block.of(second, axis))
        units = [block.of(r, axis) + block.of(c, axis) for r, c in zip(row_units, column_units, strict=True)]
        part = rule(network(layers, _add_features(units, features, weight)), features)
        return block.put(step, hold_still(part, block.of(g, axis), ms), axis)

    step = over_blocks(p, axis, apply, jnp.zeros_like(p))
    return step, momenta, second, jnp.stack(rs).squeeze(d0 + 1), jnp.stack(cs).squeeze(d1 + 1)


def _elementwise(
    g: Array, p: Array, ms: list[Array], second: Array, g_factors: list[Array], m_factors: list[Array]
) -> Features:
    """The features that differ between parameters even along a row or column."""
    inverse = _rsqrt(second + 1e-6)
    features = {0: g, 1: p, **_number(2, ms), 5: second, **_number(6, [m * inverse for m in ms]), 9: inverse}
    features |= _number(10, [g * f for f in g_factors])
    return features | _number(25, [m * f for m, f in zip(ms, m_factors, strict=True)])


def _accumulate(mixing: Float[Array, "3"], old: Sequence[Array] | Array, new: Array) -> list[Array]:
    return [(1 - a) * v + a * new for a, v in zip(mixing, old, strict=True)]


def _second_moment(mixing: Mixing, second: Array, g: Array) -> Array:
    return (1 - mixing.second_moment) * second + mixing.second_moment * (g * g)


def _rsqrt(x: Array) -> Array:
    return jax.lax.rsqrt(x)


def _safe_rsqrt(x: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _number(first: int, features: Sequence[Array]) -> Features:
    """The features by consecutive numbers."""
    return dict(enumerate(features, first))


def _normalise(layers: Layers, mean_squares: dict[int, Array]) -> Float[Array, "28 H"]:
    """The first layer's weights, each times the normaliser of its feature."""
    weight = layers[0]["weight"]
    scale = inverse_rms(jnp.stack([mean_squares[i] for i in range(NORMALISED)]))
    return weight * jnp.broadcast_to(scale[:, None], weight.shape)


def _add_features(units: list[Array], features: Features, weight: Float[Array, "28 H"]) -> list[Array]:
    """The hidden units, one array each, plus the contribution of the features."""
    terms = products(list(features.values()), weight[np.array(list(features))])
    return [u + t for u, t in zip(units, terms, strict=True)]


def _mean_squares(features: Features) -> dict[int, Array]:
    """The mean square of each feature.

    Small features are stacked first: one reduction per feature would take longer to compile than everything else.
    """
    xs = list(features.values())
    if xs[0].size > 512:
        return {i: jnp.square(x).mean() for i, x in features.items()}
    stacked = jnp.square(jnp.stack(xs))
    return dict(zip(features, stacked.mean(tuple(range(1, stacked.ndim))), strict=True))
