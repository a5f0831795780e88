"""The optimizer that small_fc and STAR share: Adafactor's accumulators, 39 features per parameter, a small network.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860), appendix on `AdafacMLPLOpt`. The update of one tensor is in
`factored_update.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from metalearn_models.optimizers.contract import Layers, float32, require_params, time_features
from metalearn_models.optimizers.frame import read_gradient, transformation
from metalearn_models.optimizers.learned.parts.factored_update import (
    NORMALISED,
    Mixing,
    Rule,
    factored_axes,
    update_matrix,
    update_vector,
)
from metalearn_models.optimizers.learned.parts.placement import repeated_zeros

__all__ = ["SmallFCState", "SmallFCTheta", "with_factored_features"]

MOMENTUM_DECAYS = (0.9, 0.99, 0.999)
SECOND_MOMENT_DECAY = 0.999
FACTORED_DECAYS = (0.9, 0.99, 0.999)
"""Decays per step of a fresh theta."""


class SmallFCTheta(NamedTuple):
    """Meta-parameters, 197 by default.

    Attributes:
        layers: the network.
        momentum: offset z of the decay of each momentum: `1 - decay = (1 - fresh decay) exp(10 z)`.
        second_moment: offset of the decay of the second moment.
        factored: offset of the decay of each factored second moment.
    """

    layers: Layers
    momentum: Float[Array, "3"]
    second_moment: Float[Array, "1"]
    factored: Float[Array, "3"]


class SmallFCState(NamedTuple):
    """What the optimizer remembers: about four times the parameters, and a counter.

    Attributes:
        momenta: like params, with a leading axis for the three decays.
        second_moment: like params.
        rows: per tensor the mean square gradient over its largest axis, with a leading axis for the three decays; for
            a vector or scalar, the square gradient itself.
        columns: the same over the second largest axis; for a vector or scalar, None.
        step: number of updates so far.
    """

    momenta: Any
    second_moment: Any
    rows: Any
    columns: Any
    step: Int[Array, ""]


def with_factored_features(theta: SmallFCTheta, rule: Rule) -> optax.GradientTransformationExtraArgs:
    """The accumulators, features and network of small_fc, around a rule that makes the update from them.

    Args:
        theta: meta-parameters.
        rule: `(outputs, features) -> update` of a tensor or a block of it, all float32 arrays of one shape. `outputs`
            are those of the network. `features` has, by their number and before normalisation, the features that are
            not constant along an axis: numbers 6 to 8 are the momenta over the root of the second moment, number 9 is
            the inverse of that root.

    Returns:
        The transformation; its state is a `SmallFCState`.
    """

    def start(params: optax.Params) -> SmallFCState:
        leaves, tree = jax.tree.flatten(params)
        memories = [_start_tensor(p) for p in leaves]
        momenta, second, rows, columns = (tree.unflatten([m[i] for m in memories]) for i in range(4))
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
            update_tensor = update_vector if factored_axes(p.shape) is None else update_matrix
            step, *memory = update_tensor(layers, mixing, rule, read_gradient(g), float32(p), *memory)
            assert step is not None
            results.append((step.astype(p.dtype), *memory))
        updates, momenta, second, rows, columns = (tree.unflatten([r[i] for r in results]) for i in range(5))
        return updates, SmallFCState(momenta, second, rows, columns, state.step + 1)

    return transformation(theta, start, update)


def _start_tensor(p: Array) -> tuple[Array, Array, Array, Array | None]:
    zeros, second = repeated_zeros(p, 3), jnp.zeros_like(p, jnp.float32)
    axes = factored_axes(p.shape)
    if axes is None:
        return zeros, second, repeated_zeros(p, 3), None
    return zeros, second, zeros.sum(axes[1] + 1), zeros.sum(axes[0] + 1)


def _mixing(theta: SmallFCTheta) -> Mixing:
    def learned(decays: tuple[float, ...], offset: ArrayLike) -> Array:
        return jnp.array([1 - d for d in decays], jnp.float32) * jnp.exp(10 * jnp.asarray(offset))

    return Mixing(
        learned(MOMENTUM_DECAYS, theta.momentum),
        jnp.clip(learned((SECOND_MOMENT_DECAY,), theta.second_moment)[0], 0, 1),
        jnp.clip(learned(FACTORED_DECAYS, theta.factored), 0, 1),
    )
