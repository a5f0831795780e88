"""small_fc, the small fully connected learned optimizer with Adafactor features.

Metz, Freeman, Harrison, Maheswaranathan and Sohl-Dickstein 2022, "Practical tradeoffs between memory, compute, and
performance in learned optimizers" (arXiv 2203.11860). Features, constants, their order and the initialisation are
those of the authors' published code (`AdafacMLPLOpt`). Accumulators start at 0 and are not bias-corrected.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn_models.optimizers.contract import TIMESCALES, LearnedOptimizer, NumSteps, dense_layers
from metalearn_models.optimizers.learned.parts.factored import SmallFCTheta, with_factored_features
from metalearn_models.optimizers.learned.parts.factored_update import NORMALISED, Features

__all__ = ["SmallFCTheta", "small_fc"]


def small_fc(hidden: tuple[int, ...] = (4, 4), step_size: float = 1e-3, exponent: float = 1e-3) -> LearnedOptimizer:
    """The learned optimizer small_fc.

    The update of every parameter is `-step_size d exp(exponent m)`, where d and m are the outputs of the network.

    A gradient that is not finite makes the update and the memory of its tensor not finite, as in Adam; see
    `optax.apply_if_finite`.

    Args:
        hidden: widths of the network's hidden layers.
        step_size: factor on the updates; lambda_1 of the paper.
        exponent: factor on the output m inside the exponential; lambda_2 of the paper.

    Returns:
        The optimizer; theta is a `SmallFCTheta`. `num_steps` is ignored.

    Raises:
        ValueError: by `init`: a width is less than 1.
    """

    def init(key: PRNGKeyArray) -> SmallFCTheta:
        layers = dense_layers(key, (NORMALISED + len(TIMESCALES), *hidden, 2))
        return SmallFCTheta(layers, *(jnp.zeros(decays, jnp.float32) for decays in (3, 1, 3)))

    def transform(theta: SmallFCTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def rule(outputs: list[Array], features: Features) -> Array:
            del features
            direction, magnitude = outputs
            return -step_size * direction * jnp.exp(exponent * magnitude)

        return with_factored_features(theta, rule)

    return LearnedOptimizer(init, transform)
