"""small_fc, the small fully connected learned optimizer with Adafactor features.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860); features, constants, their order and the initialisation are
those of the authors' published code (`AdafacMLPLOpt`). Accumulators start at 0 and are not bias-corrected.

The 39 features of a parameter are never put side by side. The network's first layer is a sum of products, one
feature after the other, each weight already multiplied by its feature's normaliser; features of a whole row or column
are multiplied once a row or column; the time features, the same for all parameters, are part of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import (
    TIMESCALES,
    Layers,
    LearnedOptimizer,
    check_params,
    dense_layers,
    float32,
    inverse_rms,
    require_params,
    time_features,
)

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


class _Mixing(NamedTuple):
    """1 - decay of every accumulator."""

    momentum: Float[Array, "3"]
    second_moment: Float[Array, ""]
    factored: Float[Array, "3"]


def small_fc(hidden: tuple[int, ...] = (4, 4), step_size: float = 1e-3, exponent: float = 1e-3) -> LearnedOptimizer:
    """The learned optimizer small_fc.

    The update of every parameter is `-step_size d exp(exponent m)`, with d and m the outputs of the network.

    Args:
        hidden: widths of the network's hidden layers.
        step_size: lambda_1 of the paper.
        exponent: lambda_2 of the paper.

    Returns:
        The optimizer; theta is a `SmallFCTheta`. `num_steps` is ignored.

    Raises:
        ValueError: by `init`, when a width is not positive.
    """

    def init(key: PRNGKeyArray) -> SmallFCTheta:
        layers = dense_layers(key, (NORMALISED + len(TIMESCALES), *hidden, 2))
        return SmallFCTheta(layers, jnp.zeros(3), jnp.zeros(1), jnp.zeros(3))

    def transform(theta: SmallFCTheta, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def update_of(outputs: list[Array], features: Features) -> Array:
            del features
            direction, magnitude = outputs
            return -step_size * direction * jnp.exp(exponent * magnitude)

        return with_factored_features(theta, update_of)

    return LearnedOptimizer(init, transform)


def with_factored_features(
    theta: SmallFCTheta, update_of: Callable[[list[Array], Features], Array]
) -> optax.GradientTransformationExtraArgs:
    """Accumulators, features and network of small_fc, around any rule that makes an update of them.

    Args:
        theta: meta-parameters.
        update_of: `(outputs, features) -> update` of one tensor, all of them float32 arrays of its shape: the outputs
            of the network, and the features that are not constant along an axis, by their number, before
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
        weight, bias = theta.layers[0]["weight"], theta.layers[0]["bias"]
        bias = bias + time_features(state.step) @ weight[NORMALISED:]
        results = []
        for p, g, *memory in zip(leaves, *map(tree.flatten_up_to, (updates, *state[:4])), strict=True):
            memory, groups = _features(mixing, float32(g), float32(p), *memory)
            step = update_of(_network(theta.layers, bias, groups), groups[0][0])
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


def _features(
    mixing: _Mixing, g: Array, p: Array, momenta: Array, second: Array, rows: Array, columns: Array
) -> tuple[tuple[Array, Array, Array, Array], list[tuple[Features, int | None]]]:
    """The new accumulators of one tensor, and its features in groups: whole tensors, or vectors along an axis."""
    rsqrt, safe_rsqrt = jax.lax.rsqrt, lambda x: jax.lax.rsqrt(jnp.maximum(x, 1e-9))
    axes = factored_axes(p.shape)
    ms = [(1 - a) * m + a * g for a, m in zip(mixing.momentum, momenta, strict=True)]
    second = (1 - mixing.second_moment) * second + mixing.second_moment * (g * g)
    inverse = rsqrt(second + 1e-6)
    full = {0: g, 1: p, **_number(2, ms), 5: second, **_number(6, [m * inverse for m in ms]), 9: inverse}

    def accumulate(old: Array, new: Array) -> list[Array]:
        return [(1 - a) * v + a * new for a, v in zip(mixing.factored, old, strict=True)]

    square = g * g + 1e-30
    if axes is None:
        rs = accumulate(rows, square)
        full |= _number(10, [g * safe_rsqrt(r + 1e-9) for r in rs])
        for row, column, feature in ((13, 16, rs), (19, 22, [rsqrt(r + 1e-8) for r in rs])):
            full |= _number(row, feature) | _number(column, feature)
        full |= _number(25, [m * rsqrt(r + 1e-6) for m, r in zip(ms, rs, strict=True)])
        return (jnp.stack(ms), second, jnp.stack(rs), columns), [(full, None)]

    d1, d0 = axes

    def spread(x: Array, axis: int) -> Array:
        return jnp.broadcast_to(jnp.expand_dims(x, axis), p.shape)

    rs, cs = accumulate(rows, square.mean(d0)), accumulate(columns, square.mean(d1))
    factors = []
    for r, c in zip(rs, cs, strict=True):
        mean = jnp.broadcast_to(r.mean(d1 - (d1 > d0), keepdims=True), r.shape)
        factors.append(spread(safe_rsqrt(r / (mean + 1e-9)), d0) * spread(safe_rsqrt(c), d1))
    full |= _number(10, [g * f for f in factors]) | _number(25, [m * f for m, f in zip(ms, factors, strict=True)])
    along_rows = _number(13, rs) | _number(19, [rsqrt(r + 1e-8) for r in rs])
    along_columns = _number(16, cs) | _number(22, [rsqrt(c + 1e-8) for c in cs])
    groups = [(full, None), (along_rows, d0), (along_columns, d1)]
    return (jnp.stack(ms), second, jnp.stack(rs), jnp.stack(cs)), groups


