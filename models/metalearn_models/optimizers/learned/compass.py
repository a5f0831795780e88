"""Compass, a learned update rule that gives the direction of a step and leaves its length to the user.

In the manner of Celo2 (Moudgil, Knyazev and Belilovsky 2026, arXiv 2602.19142): fewer than 200 weights, three momenta,
second moments with and without factors, an update of root mean square 1 per tensor and step, the learning rate and its
schedule left to the user. What differs is our choice:

- Features are ratios that are of size 1 by themselves, so that no pass over the tensor is needed to normalise them, and
  a momentum that is small beside its second moment, as noise makes it, stays small.
- Nothing has a bias, and the hidden units are odd functions. So the rule is odd: a parameter that is counted downwards
  moves as if it were counted upwards. And it does not see the unit of the loss: a loss times 1,000 gives the same step.
- A fresh rule is Adam's direction, with the decays .9 and .95.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from metalearn_models.optimizers.contract import LearnedOptimizer, NumSteps
from metalearn_models.optimizers.frame import read_gradient, transformation
from metalearn_models.optimizers.learned.parts.factored_update import factored_axes
from metalearn_models.optimizers.learned.parts.fused import products
from metalearn_models.optimizers.orthogonal import normalise
from metalearn_models.optimizers.orthogonal import orthogonalise as orthogonalise_matrix

__all__ = ["FEATURES", "CompassState", "CompassTheta", "compass", "raw_compass", "scale_by_compass"]

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.95
"""Decays per step, those of Celo2; not learned."""

FEATURES = 13
"""Number of features of a parameter: gradient and momenta by three measures, and two of them that agree with it."""

LARGEST_FEATURE = 4.0
"""A slow momentum may be much larger than a second moment that has forgotten; our choice."""

RELATIVE, TINY = 1e-8, 1e-30
"""The first, times the mean of a tensor, is added to second moments, so that entries that had no gradient for long have
an inverse; the second, so that a tensor without any has one."""


class CompassTheta(NamedTuple):
    """Meta-parameters, 125 by default.

    Attributes:
        direct: weights from the features to the direction.
        hidden: weights `[13, H]` from the features to the hidden units.
        output: weights from the hidden units to the direction.
    """

    direct: Float[Array, "13"]
    hidden: Float[Array, "13 H"]
    output: Float[Array, "H"]


class CompassState(NamedTuple):
    """What the optimizer remembers: four times the parameters, and a counter. Nothing is bias-corrected.

    Each attribute but `step` is like params: `nnx.Optimizer` keeps no other structure below the parameters.

    Attributes:
        momenta: one per decay.
        second_moment: mean square gradient of each entry. Adafactor's factors are its means over the two largest axes:
            all squares are forgotten alike, so that these means need no memory of their own.
        step: number of updates so far.
    """

    momenta: tuple[Any, Any, Any]
    second_moment: Any
    step: Int[Array, ""]


def compass(
    units: int = 8, learning_rate: optax.ScalarOrSchedule = 1e-3, orthogonalise: bool = False
) -> LearnedOptimizer:
    """The learned optimizer compass with a learning rate that falls along a cosine, from `learning_rate` to 0.

    Without `num_steps` the learning rate stays. A schedule of optax, in place of a number, is taken as it is.

    Args:
        units: H, hidden units of the rule.
        learning_rate: root mean square of the first update of every tensor; in Python also a schedule of optax.
        orthogonalise: make directions of matrices nearly orthogonal, as Muon does; see `scale_by_compass`.

    Returns:
        The optimizer; theta is a `CompassTheta`. From step `num_steps` on, parameters stay where they are, unless a
        schedule was given.

    Raises:
        ValueError: by `init`: less than one unit.
    """

    def init(key: PRNGKeyArray) -> CompassTheta:
        if units < 1:
            raise ValueError(f"units must be at least 1, got {units}")
        hidden = jax.random.normal(key, (FEATURES, units), jnp.float32) / FEATURES**0.5
        adam = jnp.zeros(FEATURES, jnp.float32).at[5].set(1.0)
        return CompassTheta(adam, hidden, jnp.zeros(units, jnp.float32))

    def transform(theta: CompassTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        inner = scale_by_compass(theta, orthogonalise)

        def update(
            updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
        ) -> tuple[optax.Updates, Any]:
            rate = jnp.asarray(learning_rate(state.step) if callable(learning_rate) else learning_rate, jnp.float32)
            if num_steps is not None and not callable(learning_rate):
                done = jnp.minimum(state.step.astype(jnp.float32) / jnp.asarray(num_steps, jnp.float32), 1)
                rate *= 0.5 + 0.5 * jnp.cos(jnp.pi * done)
            updates, state = inner.update(updates, state, params, **extra)
            return jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates), state

        return optax.GradientTransformationExtraArgs(inner.init, update)

    return LearnedOptimizer(init, transform)


def scale_by_compass(theta: CompassTheta, orthogonalise: bool = False) -> optax.GradientTransformationExtraArgs:
    """Replace gradients by directions of root mean square 1 per tensor.

    Chain it with `optax.scale_by_learning_rate`, after decay of the weights if any. A parameter whose gradients have
    all been 0 holds still; one whose gradients become 0 goes on for thousands of steps, as momenta outlast second
    moments. A gradient that is not finite makes the later updates of its tensor not finite, as in Adam;
    see `optax.apply_if_finite`.

    Args:
        theta: meta-parameters.
        orthogonalise: make the direction of each matrix nearly orthogonal, as Muon does with its momentum: all singular
            values become nearly equal. Tensors of other ranks keep their directions.

    Returns:
        The transformation; its state is a `CompassState`, and `update` does not need the parameters.
    """
    return _transform_directions(theta, _orthogonal_if_matrix if orthogonalise else normalise)


def raw_compass(theta: CompassTheta) -> optax.GradientTransformationExtraArgs:
    """What the network of the rule gives, before it gets a length: for ablations.

    A fresh rule is `optax.scale_by_adam(0.9, 0.95)`. A trained one can make steps of any length.

    Args:
        theta: meta-parameters.

    Returns:
        The transformation; its state is that of `scale_by_compass`.
    """
    return _transform_directions(theta, lambda direction: direction)


def _orthogonal_if_matrix(direction: Float[Array, "*S"]) -> Float[Array, "*S"]:
    direction = normalise(direction)
    return orthogonalise_matrix(direction) if direction.ndim == 2 else direction


def _transform_directions(
    theta: CompassTheta, shape: Callable[[Array], Array]
) -> optax.GradientTransformationExtraArgs:
    def start(params: optax.Params) -> CompassState:
        fast, middle, slow, second = (optax.tree.zeros_like(params, dtype=jnp.float32) for _ in range(4))
        return CompassState((fast, middle, slow), second, jnp.int32(0))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, CompassState]:
        del params, extra
        leaves, tree = jax.tree.flatten(updates)
        count = (state.step + 1).astype(jnp.float32)
        results = []
        for g, *memory in zip(leaves, *map(tree.flatten_up_to, (*state.momenta, state.second_moment)), strict=True):
            direction, *memory = _update_tensor(theta, g, memory, count)
            results.append((shape(direction).astype(g.dtype), *memory))
        updates, fast, middle, slow, second = (tree.unflatten([r[i] for r in results]) for i in range(5))
        return updates, CompassState((fast, middle, slow), second, state.step + 1)

    return transformation(theta, start, update)


def _update_tensor(
    theta: CompassTheta, g: Float[Array, "*S"], memory: list[Array], count: Array
) -> tuple[Float[Array, "*S"], Float[Array, "*S"], Float[Array, "*S"], Float[Array, "*S"], Float[Array, "*S"]]:
    """Direction, of any length, and new momenta and second moment of one tensor.

    All is elementwise, so that the direction is one loop over the tensor. A parameter whose gradients have all been 0
    holds still by itself: its features are 0, and nothing has a bias.
    """
    *momenta, second = memory
    g = jnp.asarray(g, jnp.promote_types(g.dtype, jnp.float32))
    # Each mean reads the gradient by itself: read once for all of them, it would be written to memory and loaded again.
    fast, middle, slow = (d * m + read_gradient((1 - d) * g) for d, m in zip(MOMENTUM_DECAYS, momenta, strict=True))
    square = jnp.square(read_gradient(g))
    second = SECOND_MOMENT_DECAY * second + (1 - SECOND_MOMENT_DECAY) * square
    *unbias, scale = (-1 / jnp.expm1(count * math.log(d)) for d in (*MOMENTUM_DECAYS, SECOND_MOMENT_DECAY))
    by_factors, mean = _inverse_roots(second, scale)
    momenta = [m * u for m, u in zip((fast, middle, slow), unbias, strict=True)]
    features = _features(jnp.asarray(g, jnp.float32), momenta, second * scale, mean, by_factors)
    units = [jnp.clip(u, -1, 1) for u in products(features, theta.hidden)]
    weights = jnp.concatenate([theta.direct, theta.output])[:, None]
    direction = products([*features, *units], weights)[0]
    return direction, fast, middle, slow, second


def _inverse_roots(second: Array, scale: Array) -> tuple[Array, Array]:
    """The inverse root of Adafactor's estimate of each second moment, and the mean second moment.

    A vector has one estimate, the mean, for all of its entries.
    """
    axes = factored_axes(second.shape)
    if axes is None:
        mean = second.mean() * scale
        return jax.lax.rsqrt(mean + TINY), mean
    rows, columns = second.mean(axes[0]), second.mean(axes[1])
    mean = rows.mean() * scale
    by_row = jax.lax.rsqrt(rows * scale / (mean + TINY) + RELATIVE)
    by_column = jax.lax.rsqrt(columns * scale + (RELATIVE * mean + TINY))
    return jnp.expand_dims(by_row, axes[0]) * jnp.expand_dims(by_column, axes[1]), mean


def _features(g: Array, ms: list[Array], second: Array, mean: Array, by_factors: Array) -> list[Array]:
    """Gradient and momenta over three measures of their size, and two momenta where the gradient agrees with them."""
    together, each = jax.lax.rsqrt(mean + TINY), jax.lax.rsqrt(second + (RELATIVE * mean + TINY))
    plain = [g * together, *(m * together for m in ms), g * each, *(m * each for m in ms)]
    plain += [m * by_factors for m in ms]
    features = [jnp.clip(f, -LARGEST_FEATURE, LARGEST_FEATURE) for f in plain]
    return features + [jnp.where(g * m > 0, f, 0.0) for m, f in zip(ms[:2], features[5:7], strict=True)]
