"""The accumulators, features and network that small_fc and STAR share.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860), appendix on `AdafacMLPLOpt`.

The 39 features of a parameter are never put side by side. The network's first layer is a sum of products, one
feature after the other, each weight already multiplied by its feature's normaliser; features of a whole row or column
are multiplied once a row or column; the time features, the same for all parameters, are part of the bias. A tensor
that does not fit a cache is gone through in blocks, twice: once for the normalisers, once for the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.contract import (
    Layers,
    check_params,
    float32,
    inverse_rms,
    require_params,
    time_features,
)
from metalearn_models.optimizers.learned.parts.blocks import Block
from metalearn_models.optimizers.learned.parts.fused import network, over_blocks, products, scalars

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.999
FACTORED_DECAYS = (0.9, 0.99, 0.999)
"""The decays a fresh theta stands for."""

NORMALISED = 28
"""Features divided by their root mean square over the tensor; the 11 time features follow them."""

Features = dict[int, Array]
"""Features by their number in the paper's code, hence by their row of the first weight matrix."""


class SmallFCTheta(NamedTuple):
    """Meta-parameters, 197 by default.

    Attributes:
        layers: the network.
        momentum: offset z of each decay: `1 - decay = (1 - initial decay) exp(10 z)`.
        second_moment: the same.
        factored: the same.
    """

    layers: Layers
    momentum: Float[Array, "3"]
    second_moment: Float[Array, "1"]
    factored: Float[Array, "3"]


class SmallFCState(NamedTuple):
    """What the optimizer remembers: about four times the parameters, and a counter.

    Attributes:
        momenta: like params, with a leading axis of the three decays.
        second_moment: like params.
        rows: for each tensor the mean square gradient over its largest axis, three decays leading; of a
            vector or scalar, the square gradient itself.
        columns: the same over the second largest axis; of a vector or scalar, empty.
        step: updates made so far.
    """

    momenta: Any
    second_moment: Any
    rows: Any
    columns: Any
    step: Int[Array, ""]


Rule = Callable[[list[Array], Features], Array]
"""`(outputs, features) -> update` of a part of a tensor, see `with_factored_features`."""


class _Mixing(NamedTuple):
    """1 - decay of every accumulator."""

    momentum: Float[Array, "3"]
    second_moment: Float[Array, ""]
    factored: Float[Array, "3"]


def with_factored_features(theta: SmallFCTheta, rule: Rule) -> optax.GradientTransformationExtraArgs:
    """Accumulators, features and network of small_fc, around any rule that makes an update of them.

    Args:
        theta: meta-parameters.
        rule: `(outputs, features) -> update` of one tensor or a part of it, all of them float32 arrays of one shape:
            the outputs of the network, and the features that are not constant along an axis, by their number, before
            normalisation. Numbers 6 to 8 are the momenta over the root of the second moment, 9 is its inverse root.

    Returns:
        The transformation; its state is a `SmallFCState`.
    """

    def start(params: optax.Params) -> SmallFCState:
        check_params(params)
        zeros = [_zeros(p.shape) for p in jax.tree.leaves(params)]
        unflatten = jax.tree.structure(params).unflatten
        momenta, second, rows, columns = (unflatten(leaves) for leaves in zip(*zeros, strict=True))
        return SmallFCState(momenta, second, rows, columns, jnp.int32(0))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, SmallFCState]:
        del extra
        leaves, tree = jax.tree.flatten(require_params(params))
        mixing = _mixing(theta)
        first = theta.layers[0]
        bias = first["bias"] + time_features(state.step) @ first["weight"][NORMALISED:]
        layers = ({"weight": first["weight"][:NORMALISED], "bias": bias}, *theta.layers[1:])
        results = []
        for p, g, *memory in zip(leaves, *map(tree.flatten_up_to, (updates, *state[:4])), strict=True):
            if p.size == 0:  # means over nothing would be NaN, also in derivatives
                results.append((jnp.zeros_like(p), *memory))
                continue
            of_tensor = _vector_update if factored_axes(p.shape) is None else _matrix_update
            step, *memory = of_tensor(layers, mixing, rule, float32(g), float32(p), *memory)
            results.append((step.astype(p.dtype), *memory))
        updates, momenta, second, rows, columns = (tree.unflatten(list(new)) for new in zip(*results, strict=True))
        return updates, SmallFCState(momenta, second, rows, columns, state.step + 1)

    return optax.GradientTransformationExtraArgs(start, update)


