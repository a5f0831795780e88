"""RigL: drop the smallest weights, grow where the dense gradient is largest.

Evci, Gale, Menick, Castro and Elsen 2020, "Rigging the lottery: making all tickets winners" (arXiv 1911.11134), as the
paper says it and as the released code does it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from metalearn_models.sparsity.contract import Rule
from metalearn_models.sparsity.rules.cycle import Anneal, Cycle, constant, cosine
from metalearn_models.sparsity.rules.drop_grow import Layer, drop_and_grow, magnitude

__all__ = ["rigl", "rigl_released"]

NOISE = 1e-5
"""Standard deviation of what the released code adds to the magnitudes, which decides between equal ones."""


def rigl(end: Any, every: Any = 100, alpha: Any = 0.3, anneal: Anneal = cosine, start: Any = 1) -> Rule:
    """RigL as in the paper.

    Every `every` steps, each layer drops its `k` smallest weights, with k = alpha / 2 (1 + cos(pi t / end)) of its
    connections, and grows the k entries with the largest absolute gradient among all that are off. What was just
    dropped may grow again. New connections start at zero. The inner optimizer makes no step then.

    Args:
        end: no change at this step or later, T_end; about three quarters of the training.
        every: steps between two changes, Delta T.
        alpha: share of the connections that moves at first.
        anneal: how the share decays.
        start: no change before this step.

    Raises:
        ValueError: the numbers make no cycle.
    """
    cycle = Cycle(end, every, alpha, anneal, start)
    return drop_and_grow("rigl", cycle, magnitude, _gradient, pauses=True, restart_regrown=True)


def rigl_released(end: Any, every: Any = 100, alpha: Any = 0.3, anneal: Anneal = constant, start: Any = 0) -> Rule:
    """RigL as in the released code.

    It differs from the paper in four things. The first change is at step 0. Its flags for ImageNet and CIFAR-10 let
    alpha stay constant. Normal noise of standard deviation 1e-5 is added to the magnitudes. A connection that is
    dropped and grown again at once keeps its weight and the optimizer's state.

    Args:
        end: no change at this step or later, T_end.
        every: steps between two changes, Delta T.
        alpha: share of the connections that moves at first.
        anneal: how the share decays.
        start: no change before this step.

    Raises:
        ValueError: the numbers make no cycle.
    """
    cycle = Cycle(end, every, alpha, anneal, start)
    return drop_and_grow("rigl-released", cycle, _noisy_magnitude, _gradient, pauses=True, restart_regrown=False)


def _gradient(layer: Layer) -> Float[Array, "*S"]:
    return jnp.abs(layer.grad)


def _noisy_magnitude(layer: Layer) -> Float[Array, "*S"]:
    size = jnp.abs(layer.weight).astype(jnp.float32)
    return size + NOISE * jax.random.normal(layer.key, size.shape, jnp.float32)
