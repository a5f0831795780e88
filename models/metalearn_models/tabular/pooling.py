"""One prediction of several views, which have their own names of the classes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["by_class", "outputs_in_use", "pool"]


def outputs_in_use(labels: Int[np.ndarray, "M K"], outputs: int) -> Bool[np.ndarray, "M C"]:
    """Which outputs stand for a class in each view.

    Args:
        labels: the label of each class in each view.
        outputs: C.
    """
    return np.stack([np.isin(np.arange(outputs), row) for row in labels])


def by_class(log_probs: list[np.ndarray], labels: Int[np.ndarray, "M K"]) -> Float[np.ndarray, "M n K"]:
    """The log-probabilities of each view in the order of the classes.

    Args:
        log_probs: of each view, [n, C].
        labels: the label of each class in each view.
    """
    return np.stack([of[:, label] for of, label in zip(log_probs, labels, strict=True)]).astype(np.float64)


def pool(
    log_probs: Float[np.ndarray, "M n K"],
    counted: Bool[np.ndarray, "M n"],
    labels: Int[np.ndarray, "M K"],
    outputs: int,
) -> Float[np.ndarray, "n K"]:
    """The prediction of several views: the mean of their probabilities, or their product if they merged classes.

    A view that merged classes says only what a class is not.

    Args:
        log_probs: of each view, by class.
        counted: which views count for a row.
        labels: the label of each class in each view.
        outputs: C; with more classes than that, views merge classes.
    """
    share = counted / np.maximum(counted.sum(0), 1)
    merged = labels.shape[1] > outputs
    total = np.zeros(log_probs.shape[1:])
    for value, weight in zip(log_probs, share, strict=True):  # in this order, whatever the number of rows
        total += weight[:, None] * (value if merged else np.exp(value))
    if merged:
        total = np.exp((total - total.max(1, keepdims=True)) * _evidence(labels))
    return total / total.sum(1, keepdims=True)


def _evidence(labels: Int[np.ndarray, "M K"]) -> float:
    """How many views' worth of evidence the product over all views is given if views merge classes.

    Views with the same rows err together, so their product would be far too sure of itself. Their geometric mean, which
    is 1, would be too unsure: a view leaves the classes that it merged tied. If all classes share their label, 4 came
    near the best log loss on Gaussian classes (26 and 100 of them); if none does, 1 is right.
    """
    sharing = np.mean([(row[:, None] == row[None]).sum(1) > 1 for row in labels])
    return 1.0 + 3.0 * float(sharing)
