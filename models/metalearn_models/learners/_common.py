"""Small pieces that learners share."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from metalearn.learner import Signature
from metalearn_models._settings import check_settings as check_settings


def no_theta(key: PRNGKeyArray) -> tuple[()]:
    """The `init` of a learner in which nothing is meta-learned."""
    del key
    return ()


def competing_outputs(signature: Signature, classes: int | None) -> Bool[Array, "C"] | None:
    """Which outputs of a learner are classes of the data, the first ones, for `select_classes`; None: all.

    Raises:
        ValueError: there are not so many outputs, or no class.
    """
    outputs = signature.outputs
    if classes is not None and not 1 <= classes <= outputs:
        raise ValueError(f"classes must be between 1 and the learner's {outputs} outputs, got {classes}")
    return None if classes is None or classes == outputs else jnp.arange(outputs) < classes


def dot(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """`a @ b` in full float32, in which accelerators do not multiply by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
