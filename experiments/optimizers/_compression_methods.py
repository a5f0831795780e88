"""The ways to exchange gradients that the experiment on compression compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from metalearn_models.optimizers.distributed import (
    Compressor,
    all_reduce,
    compressed_all_reduce,
    diloco,
    eight_bit,
    in_two_stages,
    local_sgd,
    low_rank,
    sign,
    top_k,
)

__all__ = ["AXIS", "METHODS", "Method"]

AXIS = "devices"
MOMENTUM = 0.9


class Method(NamedTuple):
    """A way to train on many devices.

    Attributes:
        make: `(learning rate) -> optax transformation` that runs on every device.
        period: steps per exchange.
        kind: what it is compared as: "" (the baseline), "fewer" (messages are rarer), a compressor's name, or "without"
            (a compressor without feedback).
    """

    make: Callable[[Any], optax.GradientTransformation]
    period: int
    kind: str


def _sgd(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, MOMENTUM)


def _with(exchange: optax.GradientTransformation) -> Callable[[Any], optax.GradientTransformation]:
    return lambda rate: optax.chain(exchange, _sgd(rate))


def _feedback(compressor: Compressor, kind: str) -> Method:
    return Method(_with(compressed_all_reduce(compressor, AXIS)), 1, kind)


def _without(compressor: Compressor) -> Method:
    """The mean of compressed gradients, what messages leave out is lost."""

    def init(params: Any) -> Any:
        return compressor.init(jax.tree.leaves(params), AXIS)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        leaves, tree = jax.tree.flatten(updates)
        found = compressor.reduce(leaves, state, AXIS)
        return tree.unflatten(found.mean), found.memory

    return Method(_with(optax.GradientTransformation(init, update)), 1, "without")


def _accumulated(period: int) -> Method:
    def make(rate: Any) -> optax.GradientTransformation:
        return optax.MultiSteps(_with(all_reduce(AXIS))(rate), period).gradient_transformation()

    return Method(make, period, "fewer")


METHODS: dict[str, Method] = {
    "all-reduce": Method(_with(all_reduce(AXIS)), 1, ""),
    "top-k 10 %": _feedback(top_k(0.1), "top-k"),
    "top-k 1 %": _feedback(top_k(0.01), "top-k"),
    "top-k 1 %, no feedback": _without(top_k(0.01)),
    "sign": _feedback(sign(), "sign"),
    "sign, two stages": _feedback(in_two_stages(sign()), "sign"),
    "sign, no feedback": _without(sign()),
    "8 bits": _feedback(eight_bit(), "8 bits"),
    "8 bits, two stages": _feedback(in_two_stages(eight_bit()), "8 bits"),
    "rank 4": _feedback(low_rank(4), "low rank"),
    "rank 1": _feedback(low_rank(1), "low rank"),
    "rank 1, no feedback": _without(low_rank(1)),
    "8 batches in one": _accumulated(8),
    "local SGD, 8 steps": Method(lambda rate: local_sgd(_sgd(rate), optax.sgd(1.0), 8, AXIS), 8, "fewer"),
    "DiLoCo, 8 steps": Method(lambda rate: diloco(_sgd(rate), 8, AXIS), 8, "fewer"),
}
"""All ways by name. The outer step of DiLoCo is as in `diloco`; the other constants are ours."""
