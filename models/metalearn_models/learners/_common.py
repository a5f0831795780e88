"""Small pieces that learners share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models._settings import check_settings as check_settings


def no_theta(key: PRNGKeyArray) -> tuple[()]:
    """The `init` of a learner in which nothing is meta-learned."""
    del key
    return ()


def dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """`a @ b` in full float32, in which accelerators do not multiply by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
