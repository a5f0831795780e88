"""Lottery tickets: masks of the trained network on the weights that it started from.

Frankle and Carbin 2019, "The lottery ticket hypothesis: finding sparse, trainable neural networks" (arXiv 1803.03635):
train, prune by magnitude, give what stays its initial value, and repeat. Frankle, Dziugaite, Roy, Carbin 2019,
"Stabilizing the lottery ticket hypothesis" (arXiv 1903.01611) go back to an early step of training: give the parameters
of that step as `start`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metalearn_models.sparsity.contract import Masks
from metalearn_models.sparsity.masks import Which, apply_masks, kernels
from metalearn_models.sparsity.pruning.keep import keep_globally, share_to_keep
from metalearn_models.sparsity.pruning.magnitude import magnitude

__all__ = ["Ticket", "find_ticket"]


class Ticket(NamedTuple):
    """A sparse network to train.

    Attributes:
        params: those of the start, with zeros where the masks are off.
        masks: what stays.
    """

    params: Any
    masks: Masks


def find_ticket(
    train: Callable[[Any, Masks], Any],
    start: Any,
    compression: float,
    rounds: int = 1,
    *,
    which: Which = kernels,
    keep: Callable[[Any, float, Masks], Masks] = keep_globally,
) -> Ticket:
    """Prune in rounds, each of which trains the ticket so far from the start.

    Args:
        train: `(params, masks) -> trained params`, in which what is off stays 0, as with `sparse_with_masks`.
        start: initial parameters, or those of an early step.
        compression: all parameters over those that stay, after the last round.
        rounds: trainings. Each round keeps the same share of what was left: with 1, one shot.
        which: chooses the leaves to prune by path and shape.
        keep: `keep_globally` or `keep_by_layer`.

    Raises:
        ValueError: there is less than one round, or the compression cannot be reached.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    scores = magnitude(start, which)
    share = share_to_keep(start, scores, compression)
    masks = keep(scores, 1.0, None)
    for number in range(1, rounds + 1):
        trained = train(apply_masks(start, masks), masks)
        masks = keep(magnitude(trained, which), share ** (number / rounds), masks)
    return Ticket(apply_masks(start, masks), masks)
