"""Optimizers of optax as functions of their constants alone, with the names that this package has for them.

Each constant may be a traced scalar. A decay is the factor of a moving average per step, from 0 to below 1. Momentum:
Polyak 1964. Nesterov 1983 in the form of Sutskever et al. 2013. RMSProp: Tieleman and Hinton 2012. Adam: Kingma and
Ba 2015 (arXiv 1412.6980). AdamW: Loshchilov and Hutter 2019 (arXiv 1711.05101). NAdam: Dozat 2016. Lion: Chen et al.
2023 (arXiv 2302.06675). LARS: You, Gitman and Ginsburg 2017 (arXiv 1708.03888). LAMB: You et al. 2020 (arXiv
1904.00962). Schedule-free AdamW: Defazio et al. 2024 (arXiv 2405.15682). Muon: Jordan et al. 2024. Defaults are those
of optax, and our choice where optax has none.
"""

from __future__ import annotations

from typing import Any

import optax
from jaxtyping import Array, Float

__all__ = [
    "Scalar",
    "adam",
    "adamw",
    "lamb",
    "lars",
    "lion",
    "momentum",
    "muon",
    "nadamw",
    "nesterov",
    "rmsprop",
    "schedule_free_adamw",
    "sgd",
]

Scalar = float | Float[Array, ""]
"""A constant of an optimizer: a number, or a traced scalar."""


def sgd(learning_rate: Scalar = 1e-2) -> optax.GradientTransformation:
    """Gradient descent.

    Args:
        learning_rate: factor on the gradient.
    """
    return optax.sgd(learning_rate)


def momentum(learning_rate: Scalar = 1e-2, momentum: Scalar = 0.9) -> optax.GradientTransformation:
    """The heavy ball: steps along a decaying sum of gradients.

    Args:
        learning_rate: factor on the sum.
        momentum: decay of the sum.
    """
    return optax.sgd(learning_rate, momentum)


def nesterov(learning_rate: Scalar = 1e-2, momentum: Scalar = 0.9) -> optax.GradientTransformation:
    """Nesterov's momentum: the gradient counts once more than in the heavy ball.

    Args:
        learning_rate: factor on the sum.
        momentum: decay of the sum.
    """
    return optax.sgd(learning_rate, momentum, nesterov=True)


def rmsprop(learning_rate: Scalar = 1e-3, decay: Scalar = 0.9, epsilon: Scalar = 1e-8) -> optax.GradientTransformation:
    """Gradients over the root of their mean square.

    Args:
        learning_rate: size of a step where gradients are steady.
        decay: decay of the mean square.
        epsilon: added to the mean square.
    """
    return optax.rmsprop(learning_rate, decay, epsilon)


def adam(
    learning_rate: Scalar = 1e-3, beta1: Scalar = 0.9, beta2: Scalar = 0.999, epsilon: Scalar = 1e-8
) -> optax.GradientTransformation:
    """Momentum over the root of the mean square.

    Args:
        learning_rate: size of a step where gradients are steady.
        beta1: decay of the momentum.
        beta2: decay of the mean square.
        epsilon: added to the root.
    """
    return optax.adam(learning_rate, beta1, beta2, epsilon)


def adamw(
    learning_rate: Scalar = 1e-3,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 1e-4,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay.

    Args:
        learning_rate: size of a step where gradients are steady.
        beta1: decay of the momentum.
        beta2: decay of the mean square.
        epsilon: added to the root.
        weight_decay: each step shrinks parameters by this times the learning rate.
    """
    return optax.adamw(learning_rate, beta1, beta2, epsilon, weight_decay=weight_decay)


def nadamw(
    learning_rate: Scalar = 1e-3,
    beta1: Scalar = 0.9,
    beta2: Scalar = 0.999,
    epsilon: Scalar = 1e-8,
    weight_decay: Scalar = 1e-4,
) -> optax.GradientTransformation:
    """AdamW with Nesterov's momentum.

    Args:
        learning_rate: size of a step where gradients are steady.
        beta1: decay of the momentum.
        beta2: decay of the mean square.
        epsilon: added to the root.
        weight_decay: each step shrinks parameters by this times the learning rate.
    """
    return optax.nadamw(learning_rate, beta1, beta2, epsilon, weight_decay=weight_decay)


def lion(
    learning_rate: Scalar = 1e-4, beta1: Scalar = 0.9, beta2: Scalar = 0.99, weight_decay: Scalar = 1e-3
) -> optax.GradientTransformation:
    """The sign of a mixture of momentum and gradient.

    Args:
        learning_rate: size of each coordinate's step.
        beta1: share of the momentum in the mixture.
        beta2: decay of the momentum.
        weight_decay: each step shrinks parameters by this times the learning rate.
    """
    return optax.lion(learning_rate, beta1, beta2, weight_decay=weight_decay)


def lars(
    learning_rate: Scalar = 1.0, trust_coefficient: Scalar = 1e-3, momentum: Scalar = 0.9
) -> optax.GradientTransformation:
    """Momentum on gradients scaled, per tensor, to the norm of its parameters; for large batches.

    Args:
        learning_rate: factor on the scaled gradient, before the momentum.
        trust_coefficient: length of a scaled gradient over that of the parameters.
        momentum: decay of the sum of scaled gradients.
    """
    return optax.lars(learning_rate, trust_coefficient=trust_coefficient, momentum=momentum)


def lamb(
    learning_rate: Scalar = 1e-2, beta1: Scalar = 0.9, beta2: Scalar = 0.999, epsilon: Scalar = 1e-6
) -> optax.GradientTransformation:
    """Adam with steps scaled, per tensor, to the norm of its parameters; for large batches.

    Args:
        learning_rate: length of a step over that of the parameters.
        beta1: decay of the momentum.
        beta2: decay of the mean square.
        epsilon: added to the root.
    """
    return optax.lamb(learning_rate, beta1, beta2, epsilon)


def schedule_free_adamw(
    learning_rate: Scalar = 2.5e-3, beta1: Scalar = 0.9, beta2: Scalar = 0.999, epsilon: Scalar = 1e-8
) -> optax.GradientTransformation:
    """AdamW that averages its iterates in place of a schedule.

    Gradients are taken at the trained parameters; `optax.contrib.schedule_free_eval_params` gives the average.

    Args:
        learning_rate: size of a step where gradients are steady.
        beta1: weight of the average in the point at which gradients are taken.
        beta2: decay of the mean square.
        epsilon: added to the root.
    """
    return optax.contrib.schedule_free_adamw(learning_rate, b1=beta1, b2=beta2, eps=epsilon)


def muon(
    learning_rate: Scalar = 2e-2, momentum: Scalar = 0.95, epsilon: Scalar = 1e-8, rms: Scalar = 0.2
) -> optax.GradientTransformation:
    """Momentum of matrices made orthogonal by Newton and Schulz; Adam for all other parameters.

    Args:
        learning_rate: of matrices and of Adam.
        momentum: decay of the momentum of matrices.
        epsilon: against a division by 0, in both.
        rms: root mean square of a matrix's step over the learning rate, so that both parts share one rate.
    """
    arguments: dict[str, Any] = {"beta": momentum, "eps": epsilon, "consistent_rms": rms}
    return optax.contrib.muon(learning_rate, **arguments)
