"""Directions of matrices made orthogonal by the steps of Muon (Jordan et al. 2024), and Adam with such directions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

__all__ = ["normalise", "orthogonal_adam", "orthogonalise"]

SMALLEST = 1e-12
"""Added to a root mean square before it divides. Where all entries are that small, nothing is known."""

EPSILON = 1e-20
"""Added to Adam's root: a direction of length 1 needs none, and a larger one would see the unit of the loss.

With 1e-30 a compiled loop makes NaN of a scalar without gradient."""


def orthogonalise(x: Float[Array, "M N"]) -> Float[Array, "M N"]:
    """A matrix with the singular vectors of `x` and nearly equal singular values, of root mean square 1.

    Five steps of a polynomial of degree 5 on the smaller side, with Muon's coefficients, which bring singular values
    between .01 and 1 to between .7 and 1.2. Without any entry but 0, the matrix stays 0. A matrix that is split over
    the explicit axes of a mesh is gathered, and the result lies where it lay.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    place = jax.typeof(x).sharding.spec
    is_split = any(axis is not None for axis in place)
    if is_split:
        x = jax.sharding.reshard(x, P(None, None))
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide /= jnp.sqrt(jnp.square(wide).sum()) + SMALLEST
    for _ in range(5):
        square = wide @ wide.T
        wide = a * wide + (b * square + c * square @ square) @ wide
    result = normalise(wide if x.shape[0] <= x.shape[1] else wide.T)
    return jax.sharding.reshard(result, place) if is_split else result


def normalise(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """The same direction at root mean square 1; 0 stays 0."""
    return x / (jnp.sqrt(jnp.square(x).mean()) + SMALLEST)


def orthogonal_adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3, beta1: Any = 0.9, beta2: Any = 0.95
) -> optax.GradientTransformationExtraArgs:
    """Adam whose direction has root mean square 1 per tensor, and nearly equal singular values per matrix.

    It is Muon with Adam's direction in place of the momentum, and one length of a step for all tensors. Tensors that
    are no matrices have Adam's direction at that length. The unit of the loss does not matter. A schedule that falls to
    0 belongs to it, such as `optax.cosine_decay_schedule`: steps get no shorter by themselves. A tensor whose gradients
    become 0 goes on at the full length, in the old direction, for some hundreds of steps: mask it if it is to stay.

    Args:
        learning_rate: root mean square of the update of every tensor, or a schedule of optax.
        beta1: decay of the momentum.
        beta2: decay of the mean square; .95 as in Celo2, our choice.

    Returns:
        An optax transformation. Its state is that of `optax.adam`.
    """

    def length_one(x: Array) -> Array:
        wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
        return (orthogonalise(wide) if x.ndim == 2 else normalise(wide)).astype(x.dtype)

    direction = optax.stateless(lambda updates, _: jax.tree.map(length_one, updates))
    adam = optax.scale_by_adam(beta1, beta2, eps=EPSILON)
    return optax.with_extra_args_support(optax.chain(adam, direction, optax.scale_by_learning_rate(learning_rate)))
