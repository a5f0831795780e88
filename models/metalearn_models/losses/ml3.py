"""ML3: the loss of each output is a small neural network of target and prediction.

Bechtle, Molchanov, Chebotar, Grefenstette, Righetti, Sukhatme, Meier, "Meta Learning via Learned Loss" (2021, arXiv
1906.05374), in the form that EvoMAL compares with (2209.08907): 2-50-50-1, ReLU, no biases, and a softplus at the
output, so the loss is never negative.
"""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn_models.losses.elementwise import LINKS, Link, Prediction, per_example
from metalearn_models.losses.parametric import LearnableLoss

__all__ = ["ml3"]

Weights = tuple[Float[Array, "_n _m"], ...]


def ml3(link: Link = "softmax", hidden: tuple[int, ...] = (50, 50)) -> LearnableLoss:
    """A multilayer perceptron of (y, f), the same for every output.

    Args:
        link: turns logits into predictions f; "identity" for regression.
        hidden: widths of the hidden layers.

    Returns:
        A learnable loss. Theta is a tuple of weights [in, out], one per layer, drawn from N(0, 2 / in).

    Raises:
        ValueError: an unknown link, or a width that is not positive.
    """
    if link not in LINKS:
        raise unknown_name("link", link, LINKS)
    widths = (2, *hidden, 1)
    if min(widths) < 1:
        raise ValueError(f"hidden must be widths of at least one unit, got {hidden}")

    def init(key: PRNGKeyArray) -> Weights:
        keys = jax.random.split(key, len(widths) - 1)
        shapes = list(pairwise(widths))
        return tuple(
            (2 / s[0]) ** 0.5 * jax.random.normal(k, s, jnp.float32) for k, s in zip(keys, shapes, strict=True)
        )

    def apply(theta: Weights, logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "..."]:
        def terms(y: Array, prediction: Prediction) -> Array:
            x = jnp.stack([y, prediction.f], -1)
            for weight in theta[:-1]:
                x = jax.nn.relu(x @ weight.astype(x.dtype))
            return jax.nn.softplus(x @ theta[-1].astype(x.dtype))[..., 0]

        return per_example(terms, link, logits, labels)

    return LearnableLoss(init, apply)
