"""Floating-point operations of sparse training per example, by the formulas of the RigL paper.

Evci, Gale, Menick, Castro and Elsen 2020, "Rigging the lottery: making all tickets winners" (arXiv 1911.11134). A
forward pass costs f, and a backward pass 2 f: once for activations, once for parameters. f_D is the forward pass
of the dense network, f_S that of the sparse one. The formulas count what is needed, and masked dense products do more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from metalearn_models.sparsity.distributions import Shape

__all__ = [
    "dense_training",
    "forward_flops",
    "gradual_pruning_training",
    "pruned_share",
    "rigl_training",
    "snfs_training",
    "static_training",
]


def forward_flops(
    shapes: Mapping[str, Shape], densities: Mapping[str, float] | None = None, places: Mapping[str, int] | None = None
) -> float:
    """Operations of one forward pass: two per connection and place where it is used.

    Args:
        shapes: of the kernels by name.
        densities: share of connections by name; 1 where a layer is not named. None: the dense network.
        places: outputs that a kernel makes per example, by name: the pixels of a convolution's output. 1 where a layer
            is not named.
    """
    densities, places = densities or {}, places or {}
    return sum(2.0 * math.prod(s) * densities.get(k, 1.0) * places.get(k, 1) for k, s in shapes.items())


def dense_training(dense: float) -> float:
    """A step of the dense network, 3 f_D."""
    return 3.0 * dense


def static_training(sparse: float) -> float:
    """A step of static sparse training and of SET, 3 f_S."""
    return 3.0 * sparse


def snfs_training(dense: float, sparse: float) -> float:
    """A step of SNFS, 2 f_S + f_D: it has the dense gradient of the parameters at every step."""
    return 2.0 * sparse + dense


def rigl_training(dense: float, sparse: float, every: int) -> float:
    """A step of RigL on average, (3 f_S Delta T + 2 f_S + f_D) / (Delta T + 1).

    Raises:
        ValueError: `every` is less than 1.
    """
    if every < 1:
        raise ValueError(f"every (Delta T) is at least 1 step, got {every}")
    return (3.0 * sparse * every + 2.0 * sparse + dense) / (every + 1)


def gradual_pruning_training(forward: Callable[[float], float], left: Sequence[float]) -> float:
    """A step of gradual pruning on average, the mean of 3 f over the steps.

    Args:
        forward: operations of one forward pass, from the share of the weights to prune that is still there.
        left: that share at every step; `pruned_share` gives it.
    """
    return 3.0 * math.fsum(forward(share) for share in left) / len(left)


def pruned_share(steps: int, end: int, every: int, start: int = 0) -> list[float]:
    """The share of the weights to prune that `gradual_pruning` has left, at every step."""
    left, found = 1.0, []
    for step in range(steps):
        found.append(left)  # the change comes after the step
        if step >= start and (step - start) % every == 0:
            left = max(0.0, 1.0 - (step - start) / (end - start)) ** 3
    return found
