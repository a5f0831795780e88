"""SET, sparse evolutionary training: drop the smallest weights, grow anywhere at random.

Mocanu, Mocanu, Stone, Nguyen, Gibescu and Liotta 2018, "Scalable training of artificial neural networks with adaptive
sparse connectivity inspired by network science" (arXiv 1707.04780), as the released code of RigL has it: new
connections start at zero, where the paper draws them as at initialisation.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from metalearn_models.sparsity.contract import Rule
from metalearn_models.sparsity.masks import random_scores
from metalearn_models.sparsity.rules.cycle import Anneal, Cycle, cosine
from metalearn_models.sparsity.rules.drop_grow import Layer, drop_and_grow, magnitude

__all__ = ["set_rule"]


def set_rule(end: Any, every: Any = 100, alpha: Any = 0.3, anneal: Anneal = cosine, start: Any = 1) -> Rule:
    """Sparse evolutionary training. Unlike RigL it needs no dense gradient, and the inner optimizer never waits.

    Args:
        end: no change at this step or later.
        every: steps between two changes.
        alpha: share of the connections that moves at first.
        anneal: how the share decays.
        start: no change before this step.

    Raises:
        ValueError: the numbers make no cycle.
    """
    cycle = Cycle(end, every, alpha, anneal, start)
    return drop_and_grow("set", cycle, magnitude, _noise, pauses=False, restart_regrown=True)


def _noise(layer: Layer) -> Float[Array, "*S"]:
    return random_scores(layer.key, layer.weight)
