"""Every optimizer made by hand, by name: what makes it, its paper, and which of its constants can be learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import optax

from metalearn.errors import unknown_name
from metalearn_models.optimizers.contract import Differentiate, LearnedOptimizer, loss_and_gradient
from metalearn_models.optimizers.curvature import loss_and_exact_statistics, loss_and_statistics
from metalearn_models.optimizers.handmade import blocks, first_order, second_order
from metalearn_models.optimizers.handmade.constants import learn_constants
from metalearn_models.optimizers.handmade.lookahead import lookahead_adam, lookahead_momentum
from metalearn_models.optimizers.handmade.sam import loss_and_grad_fn, sam_momentum
from metalearn_models.optimizers.orthogonal import orthogonal_adam

__all__ = ["HANDMADE", "HandmadeEntry", "handmade_entry", "handmade_names"]


class HandmadeEntry(NamedTuple):
    """One row of the table of optimizers made by hand.

    Attributes:
        make: makes the optax transformation; its arguments are the optimizer's constants, all with defaults.
        description: one line for `metalearn list`, without the paper.
        paper: authors and year, with the arXiv number where there is one.
        positive: constants above 0, learned as their logarithm. The first is the learning rate.
        decays: constants from 0 to below 1, learned as log(1 - decay).
        differentiate: what a training loop computes for it; see `LearnedOptimizer`.
    """

    make: Callable[..., optax.GradientTransformation]
    description: str
    paper: str
    positive: tuple[str, ...] = ("learning_rate",)
    decays: tuple[str, ...] = ()
    differentiate: Differentiate = loss_and_gradient

    @property
    def learnable(self) -> Callable[..., LearnedOptimizer]:
        """Makes the learned optimizer whose theta is these constants; with the arguments of `make`."""
        return learn_constants(self.make, self.positive, self.decays, self.differentiate)


_RATE, _ADAM, _DAMPED = ("learning_rate",), ("learning_rate", "epsilon"), ("learning_rate", "damping")
_BETAS = ("beta1", "beta2")

HANDMADE: dict[str, HandmadeEntry] = {
    "sgd": HandmadeEntry(first_order.sgd, "gradient descent", "Robbins and Monro 1951"),
    "momentum": HandmadeEntry(
        first_order.momentum, "steps along a decaying sum of gradients", "Polyak 1964", _RATE, ("momentum",)
    ),
    "nesterov": HandmadeEntry(
        first_order.nesterov,
        "momentum that looks ahead",
        "Nesterov 1983, Sutskever et al. 2013",
        _RATE,
        ("momentum",),
    ),
    "rmsprop": HandmadeEntry(
        first_order.rmsprop, "gradients over their root mean square", "Tieleman and Hinton 2012", _ADAM, ("decay",)
    ),
    "adam": HandmadeEntry(
        first_order.adam, "momentum over the root mean square", "Kingma and Ba 2015, 1412.6980", _ADAM, _BETAS
    ),
    "adamw": HandmadeEntry(
        first_order.adamw,
        "Adam with decoupled weight decay",
        "Loshchilov and Hutter 2019, 1711.05101",
        (*_ADAM, "weight_decay"),
        _BETAS,
    ),
    "nadamw": HandmadeEntry(
        first_order.nadamw,
        "AdamW with Nesterov's momentum",
        "Dozat 2016",
        (*_ADAM, "weight_decay"),
        _BETAS,
    ),
    "lion": HandmadeEntry(
        first_order.lion,
        "the sign of momentum and gradient",
        "Chen et al. 2023, 2302.06675",
        (*_RATE, "weight_decay"),
        _BETAS,
    ),
    "lars": HandmadeEntry(
        first_order.lars,
        "momentum scaled to the parameters of each tensor, for large batches",
        "You, Gitman and Ginsburg 2017, 1708.03888",
        (*_RATE, "trust_coefficient"),
        ("momentum",),
    ),
    "lamb": HandmadeEntry(
        first_order.lamb,
        "Adam scaled to the parameters of each tensor, for large batches",
        "You et al. 2020, 1904.00962",
        _ADAM,
        _BETAS,
    ),
    "sam": HandmadeEntry(
        sam_momentum,
        "momentum on the gradient at the worst point nearby; two gradients per step",
        "Foret et al. 2021, 2010.01412",
        (*_RATE, "rho"),
        ("momentum",),
        loss_and_grad_fn,
    ),
    "schedule-free-adamw": HandmadeEntry(
        first_order.schedule_free_adamw,
        "AdamW with an average in place of a schedule",
        "Defazio et al. 2024, 2405.15682",
        _ADAM,
        _BETAS,
    ),
    "muon": HandmadeEntry(
        first_order.muon,
        "orthogonal momentum for matrices, Adam for the rest",
        "Jordan et al. 2024",
        (*_ADAM, "rms"),
        ("momentum",),
    ),
    "orthogonal-adam": HandmadeEntry(
        orthogonal_adam,
        "Adam's direction, orthogonal for matrices, one length for all tensors",
        "ours, after Jordan et al. 2024",
        _RATE,
        _BETAS,
    ),
    "foof": HandmadeEntry(
        second_order.foof,
        "gradient descent on neurons: gradients over the second moment of a layer's inputs",
        "Benzing 2022, 2201.12250",
        _DAMPED,
        ("momentum", "decay"),
        loss_and_statistics,
    ),
    "mac": HandmadeEntry(
        second_order.mac,
        "FOOF with the mean input of a layer alone",
        "ICDM 2025, 2506.08464",
        _DAMPED,
        ("momentum", "decay"),
        loss_and_statistics,
    ),
    "kfac": HandmadeEntry(
        second_order.kfac,
        "factored natural gradient, damped per factor",
        "Martens and Grosse 2015, 1503.05671",
        _DAMPED,
        ("momentum", "decay"),
        loss_and_exact_statistics,
    ),
    "kfac-standard": HandmadeEntry(
        second_order.kfac_standard,
        "factored natural gradient, damped as a whole",
        "Martens and Grosse 2015, 1503.05671",
        _DAMPED,
        ("momentum", "decay"),
        loss_and_exact_statistics,
    ),
    "natural-gradient": HandmadeEntry(
        second_order.natural_gradient,
        "gradients times the exact inverse Fisher matrix of the batch",
        "Amari 1998",
        _DAMPED,
        ("momentum",),
        loss_and_exact_statistics,
    ),
    "m-fac": HandmadeEntry(
        second_order.m_fac,
        "gradients times the inverse Fisher matrix of the last gradients",
        "Frantar, Kurtic and Alistarh 2021, 2107.03356",
        _DAMPED,
        ("momentum",),
    ),
    "soap": HandmadeEntry(
        blocks.soap,
        "Adam in the eigenbasis of Shampoo's preconditioner",
        "Vyas et al. 2024, 2409.11321",
        (*_ADAM, "weight_decay"),
        _BETAS,
    ),
    "mini-block-fisher": HandmadeEntry(
        blocks.mini_block_fisher,
        "gradients over the Fisher matrix of each neuron's weights",
        "Bahamou, Goldfarb and Ren 2023, 2202.04124",
        _DAMPED,
        ("momentum", "decay"),
        loss_and_statistics,
    ),
    "lookahead-momentum": HandmadeEntry(
        lookahead_momentum,
        "momentum that slow weights follow",
        "Zhang et al. 2019, 1907.08610",
        (*_RATE, "slow_step_size"),
        ("momentum",),
    ),
    "lookahead-adam": HandmadeEntry(
        lookahead_adam,
        "Adam that slow weights follow",
        "Zhang et al. 2019, 1907.08610",
        (*_ADAM, "slow_step_size"),
        _BETAS,
    ),
}
"""All optimizers made by hand, by name."""


def handmade_names() -> tuple[str, ...]:
    """The names of all optimizers made by hand, in the order of the table."""
    return tuple(HANDMADE)


def handmade_entry(name: str) -> HandmadeEntry:
    """The row with that name.

    Raises:
        UnknownNameError: no optimizer made by hand has it; names the nearest ones.
    """
    if name not in HANDMADE:
        raise unknown_name("optimizer made by hand", name, HANDMADE)
    return HANDMADE[name]