def _number(first: int, features: Sequence[Array]) -> Features:
    return dict(enumerate(features, first))


def _network(layers: Layers, bias: Array, groups: list[tuple[Features, int | None]]) -> list[Array]:
    """The network's outputs, each of the tensor's shape, hidden units one array each."""
    shape = groups[0][0][0].shape
    # The mean over the tensor of what is constant along an axis is the mean over the rest.
    squares: dict[int, Array] = {}
    for features, _ in groups:
        squares |= zip(features, _mean_squares(list(features.values())), strict=True)
    scale = inverse_rms(jnp.stack([squares[i] for i in range(NORMALISED)]))
    weight = layers[0]["weight"][:NORMALISED]
    weight = weight * jnp.broadcast_to(scale[:, None], weight.shape)
    units = [jnp.broadcast_to(b, shape) for b in _scalars(bias[None])[0]]
    for features, axis in groups:
        terms = _products(list(features.values()), weight[np.array(list(features))])
        if axis is not None:
            terms = [jnp.broadcast_to(jnp.expand_dims(t, axis), shape) for t in terms]
        units = [u + t for u, t in zip(units, terms, strict=True)]
    for layer in layers[1:]:
        products = _products([jax.nn.relu(u) for u in units], layer["weight"])
        units = [x + b for x, b in zip(products, _scalars(layer["bias"][None])[0], strict=True)]
    return units


def _mean_squares(xs: list[Array]) -> list[Array]:
    """Of each array. Small ones are stacked first: a reduction each would take longer to compile than all the rest."""
    if xs[0].size > 512:
        return [jnp.square(x).mean() for x in xs]
    return list(jnp.square(jnp.stack(xs)).reshape(len(xs), -1).mean(1))


@jax.custom_jvp
def _products(xs: list[Array], weight: Float[Array, "M N"]) -> list[Array]:
    """`sum_i xs[i] weight[i, j]` for each j: one fused loop over the tensor, nothing stored in between."""
    weights = _scalars(weight)
    return [
        sum(x * w[j] for x, w in zip(xs[1:], weights[1:], strict=True)) + xs[0] * weights[0][j]
        for j in range(weight.shape[1])
    ]


@_products.defjvp
def _products_jvp(primals: tuple[Any, Array], tangents: tuple[Any, Array]) -> tuple[list[Array], list[Array]]:
    # As a matrix product: transposed, the scalar form is one pass over the tensor for each weight.
    (xs, weight), (xs_dot, weight_dot) = primals, tangents
    along = jnp.tensordot(weight_dot, jnp.stack(xs), (0, 0)) + jnp.tensordot(weight, jnp.stack(xs_dot), (0, 0))
    return _products(xs, weight), list(along)


def _scalars(matrix: Float[Array, "M N"]) -> list[list[Array]]:
    """The entries of a matrix. One split: the gradient of as many slices would be as many padded matrices."""
    rows, columns = matrix.shape
    entries = [x.reshape(()) for x in jax.lax.split(matrix.ravel(), [1] * matrix.size)]
    return [entries[i * columns : (i + 1) * columns] for i in range(rows)]
