"""Shapings of losses: what evolution strategies weigh perturbations by, in place of the differences of their losses.

Raw differences, which are the default, estimate the gradient of the smoothed loss. Every other shaping is biased: it
follows a direction that need not be that gradient. It may still lead down faster, since outliers and the scale of the
losses no longer decide the step. In windows of long trajectories, losses at different steps are compared with each
other.

Centred ranks: Salimans, Ho, Chen, Sidor & Sutskever 2017, "Evolution Strategies as a Scalable Alternative to
Reinforcement Learning", arXiv 1703.03864, after Wierstra et al. 2014, "Natural Evolution Strategies". That equal losses
share the mean of their ranks is our choice.

Shapes: n pairs on this device, N particles on all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from metalearn.gradients.estimator import gather_trajectories

__all__ = ["PopulationShaping", "Shaping", "centred_ranks", "shape_differences", "z_scores"]


class PopulationShaping(NamedTuple):
    """A shaping of the losses of the whole population, which may lie on several devices.

    Attributes:
        name: what signatures and messages call it.
        values: `(losses[N], finite[N]) -> [N]`. It must not depend on the order of the particles. Those that are not
            finite have the loss infinity, and what it returns for them is not used.
    """

    name: str
    values: Callable[[Float[Array, "N"], Bool[Array, "N"]], Float[Array, "N"]]

    def __repr__(self) -> str:
        return self.name


Shaping = Callable[[Float[Array, "n"]], Float[Array, "n"]] | PopulationShaping
"""An elementwise function of half the difference of the losses of each pair, or a shaping of the population."""


def _centred_ranks(losses: Float[Array, "N"], finite: Bool[Array, "N"]) -> Float[Array, "N"]:
    in_order = jnp.sort(losses)  # those that are not finite come last
    less, at_most = (jnp.searchsorted(in_order, losses, side=side) for side in ("left", "right"))
    ranks = (less + at_most - 1).astype(losses.dtype) / 2
    return ranks / jnp.maximum(finite.sum() - 1, 1).astype(losses.dtype) - 0.5


def _z_scores(losses: Float[Array, "N"], finite: Bool[Array, "N"]) -> Float[Array, "N"]:
    count = jnp.maximum(finite.sum(), 1).astype(losses.dtype)
    away = jnp.where(finite, losses, 0)
    away = jnp.where(finite, away - away.sum() / count, 0)
    deviation = jnp.sqrt(jnp.square(away).sum() / count)
    return away / jnp.where(deviation > 0, deviation, 1)


centred_ranks = PopulationShaping("centred_ranks", _centred_ranks)
"""The rank of each loss among those of all particles, moved and scaled to [-1/2, 1/2]; biased.

An increasing function of the losses does not change it. Equal losses share the mean of their ranks.
"""

z_scores = PopulationShaping("z_scores", _z_scores)
"""Each loss less the mean, in standard deviations, of the losses of all particles; biased.

Adding a constant to the losses or multiplying them by a positive one does not change it.
"""


def shape_differences(
    shaping: Shaping | None, losses: Float[Array, "n 2"], finite: Bool[Array, "n"]
) -> Float[Array, "n"]:
    """Half the difference of the losses of each pair, shaped.

    Args:
        shaping: None, elementwise, or of the population. The last gathers the losses of all devices, two per pair.
        losses: of the particle at +eps and that at -eps.
        finite: whether both losses of a pair are.
    """
    if not isinstance(shaping, PopulationShaping):
        halves = (losses[:, 0] - losses[:, 1]) / 2
        return halves if shaping is None else shaping(halves)
    everyone, first = gather_trajectories(jnp.where(finite[:, None], losses, jnp.inf))
    flat = rearrange(everyone, "n signs -> (n signs)")
    values = rearrange(shaping.values(flat, jnp.isfinite(flat)), "(n signs) -> n signs", signs=2)
    own = jax.lax.dynamic_slice_in_dim(values, first, len(losses))
    return (own[:, 0] - own[:, 1]) / 2
