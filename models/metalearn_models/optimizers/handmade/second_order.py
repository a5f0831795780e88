"""Optimizers of this package that read curvature, as functions of their constants alone.

Each constant may be a traced scalar, except whole numbers. The defaults are our choice, for networks with inputs of
about unit size and batches of about 100; papers and authors' defaults are in the files of the optimizers.
"""

from __future__ import annotations

import optax

from metalearn_models.optimizers import curvature
from metalearn_models.optimizers.curvature.mfac import scale_by_mfac
from metalearn_models.optimizers.handmade.first_order import Scalar

__all__ = ["foof", "kfac", "kfac_standard", "m_fac", "mac", "natural_gradient"]


def foof(
    learning_rate: Scalar = 0.1, damping: Scalar = 1e-2, momentum: Scalar = 0.0, decay: Scalar = 0.95, period: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent on neurons; parameters that are no kernels take a gradient step of the same rate.

    Args:
        learning_rate: factor on the preconditioned gradient.
        damping: added to the second moment of a layer's inputs.
        momentum: decay of the sum of gradients before they are preconditioned.
        decay: decay of the second moments of the inputs.
        period: updates per inverse.
    """
    return curvature.foof(learning_rate, damping, _none_if_zero(momentum), decay=decay, period=period)


def kfac(
    learning_rate: Scalar = 1e-2, damping: Scalar = 1e-4, momentum: Scalar = 0.0, decay: Scalar = 0.95, period: int = 1
) -> optax.GradientTransformationExtraArgs:
    """KFAC with heuristic damping: each factor of the Fisher matrix has its own part of it.

    Args:
        learning_rate: factor on the preconditioned gradient.
        damping: product of what is added to the two factors.
        momentum: decay of the sum of gradients before they are preconditioned.
        decay: decay of the factors.
        period: updates per inverse.
    """
    return curvature.kfac(learning_rate, damping, _none_if_zero(momentum), decay=decay, period=period)


def kfac_standard(
    learning_rate: Scalar = 0.1, damping: Scalar = 0.1, momentum: Scalar = 0.0, decay: Scalar = 0.95, period: int = 1
) -> optax.GradientTransformationExtraArgs:
    """KFAC with standard damping, which is added to the product of the two factors.

    Args:
        learning_rate: factor on the preconditioned gradient.
        damping: added to the Fisher matrix of each layer.
        momentum: decay of the sum of gradients before they are preconditioned.
        decay: decay of the factors.
        period: updates per eigendecomposition.
    """
    return curvature.kfac_standard(learning_rate, damping, _none_if_zero(momentum), decay=decay, period=period)


def natural_gradient(
    learning_rate: Scalar = 0.1, damping: Scalar = 1.0, momentum: Scalar = 0.0
) -> optax.GradientTransformationExtraArgs:
    """The gradient times the inverse Fisher matrix of the batch.

    Args:
        learning_rate: factor on the preconditioned gradient.
        damping: added to the Fisher matrix.
        momentum: decay of the sum of gradients before they are preconditioned.
    """
    return curvature.natural_gradient(learning_rate, damping, _none_if_zero(momentum))


def mac(
    learning_rate: Scalar = 0.1, damping: Scalar = 1.0, momentum: Scalar = 0.9, decay: Scalar = 0.95, period: int = 1
) -> optax.GradientTransformationExtraArgs:
    """FOOF with the mean input of each layer alone, for which no inverse is made.

    Args:
        learning_rate: factor on the preconditioned gradient.
        damping: added to the square of the mean input.
        momentum: decay of the sum of preconditioned gradients.
        decay: decay of the mean input.
        period: updates per mean.
    """
    return curvature.mac(learning_rate, damping, _none_if_zero(momentum), decay=decay, period=period)


def m_fac(
    learning_rate: Scalar = 0.1, damping: Scalar = 0.1, momentum: Scalar = 0.0, window: int = 32
) -> optax.GradientTransformationExtraArgs:
    """Gradients times the inverse Fisher matrix of the last gradients.

    Args:
        learning_rate: factor on the preconditioned gradient.
        damping: added to the Fisher matrix.
        momentum: decay of the mean of preconditioned gradients.
        window: number of gradients in the Fisher matrix; each takes the memory of the parameters.
    """
    precondition = scale_by_mfac(window, damping, _none_if_zero(momentum))
    return optax.chain(precondition, optax.scale_by_learning_rate(learning_rate))


def _none_if_zero(momentum: Scalar) -> Scalar | None:
    """None without momentum, which then has no memory; a traced momentum may become any."""
    return None if isinstance(momentum, int | float) and momentum == 0 else momentum
