"""Optimizers that precondition by matrices of single axes or blocks, as functions of their constants alone.

SOAP: Vyas et al. 2024 (arXiv 2409.11321), in `curvature/soap.py`, with the defaults of the paper. Mini-block Fisher:
Bahamou, Goldfarb and Ren 2023 (arXiv 2202.04124), in `curvature/mini_block.py`; its defaults are our choice.
"""

from __future__ import annotations

import optax

from metalearn_models.optimizers.curvature import mini_block_fisher as mini_block_fisher_
from metalearn_models.optimizers.curvature import soap as soap_
from metalearn_models.optimizers.handmade.first_order import Scalar

__all__ = ["mini_block_fisher", "soap"]


def soap(
    learning_rate: Scalar = 3e-3,
    beta1: Scalar = 0.95,
    beta2: Scalar = 0.95,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 0.01,
    period: int = 10,
) -> optax.GradientTransformation:
    """Adam in the eigenbasis of Shampoo's preconditioner.

    Args:
        learning_rate: size of a step where gradients are steady.
        beta1: decay of the momentum.
        beta2: decay of the mean square and of the preconditioner.
        epsilon: added to the root.
        weight_decay: each step shrinks parameters by this times the learning rate.
        period: updates per renewal of the eigenbasis.
    """
    return soap_(learning_rate, beta1, beta2, epsilon, weight_decay, period)


def mini_block_fisher(
    learning_rate: Scalar = 1e-2, damping: Scalar = 1e-2, momentum: Scalar = 0.9, decay: Scalar = 0.9, period: int = 1
) -> optax.GradientTransformationExtraArgs:
    """Gradients times the inverse Fisher matrix of each neuron's weights, or of each kernel between two channels.

    Args:
        learning_rate: factor on the preconditioned gradient; the gradient of parameters that are no kernels has it too.
        damping: added to the matrix of each block.
        momentum: decay of the sum of gradients before they are preconditioned.
        decay: decay of the blocks.
        period: updates per inverse.
    """
    return mini_block_fisher_(learning_rate, damping, momentum, decay=decay, period=period)
