"""An LSTM optimizer that also reads where the training is heading, by dynamic mode decomposition.

After Simanek, Vasata and Kordik 2022, "Learning to Optimize with Dynamic Mode Decomposition" (arXiv 2211.16268). We
could read only the abstract: features of the optimisation's dynamics, extracted by dynamic mode decomposition, help a
learned optimizer to generalise. What is decomposed and which features are made from it is our own reading.

The last steps of each tensor are fitted by a linear map A, step_{t+1} = A step_t, within the few directions that they
span. On a quadratic, gradient descent with or without momentum is such a map, and the fit is exact. The predicted path
of the tensor is a combination of its last steps, whose coefficients come from the matrix of their scalar products:
neither A nor its eigenvectors are ever formed. No gradient passes through the fit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps, float32, require_params
from metalearn_models.optimizers.frame import read_gradient, transformation
from metalearn_models.optimizers.learned.lstm import Preprocess, log_and_sign
from metalearn_models.optimizers.learned.parts.blocks import map_blocks
from metalearn_models.optimizers.learned.parts.coordinatewise import (
    LSTMMemory,
    LSTMNetwork,
    block_sizes,
    is_fresh,
    lstm_advance,
    lstm_network,
    lstm_start,
    ravel_leaves,
    rest,
    start_apart,
    start_blocks,
    tensors_apart,
    unravel_leaves,
)
from metalearn_models.optimizers.learned.parts.placement import is_spread, repeated_zeros

__all__ = ["DMDState", "Fit", "dmd_lstm", "fit", "growth_bound", "predict_snapshots", "predict_sums"]

DEFAULT_PREPROCESS = log_and_sign()
"""The preprocessing of Andrychowicz et al. for neural networks."""


class Fit(NamedTuple):
    """A linear map fitted to consecutive snapshots, within the R directions that they span most.

    Attributes:
        basis: the directions as combinations of the first W snapshots; zeros for directions that are left out.
        operator: the map in these directions; its non-zero eigenvalues are those of A.
        last: the last snapshot in these directions.
    """

    basis: Float[Array, "W R"]
    operator: Float[Array, "R R"]
    last: Float[Array, "R"]


def fit(products: Float[Array, "snapshots snapshots"], rank: int, cutoff: float = 1e-3) -> Fit:
    """Dynamic mode decomposition of W + 1 snapshots x_0, ..., x_W from their scalar products.

    The operator is the least-squares fit of x_{i+1} = A x_i, projected on the leading left singular vectors of the
    first W snapshots (Schmid 2010; Tu et al. 2014, arXiv 1312.0041).

    Args:
        products: the scalar products `x_i . x_j`.
        rank: the largest number of directions, R.
        cutoff: directions with a singular value below this fraction of the largest are left out; float32 products do
            not resolve smaller ones.

    Returns:
        The fit; all zeros if all snapshots are 0.
    """
    squares, vectors = jnp.linalg.eigh(products[:-1, :-1])
    squares, vectors = squares[::-1][:rank], vectors[:, ::-1][:, :rank]
    kept = squares > jnp.maximum(cutoff**2 * squares[0], jnp.finfo(squares.dtype).tiny)
    inverse = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, squares, 1.0)), 0.0)
    basis = vectors * jnp.broadcast_to(inverse[None], vectors.shape)
    return Fit(basis, basis.T @ products[:-1, 1:] @ basis, basis.T @ products[:-1, -1])


def predict_snapshots(fitted: Fit, horizons: tuple[int, ...]) -> Float[Array, "K W"]:
    """The snapshots k steps after the last one, `A^k x_W`, as combinations of the first W snapshots.

    Args:
        fitted: the fit.
        horizons: k of each prediction, ascending from at least 1.
    """
    return _powers(fitted, horizons)[0]


def predict_sums(fitted: Fit, horizons: tuple[int, ...]) -> Float[Array, "K W"]:
    """The sums of the next k snapshots, `A x_W + ... + A^k x_W`, as combinations of the first W snapshots.

    Args:
        fitted: the fit.
        horizons: k of each sum, ascending from at least 1.
    """
    return _powers(fitted, horizons)[1]


def _powers(fitted: Fit, horizons: tuple[int, ...]) -> tuple[Array, Array]:
    def step(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        x = fitted.operator @ carry[0]
        return (x, carry[1] + x), (x, carry[1] + x)

    _, (each, sums) = jax.lax.scan(step, (fitted.last, jnp.zeros_like(fitted.last)), length=horizons[-1])
    rows = np.array(horizons) - 1
    return each[rows] @ fitted.basis.T, sums[rows] @ fitted.basis.T


def growth_bound(operator: Float[Array, "R R"]) -> Float[Array, ""]:
    """An upper bound of the largest |eigenvalue|, `|A^16|^(1/16)` in the Frobenius norm; 0 for the zero matrix."""
    scale, power = jnp.float32(1.0), operator
    for exponent in (1, 2, 4, 8, 16):
        # Each power is scaled to norm 1, so that none overflows.
        norm = jnp.linalg.norm(power)
        scale = scale * jnp.where(norm > 0, norm, 1.0) ** (1 / exponent)
        power = power / jnp.where(norm > 0, norm, 1.0)
        power = power if exponent == 16 else power @ power
    return jnp.where(jnp.linalg.norm(operator) > 0, scale, 0.0)


class Track(NamedTuple):
    """What is remembered of parameters of shape S.

    Attributes:
        memory: memory of the LSTM.
        previous: the parameters at the step before.
        changes: the last W + 1 changes of the parameters, oldest first; zeros for changes before the first step.
    """

    memory: LSTMMemory
    previous: Float[Array, "*S"]
    changes: Float[Array, "W+1 *S"]


class DMDState(NamedTuple):
    """What the optimizer remembers.

    Attributes:
        together: the parameters that are not spread over devices, in the order of the tree's leaves, each leaf raveled;
            its memory is in blocks as in `CoordinatewiseState`.
        apart: like params: the track of each tensor that is spread over devices; None for the others.
        step: number of updates so far.
    """

    together: Track
    apart: Any
    step: Int[Array, ""]


def dmd_lstm(
    hidden: tuple[int, ...] = (20, 20),
    window: int = 6,
    rank: int = 3,
    horizons: tuple[int, ...] = (1, 4, 16),
    output_scale: float = 0.01,
    preprocess: Preprocess = DEFAULT_PREPROCESS,
) -> LearnedOptimizer:
    """The coordinate-wise LSTM of `lstm_optimizer`, with predictions among its inputs.

    The predictions are, for each horizon, the distance that each parameter would travel, divided by its root mean
    square over the tensor; and the growth of the tensor's steps, log |largest eigenvalue| clipped to [-1, 0.1], the
    same for all its parameters. Maps that grow by more than a factor of 1.1 per step are scaled down to that. All
    predictions are 0 before update number window + 2. All sizes are our choice.

    A gradient or parameter that is not finite spoils the features of its whole tensor; `optax.apply_if_finite` skips
    such steps.

    Args:
        hidden: units of each LSTM layer.
        window: pairs of consecutive steps that are fitted, W; memory per parameter is W + 2 floats and twice the units.
        rank: number of directions of the fit, from 1 to W.
        horizons: how many steps ahead to predict, ascending.
        output_scale: factor on the updates.
        preprocess: turns gradients into the network's inputs; see `lstm_optimizer`.

    Returns:
        The optimizer; theta is an `LSTMNetwork`. `num_steps` is ignored; `update` needs `params`.

    Raises:
        ValueError: the rank is not from 1 to W, or the horizons do not ascend from at least 1; by `init`: there is no
            layer, or a layer has no units.
    """
    if not 1 <= rank <= window:
        raise ValueError(f"rank must be from 1 to window={window}, got rank={rank}")
    if not horizons or horizons[0] < 1 or list(horizons) != sorted(set(horizons)):
        raise ValueError(f"horizons must ascend from at least 1, got horizons={horizons}")
    inputs = jax.eval_shape(preprocess, jax.ShapeDtypeStruct((1,), jnp.float32)).shape[0] + len(horizons) + 1

    def init(key: PRNGKeyArray) -> LSTMNetwork:
        return lstm_network(key, inputs, hidden)

    def transform(theta: LSTMNetwork, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def advance(memory: LSTMMemory, x: Float[Array, "F *S"]) -> tuple[LSTMMemory, Float[Array, "*S"]]:
            new, output = lstm_advance(theta, memory, jnp.concatenate([preprocess(x[0]), x[1:]]))
            return rest(is_fresh(memory) & (x[0] == 0), memory, new, output_scale * output)

        def fresh(size: int) -> LSTMMemory:
            return lstm_start(hidden, size)

        def start(params: optax.Params) -> DMDState:
            together = [p for p in jax.tree.leaves(params) if not is_spread(p)]
            now = ravel_leaves(together) if together else jnp.zeros(1, jnp.float32)
            apart = jax.tree.map(
                lambda p: (
                    Track(start_apart(fresh, p), float32(p), repeated_zeros(p, window + 1)) if is_spread(p) else None
                ),
                params,
            )
            return DMDState(
                Track(start_blocks(fresh, now.size), now, repeated_zeros(now, window + 1)), apart, jnp.int32(0)
            )

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
        ) -> tuple[optax.Updates, DMDState]:
            del extra
            tensors, tree = tensors_apart(require_params(params), state.apart), jax.tree.structure(params)
            gradients = jax.tree.leaves(updates)
            if not tensors:
                return updates, state._replace(step=state.step + 1)
            together = [p for p, own in tensors if own is None]
            tracks = [_follow(own, p) for p, own in tensors if own is not None]
            # Those that stay together come first in every list.
            changes, track = [], state.together
            if together:
                track = _follow(track, ravel_leaves(together))
                changes = jax.lax.split(track.changes, [p.size for p in together], axis=1)
            # Update 0 sees no change yet; update W + 1 is the first to see W + 1 changes.
            features = [
                jnp.where(state.step > window, x, 0.0)
                for x in _features([*changes, *(t.changes for t in tracks)], rank, horizons)
            ]
            new = []
            if together:
                mine = [read_gradient(g) for g, (_, own) in zip(gradients, tensors, strict=True) if own is None]
                inputs = jnp.concatenate([ravel_leaves(mine)[None], jnp.concatenate(features[: len(mine)], 1)])
                memory, steps = map_blocks(advance, track.memory, inputs, *block_sizes(inputs.shape[-1]))
                track, new = track._replace(memory=memory), unravel_leaves(steps, mine)
            rests = iter(zip(tracks, features[len(together) :], strict=True))
            ready, results = iter(new), []
            for g, (_, own) in zip(gradients, tensors, strict=True):
                if own is not None:
                    own, x = next(rests)
                    memory, step = advance(own.memory, jnp.concatenate([read_gradient(g)[None], x]))
                    own = own._replace(memory=memory)
                else:
                    step = next(ready)
                results.append((step.astype(g.dtype), own))
            updates, apart = (tree.unflatten([r[i] for r in results]) for i in range(2))
            return updates, DMDState(track, apart, state.step + 1)

        return transformation(theta, start, update)

    return LearnedOptimizer(init, transform)


def _follow(track: Track, p: Float[Array, "*S"]) -> Track:
    """The track with the newest change in it."""
    now = jax.lax.stop_gradient(float32(p))
    return track._replace(previous=now, changes=jnp.concatenate([track.changes[1:], (now - track.previous)[None]]))


def _features(
    tensors: list[Float[Array, "snapshots ..."]], rank: int, horizons: tuple[int, ...]
) -> list[Float[Array, "features ..."]]:
    """The features of all tensors, whose fits are one batch, from the last changes of each."""
    fits = jax.vmap(lambda products: fit(products, rank))(jnp.stack([_scalar_products(x) for x in tensors]))
    bounds = jax.vmap(growth_bound)(fits.operator)
    slowed = jax.vmap(lambda a, rho: a * jnp.minimum(1.0, 1.1 / jnp.maximum(rho, 1e-3)))(fits.operator, bounds)
    combinations = jax.vmap(lambda f: predict_sums(f, horizons))(fits._replace(operator=slowed))
    growths = jnp.clip(jnp.log(jnp.maximum(bounds, 1e-3)), -1.0, 0.1)
    features = []
    for x, weights, growth in zip(tensors, combinations, growths, strict=True):
        far = jnp.tensordot(weights, x[:-1], 1)
        square = jnp.square(far).mean(tuple(range(1, x.ndim)), keepdims=True)
        scale = jnp.where(square > 0, jax.lax.rsqrt(jnp.where(square > 0, square, 1.0)), 0.0)
        features.append(jnp.concatenate([far * scale, jnp.full_like(far[:1], growth)]))
    return features


def _scalar_products(x: Float[Array, "snapshots *S"]) -> Float[Array, "snapshots snapshots"]:
    axes = tuple(range(1, x.ndim))
    if is_spread(x):  # a product over split axes would have to say how its result is split
        return jnp.stack([(x * row[None]).sum(axes) for row in x])
    return jnp.tensordot(x, x, (axes, axes))
