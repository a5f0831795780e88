"""How many connections each layer gets: uniform, Erdos-Renyi, and Erdos-Renyi-Kernel (ERK).

Erdos-Renyi graphs as sparse layers: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive
sparse connectivity inspired by network science" (arXiv 1707.04780). ERK: Evci, Gale, Menick, Castro and Elsen 2020,
"Rigging the lottery: making all tickets winners" (arXiv 1911.11134).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

__all__ = ["Distribution", "Shape", "check_sparsity", "count_connections", "erdos_renyi", "erk", "uniform"]

Shape = tuple[int, ...]
"""Shape of a kernel: inputs and outputs last, the axes of a filter before them."""

Distribution = Callable[[Mapping[str, Shape], float], dict[str, float]]
"""`(shapes, sparsity) -> densities`: the share of connections that each layer keeps, in (0, 1]."""


def uniform(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, float]:
    """The same density everywhere. RigL's "uniform" keeps the first layer dense besides: leave it out with `which`.

    Args:
        shapes: of the layers by name.
        sparsity: share of all entries that is off, in [0, 1).
    """
    check_sparsity(sparsity)
    return dict.fromkeys(shapes, 1.0 - sparsity)


def erdos_renyi(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, float]:
    """Density proportional to (inputs + outputs) / (inputs * outputs), whatever the size of a filter.

    Args:
        shapes: of the layers by name.
        sparsity: share of all entries that is off, in [0, 1).
    """
    return _proportional(shapes, sparsity, lambda shape: sum(shape[-2:]) / math.prod(shape[-2:]))


def erk(shapes: Mapping[str, Shape], sparsity: float) -> dict[str, float]:
    """Density proportional to the sum of all axes over their product: large layers become sparser than small ones.

    A layer whose density would exceed 1 is dense, and the others are solved again for the same total.

    Args:
        shapes: of the layers by name.
        sparsity: share of all entries that is off, in [0, 1).
    """
    return _proportional(shapes, sparsity, lambda shape: sum(shape) / math.prod(shape))


def _proportional(shapes: Mapping[str, Shape], sparsity: float, raw: Callable[[Shape], float]) -> dict[str, float]:
    check_sparsity(sparsity)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        free = [name for name in shapes if name not in dense]
        budget = (1.0 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        weight = sum(raw(shapes[name]) * sizes[name] for name in free)
        scale = budget / weight if free else 0.0
        full = {name for name in free if scale * raw(shapes[name]) >= 1.0}
        if not full:
            return {name: 1.0 if name in dense else scale * raw(shape) for name, shape in shapes.items()}
        dense |= full


def count_connections(shapes: Mapping[str, Shape], densities: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers of connections per layer.

    Args:
        shapes: of the layers by name.
        densities: share of connections by name.

    Raises:
        ValueError: a layer is missing, has no entries, has a density outside (0, 1], or would be left without
            connections.
    """
    counts = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        if name not in densities:
            raise ValueError(f"the distribution gives no density for the layer {name}: it names {sorted(densities)}")
        if not size:
            raise ValueError(f"the layer {name} of shape {shape} has no weights: leave it out with which=")
        if not 0 < densities[name] <= 1:
            raise ValueError(f"the density of the layer {name} must be in (0, 1], got {densities[name]}")
        counts[name] = round(densities[name] * size)
        if counts[name] < 1:
            raise ValueError(
                f"the density {densities[name]:.3g} leaves the layer {name} of shape {shape} without connections: give "
                f"it at least {1 / size:.3g}, by a smaller sparsity, another distribution or which="
            )
    return counts


def check_sparsity(sparsity: float) -> None:
    """Check that something stays.

    Raises:
        ValueError: the sparsity is outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is the share of weights that are off, in [0, 1), got {sparsity}")
