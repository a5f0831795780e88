"""TaylorGLO: a loss that is a third-order polynomial in target and prediction, eight parameters.

Gonzalez, Miikkulainen, "Optimizing Loss Functions Through Multivariate Taylor Polynomial Parameterization" (2021, arXiv
2002.00059). The paper finds the parameters by CMA-ES; here they are meta-trained like those of other losses.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn_models.losses.elementwise import LINKS, Link, Prediction, per_example
from metalearn_models.losses.parametric import SPREAD, LearnableLoss

__all__ = ["SQUARED_ERROR", "taylor_glo"]

SQUARED_ERROR = (0.0, 0.0, 0.0, -2.0, 0.0, 2.0, 0.0, 0.0)
"""The theta of (f - y)^2 - y^2, whose gradient is that of the squared error."""


def taylor_glo(link: Link = "softmax") -> LearnableLoss:
    """The polynomial about (theta0, theta1), of a = y - theta0 and b = f - theta1.

        -(theta2 b + theta3 b^2 / 2 + theta4 b^3 / 6 + theta5 a b + theta6 a b^2 / 2 + theta7 a^2 b / 2)

    These are the six terms up to third order that contain the prediction f; the others have no gradient. The centre
    adds two parameters.

    Args:
        link: turns logits into predictions f. With "identity", for regression, the polynomial is not bounded below for
            most theta, and training with it may diverge.

    Returns:
        A learnable loss. Theta is a vector of 8, which starts at the squared error plus normal noise of deviation 1e-3
        (our choice: CMA-ES starts at a loss that is 0 everywhere). The terms of an example are added up over classes as
        for the other losses; the paper takes their mean.

    Raises:
        ValueError: an unknown link.
    """
    if link not in LINKS:
        raise unknown_name("link", link, LINKS)

    def init(key: PRNGKeyArray) -> Float[Array, "8"]:
        return jnp.array(SQUARED_ERROR, jnp.float32) + SPREAD * jax.random.normal(key, (8,), jnp.float32)

    def apply(theta: Float[Array, "8"], logits: Float[ArrayLike, "... C"], labels: ArrayLike) -> Float[Array, "..."]:
        def terms(y: Array, prediction: Prediction) -> Array:
            t = theta.astype(y.dtype)
            a, b = y - t[0], prediction.f - t[1]
            return -b * (t[2] + b * (t[3] / 2 + t[4] / 6 * b) + a * (t[5] + t[6] / 2 * b + t[7] / 2 * a))

        return per_example(terms, link, logits, labels)

    return LearnableLoss(init, apply)
