"""Optimizers of this package that read curvature, as functions of their constants alone.

Each constant may be a traced scalar, except whole numbers. The defaults are our choice, for networks with inputs of
about unit size and batches of about 100; papers and authors' defaults are in the files of the optimizers.
"""

from __future__ import annotations

import optax

from metalearn_models.optimizers.curvature import foof as foof_
from metalearn_models.optimizers.curvature.mfac import scale_by_mfac
from metalearn_models.optimizers.handmade.first_order import Scalar

__all__ = ["foof", "m_fac"]


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
    return foof_(learning_rate, damping, _none_if_zero(momentum), decay=decay, period=period)


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
