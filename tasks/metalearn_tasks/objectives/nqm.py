"""The noisy quadratic model: random quadratics whose minimum moves at random at every step.

The model on which Harrison, Metz and Sohl-Dickstein 2022, "A closer look at learned optimization: stability,
robustness, and inductive biases" (arXiv 2209.11208), study when a learned optimizer is stable; `nqm_theory` has their
results. The distribution over Hessians and noise is our choice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_tasks.objectives.objective import Objective

__all__ = ["NoisyQuadratic", "noisy_quadratic", "noisy_quadratic_loss"]


class NoisyQuadratic(NamedTuple):
    """The loss 1/2 (phi - xi)' H (phi - xi), with xi normal about 0 of covariance Sigma = factor factor'.

    Attributes:
        hessian: H, symmetric and positive definite.
        factor: any square root of Sigma.
    """

    hessian: Float[Array, "D D"]
    factor: Float[Array, "D K"]


def noisy_quadratic(dimension: int = 10, condition: float = 100.0, noise: float = 0.1, scale: float = 1.0) -> Objective:
    """Minimise a random quadratic by noisy gradients.

    The Hessian of a problem has uniformly random eigenvectors, and eigenvalues log-uniform between 1 / condition and 1.
    The noise covariance is noise^2 W W' / D, where W has independent standard normal entries. A batch is one xi.

    Args:
        dimension: D, the number of parameters.
        condition: the largest condition number of a Hessian, at least 1.
        noise: root mean square of a coordinate of xi, over all problems.
        scale: standard deviation of each initial parameter, normal about 0.

    Returns:
        An objective over `()`. Its problems are `NoisyQuadratic`, its parameters phi[D], its batches xi[D].

    Raises:
        ValueError: a dimension or a condition below 1, or negative noise.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    if not condition >= 1:
        raise ValueError(f"condition must be at least 1, got {condition}")
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")

    def draw(key: PRNGKeyArray) -> NoisyQuadratic:
        rotation_key, spectrum_key, noise_key = jax.random.split(key, 3)
        vectors = jax.random.orthogonal(rotation_key, dimension)
        values = jnp.exp(-math.log(condition) * jax.random.uniform(spectrum_key, (dimension,)))
        hessian = vectors * values[None, :] @ vectors.T
        factor = noise / dimension**0.5 * jax.random.normal(noise_key, (dimension, dimension))
        return NoisyQuadratic((hessian + hessian.T) / 2, factor)

    def init(problem: NoisyQuadratic, key: PRNGKeyArray) -> Float[Array, "D"]:
        del problem
        return scale * jax.random.normal(key, (dimension,))

    def sample(problem: NoisyQuadratic, data: Any, key: PRNGKeyArray) -> Float[Array, "D"]:
        del data
        return problem.factor @ jax.random.normal(key, (dimension,))

    return Objective(draw, init, noisy_quadratic_loss, sample)


def noisy_quadratic_loss(problem: NoisyQuadratic, params: Float[Array, "D"], xi: Float[Array, "D"]) -> Float[Array, ""]:
    """Compute 1/2 (phi - xi)' H (phi - xi)."""
    rest = params - xi
    return 0.5 * rest @ problem.hessian @ rest
