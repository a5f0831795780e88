"""Losses refused or recognised by their tables, before any network is trained with them.

EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) tries a loss on the predictions of 100 examples, and compares
gradients there to recognise one that it has had; a table holds the gradient for all predictions at once.
"""

from __future__ import annotations

import hashlib

import numpy as np

from metalearn_models.losses.formulas import LIMIT
from metalearn_models.losses.search.table import LOGITS, PROBABILITIES, RESIDUALS, Kind, Table

__all__ = ["effective", "fingerprint", "reject", "scale"]


def reject(table: Table, kind: Kind) -> str | None:
    """Why a loss need not be trained, or None.

    In classification the gradient that reaches the logit of the right class is looked at for 2 and for 10 classes of
    which the wrong ones are equally probable: averaged over logits of p from -8 to 8 it must be negative for one of
    them. In regression dl/df must have the sign of f - y more often than not: the mean product of the two signs over
    targets in [-3, 3] and residuals up to 8, evenly in their logarithm far out, must be at least 0.2.

    Args:
        table: the `screening_table` of the loss.
        kind: of task.

    Returns:
        A sentence, "flat", "not finite" or "wrong sign" its first words.
    """
    if not all(np.isfinite(x).all() for x in table):
        return "not finite: the loss or its gradient overflows"
    if max(np.abs(table.loss).max(), np.abs(table.gradient).max()) >= LIMIT:
        return f"not finite: the loss or its gradient reaches {LIMIT:g}, where formulas are cut off"
    effect = effective(table, kind)
    if np.abs(effect).max() <= 1e-6:
        return "flat: no gradient reaches the network"
    if kind == "classification":
        if min(_push(table.gradient, classes) for classes in (2, 10)) >= -1e-9:
            return "wrong sign: it does not push the right class up"
        return None
    near = np.abs(RESIDUALS) <= 8
    agreement = np.mean(np.sign(effect[:, near]) * np.sign(RESIDUALS[near])[None, :])
    if agreement < 0.2:
        return f"wrong sign: the gradient agrees with the error by {agreement:.2f} only (-1 to 1, 0.2 is needed)"
    return None


def fingerprint(table: Table, kind: Kind) -> str:
    """A key that is equal for losses which train a network alike: same gradients up to a factor, to about 1 %.

    In classification a multiple of p added to both curves reaches no logit, since probabilities sum to one; it is
    removed first. Then the gradient is divided by its mean absolute value and compressed by asinh, since gradients
    like 1/r span many orders of magnitude, and rounded to 1/50.

    Args:
        table: the `screening_table` of the loss.
        kind: of task.
    """
    effect = effective(table, kind)
    scaled = np.arcsinh(effect / max(float(np.abs(effect).mean()), 1e-300))
    # The offset keeps the round numbers that formulas like to have away from where rounding goes up or down.
    rounded = np.floor(scaled * 50 + 0.3819660113).astype(np.int32)
    return hashlib.sha256(kind.encode() + rounded.tobytes()).hexdigest()[:32]


def effective(table: Table, kind: Kind) -> np.ndarray:
    """What of the gradient reaches the network."""
    if kind == "regression":
        return table.gradient
    p = PROBABILITIES[None, :]
    return table.gradient - p * ((table.gradient * p).sum() / (2 * (p * p).sum()))


def _push(h: np.ndarray, classes: int) -> float:
    """Mean gradient of the right class's logit, the wrong ones sharing what probability is left."""
    inside = np.abs(LOGITS) <= 8
    p = PROBABILITIES[inside]
    others = (1 - p) / (classes - 1)
    wrong = np.interp(np.log(others) - np.log1p(-others), LOGITS, h[0])
    return float(np.mean(h[1, inside] * (1 - p) - p * (classes - 1) * wrong))


def scale(table: Table, kind: Kind) -> float:
    """The mean absolute gradient, by which candidates are divided before training: the learning rate means the same."""
    return max(float(np.abs(effective(table, kind)).mean()), 1e-30)