def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The second largest axis and the largest (the later one of equals); None for vectors and scalars."""
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable")
    return int(order[-2]), int(order[-1])


def _zeros(shape: tuple[int, ...]) -> tuple[Array, Array, Array, Array]:
    axes = factored_axes(shape)
    rows, columns = (shape, (0,)) if axes is None else (_without(shape, axes[1]), _without(shape, axes[0]))
    return jnp.zeros((3, *shape)), jnp.zeros(shape), jnp.zeros((3, *rows)), jnp.zeros((3, *columns))


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _mixing(theta: SmallFCTheta) -> _Mixing:
    def learned(decays: tuple[float, ...], offset: Array) -> Array:
        return jnp.array([1 - d for d in decays], jnp.float32) * jnp.exp(10 * offset)

    return _Mixing(
        learned(MOMENTUM_DECAYS, theta.momentum),
        jnp.clip(learned((SECOND_MOMENT_DECAY,), theta.second_moment)[0], 0, 1),
        jnp.clip(learned(FACTORED_DECAYS, theta.factored), 0, 1),
    )


def _vector_update(
    layers: Layers, mixing: _Mixing, rule: Rule, g: Array, p: Array, momenta: Array, second: Array, *factored: Array
) -> tuple[Array, ...]:
    """Update and new accumulators of a vector or scalar, whose square gradients are not factored."""
    rows, columns = factored
    ms, second = _accumulate(mixing.momentum, momenta, g), _moment(mixing, second, g)
    rs = _accumulate(mixing.factored, rows, g * g + 1e-30)
    features = _elementwise(g, p, ms, second, [_safe_rsqrt(r + 1e-9) for r in rs], [_rsqrt(r + 1e-6) for r in rs])
    for row, column, new in ((13, 16, rs), (19, 22, [_rsqrt(r + 1e-8) for r in rs])):
        features |= _number(row, new) | _number(column, new)
    weight = _normalised(layers, _mean_squares(features))
    units = [jnp.broadcast_to(b, p.shape) for b in scalars(layers[0]["bias"][None])[0]]
    step = rule(network(layers, _added(units, features, weight)), features)
    return step, jnp.stack(ms), second, jnp.stack(rs), columns


def _matrix_update(
    layers: Layers, mixing: _Mixing, rule: Rule, g: Array, p: Array, momenta: Array, second: Array, *factored: Array
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
        new = _moment(mixing, block.of(second, axis), block.of(g, axis))
        share = new.size / p.size
        means = {i: means[i] + share * mean for i, mean in _mean_squares(features_at(block, ms, new)).items()}
        return block.put(momenta, jnp.stack(ms), axis + 1), block.put(second, new, axis), means

    elementwise = dict.fromkeys([*range(13), 25, 26, 27], jnp.float32(0))
    memory = over_blocks(p.shape, axis, remember, (momenta, second, elementwise))
    momenta, second, means = memory
    weight = _normalised(layers, means | _mean_squares(along_rows) | _mean_squares(along_columns))
    biases = [b.reshape((1,) * p.ndim) for b in scalars(layers[0]["bias"][None])[0]]
    row_units = _added(biases, along_rows, weight)
    column_units = products(list(along_columns.values()), weight[np.array(list(along_columns))])

    def apply(block: Block, step: Array) -> Array:
        features = features_at(block, [block.of(m, axis) for m in momenta], block.of(second, axis))
        units = [block.of(r, axis) + block.of(c, axis) for r, c in zip(row_units, column_units, strict=True)]
        return block.put(step, rule(network(layers, _added(units, features, weight)), features), axis)

    step = over_blocks(p.shape, axis, apply, jnp.zeros(p.shape))
    return step, momenta, second, jnp.stack(rs).squeeze(d0 + 1), jnp.stack(cs).squeeze(d1 + 1)


def _elementwise(
    g: Array, p: Array, ms: list[Array], second: Array, g_factors: list[Array], m_factors: list[Array]
) -> Features:
    """The features that differ from one parameter to the next even along a row or column."""
    inverse = _rsqrt(second + 1e-6)
    features = {0: g, 1: p, **_number(2, ms), 5: second, **_number(6, [m * inverse for m in ms]), 9: inverse}
    features |= _number(10, [g * f for f in g_factors])
    return features | _number(25, [m * f for m, f in zip(ms, m_factors, strict=True)])


def _accumulate(mixing: Float[Array, "3"], old: Sequence[Array] | Array, new: Array) -> list[Array]:
    return [(1 - a) * v + a * new for a, v in zip(mixing, old, strict=True)]


def _moment(mixing: _Mixing, second: Array, g: Array) -> Array:
    return (1 - mixing.second_moment) * second + mixing.second_moment * (g * g)


def _rsqrt(x: Array) -> Array:
    return jax.lax.rsqrt(x)


def _safe_rsqrt(x: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _number(first: int, features: Sequence[Array]) -> Features:
    return dict(enumerate(features, first))


def _normalised(layers: Layers, mean_squares: dict[int, Array]) -> Float[Array, "28 H"]:
    """The first layer's weights, each times the normaliser of its feature."""
    weight = layers[0]["weight"]
    scale = inverse_rms(jnp.stack([mean_squares[i] for i in range(NORMALISED)]))
    return weight * jnp.broadcast_to(scale[:, None], weight.shape)


def _added(units: list[Array], features: Features, weight: Float[Array, "28 H"]) -> list[Array]:
    """`units`, one array each, plus what the features give them."""
    terms = products(list(features.values()), weight[np.array(list(features))])
    return [u + t for u, t in zip(units, terms, strict=True)]


def _mean_squares(features: Features) -> dict[int, Array]:
    """Of each array. Small ones are stacked first: a reduction each would take longer to compile than all the rest."""
    xs = list(features.values())
    if xs[0].size > 512:
        return {i: jnp.square(x).mean() for i, x in features.items()}
    return dict(zip(features, jnp.square(jnp.stack(xs)).reshape(len(xs), -1).mean(1), strict=True))
