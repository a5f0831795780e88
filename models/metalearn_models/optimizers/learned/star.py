"""STAR, a stable learned optimizer: a nominal term that decreases the loss, and a preconditioned black-box term.

Harrison, Metz and Sohl-Dickstein 2022, "A closer look at learned optimization: stability, robustness, and inductive
biases" (arXiv 2209.11208), on the features and the network of small_fc. The constants are those of the authors'
published code (`MLPNomLOpt`). The paper's third ingredient, weight decay on theta, belongs to meta-training: use
`optax.adamw(..., weight_decay=...)` as the outer optimizer; the paper tried 0.1, 0.5 and 1.

With the features' momenta m_i, second moment v and the network's outputs d, m_b and m_g, the update is `-(f_g + f_b)`:

    f_g = nominal_step_size exp(exponent m_g) mean_i(m_i / sqrt(v + 1e-6))     (the mean: "AdamAggMo")
    f_b = step_size d exp(exponent m_b) / sqrt(v + 1e-6)

Accumulators start at 0 and are not bias-corrected, so that the first nominal step is about 1.17 nominal_step_size per
parameter. Where gradients are far below 1e-3, the root is about 1e-3 and f_b reaches 1000 step_size d.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from metalearn_models.optimizers.contract import TIMESCALES, LearnedOptimizer, NumSteps, dense_layers
from metalearn_models.optimizers.learned.parts.factored import SmallFCTheta, with_factored_features
from metalearn_models.optimizers.learned.parts.factored_update import NORMALISED, Features

__all__ = ["star"]

OUTPUTS = 3
"""d, m_b, m_g. The published code has a fourth, for weight decay on the inner parameters, which STAR does not use."""


def star(
    hidden: tuple[int, ...] = (4, 4),
    step_size: float = 1e-3,
    nominal_step_size: float = 1e-3,
    exponent: float = 1e-3,
) -> LearnedOptimizer:
    """The learned optimizer STAR.

    `init` sets the last layer to 0: a fresh STAR is exactly AdamAggMo with the nominal step size. This is our choice;
    the published code draws the last layer like the others.

    A gradient that is not finite makes the update and the memory of its tensor not finite, as in Adam; see
    `optax.apply_if_finite`.

    Args:
        hidden: widths of the network's hidden layers; the default makes 202 meta-parameters.
        step_size: factor on the black-box term; beta_3 of the paper.
        nominal_step_size: factor on the nominal term; beta_1 of the paper.
        exponent: factor on the magnitudes inside the exponentials; beta_2 and beta_4 of the paper.

    Returns:
        The optimizer; theta is a `SmallFCTheta` whose network has three outputs. `num_steps` is ignored.

    Raises:
        ValueError: by `init`: a width is less than 1.
    """

    def init(key: PRNGKeyArray) -> SmallFCTheta:
        *first, last = dense_layers(key, (NORMALISED + len(TIMESCALES), *hidden, OUTPUTS))
        layers = (*first, jax.tree.map(jnp.zeros_like, last))
        return SmallFCTheta(layers, *(jnp.zeros(decays, jnp.float32) for decays in (3, 1, 3)))

    def transform(theta: SmallFCTheta, num_steps: NumSteps | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps

        def rule(outputs: list[Array], features: Features) -> Array:
            direction, magnitude, nominal_magnitude = outputs
            average = (features[6] + features[7] + features[8]) / 3
            nominal = nominal_step_size * jnp.exp(exponent * nominal_magnitude) * average
            return -nominal - step_size * direction * jnp.exp(exponent * magnitude) * features[9]

        return with_factored_features(theta, rule)

    return LearnedOptimizer(init, transform)
