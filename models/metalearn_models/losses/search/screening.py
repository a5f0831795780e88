"""Rejecting or recognising losses by their tables, before any network is trained with them.

EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) computes the gradients of a loss on the predictions of 100
examples, and recognises losses that it has tried by these. Here a table holds the gradient for all predictions.
"""

from __future__ import annotations

import hashlib

import numpy as np
from jaxtyping import Float

from metalearn_models.losses.formulas import LIMIT
from metalearn_models.losses.search.table import LOGITS, PROBABILITIES, RESIDUALS, Kind, Table
from metalearn_models.losses.symbolic_loss import weight_of_wrong

__all__ = ["SCREENED_CLASSES", "describe_gradient", "effective", "fingerprint", "reject", "scale"]

SCREENED_CLASSES = (2, 10, 100, 1000)
"""Numbers of classes that a loss of classification must be fit for."""


def reject(table: Table, kind: Kind, classes: int = 10) -> str | None:
    """The reason why a loss need not be trained. None: it should be trained.

    Classification: tested with 2, 10, 100 and 1,000 classes; beyond `classes` the terms of the wrong ones are weighted
    as `SymbolicLoss` does. With each number the mean gradient on the right logit must be negative, over logits of p
    from -8 to 8 and with the wrong classes equally likely. And being sure of one wrong class must not cost less than
    equal probabilities, or a network learns to give the same answer to everything.

    Regression: dl/df must have the sign of f - y more often than not. The mean product of both signs over targets in
    [-3, 3] and residuals up to 8, evenly in their logarithm far out, must be at least 0.2.

    Args:
        table: the `screening_table` of the loss.
        kind: kind of the tasks.
        classes: largest number of classes among the tasks.

    Returns:
        A sentence that begins with "flat", "not finite", "wrong sign" or "one answer".
    """
    if not all(np.isfinite(x).all() for x in table):
        return "not finite: the loss or its gradient overflows"
    if max(np.abs(table.loss).max(), np.abs(table.gradient).max()) >= LIMIT:
        return f"not finite: the loss or its gradient reaches {LIMIT:g}, where formulas are cut off"
    effect = effective(table, kind)
    if np.abs(effect).max() <= 1e-6:
        return "flat: no gradient reaches the network"
    if kind == "classification":
        return _reject_classes(table, classes)
    near = np.abs(RESIDUALS) <= 8
    agreement = np.mean(np.sign(effect[:, near]) * np.sign(RESIDUALS[near])[None, :])
    if agreement < 0.2:
        return f"wrong sign: the gradient agrees with the error by {agreement:.2f} only (-1 to 1, 0.2 is needed)"
    return None


def _reject_classes(table: Table, classes: int) -> str | None:
    for number in SCREENED_CLASSES:
        share = weight_of_wrong(number, classes)
        if _mean_push(table.gradient, number, share) >= -1e-9:
            return f"wrong sign: with {number} classes it does not push the right class up"
    for number in SCREENED_CLASSES:
        share = weight_of_wrong(number, classes)
        nothing, wrong = _cost_of_equal(table.loss, number, share), _cost_of_wrong(table.loss, number, share)
        if nothing > wrong + 1e-6 * (abs(nothing) + abs(wrong)):
            return f"one answer: with {number} classes being sure of a wrong one costs less than equal probabilities"
    return None


def fingerprint(table: Table, kind: Kind) -> str:
    """A key that is equal for losses whose gradients are equal up to a factor, to about 1 %.

    In classification a multiple of p that is added to both curves reaches no logit, since probabilities sum to one; it
    is removed first. Then the gradient is divided by its mean absolute value, compressed by asinh, since gradients like
    1/r span many orders of magnitude, and rounded to 1/50.

    Args:
        table: the `screening_table` of the loss.
        kind: kind of the tasks.
    """
    scaled = _compress(table, kind)
    # The offset keeps round numbers, which formulas often have, away from the edges between two rounded values.
    rounded = np.floor(scaled * 50 + 0.3819660113).astype(np.int32)
    return hashlib.sha256(kind.encode() + rounded.tobytes()).hexdigest()[:32]


def describe_gradient(table: Table, kind: Kind) -> Float[np.ndarray, "F"]:
    """Numbers by which gradients are compared: those of `fingerprint` before rounding, at every eighth prediction.

    Predictions beyond logits of 8 and residuals of 8 are left out, since few are met there.

    Args:
        table: the `screening_table` of the loss.
        kind: kind of the tasks.
    """
    points = LOGITS if kind == "classification" else RESIDUALS
    return _compress(table, kind)[:, np.flatnonzero(np.abs(points) <= 8)[::8]].ravel()


def _compress(table: Table, kind: Kind) -> np.ndarray:
    effect = effective(table, kind)
    return np.arcsinh(effect / max(float(np.abs(effect).mean()), 1e-300))


def effective(table: Table, kind: Kind) -> np.ndarray:
    """The part of the gradient that reaches the network."""
    if kind == "regression":
        return table.gradient
    p = PROBABILITIES[None, :]
    return table.gradient - p * ((table.gradient * p).sum() / (2 * (p * p).sum()))


def _mean_push(h: np.ndarray, classes: int, share: float) -> float:
    """Mean gradient on the right logit, while the wrong classes share the remaining probability equally."""
    inside = np.abs(LOGITS) <= 8
    p = PROBABILITIES[inside]
    wrong = share * np.interp(_logit((1 - p) / (classes - 1)), LOGITS, h[0])
    return float(np.mean(h[1, inside] * (1 - p) - p * (classes - 1) * wrong))


def _cost_of_equal(loss: np.ndarray, classes: int, share: float) -> float:
    """The loss of one example if all classes are equally likely."""
    at = _logit(1 / classes)
    right, wrong = np.interp(at, LOGITS, loss[1]), np.interp(at, LOGITS, loss[0])
    return float(right + share * (classes - 1) * wrong)


def _cost_of_wrong(loss: np.ndarray, classes: int, share: float) -> float:
    """The loss of one example if one wrong class has almost all probability."""
    return float(loss[1, 0] + share * (loss[0, -1] + (classes - 2) * loss[0, 0]))


def _logit(p: np.ndarray | float) -> np.ndarray | float:
    return np.log(p) - np.log1p(-p)


def scale(table: Table, kind: Kind) -> float:
    """The mean absolute gradient. Candidates are divided by it, so that a learning rate means the same for all."""
    return max(float(np.abs(effective(table, kind)).mean()), 1e-30)
