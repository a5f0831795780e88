"""Test errors of losses on data sets with wrong training labels, each loss at its own learning rate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.losses.trusted.contest import shape_for
from experiments.losses.trusted.data import Noise, corrupt, read
from experiments.losses.trusted.training import Job, curves, pad, train
from metalearn_models.losses import HandmadeLoss, SymbolicLoss
from metalearn_models.losses.formulas import parse
from metalearn_models.losses.symbolic_loss import MOST_CLASSES

__all__ = ["LEAST", "Condition", "as_candidate", "compare", "log_ratios"]

LEAST = 0.002
"""Least error in ratios, since an error of nothing would decide them all."""
Condition = tuple[str, Noise, float]
"""A data set, the kind of noise, and its share of the training labels."""


def as_candidate(formula: str) -> SymbolicLoss:
    """A formula that was found, as a loss for any number of classes, without weights that depend on it."""
    return SymbolicLoss(parse(formula), classes=MOST_CLASSES)


def compare(
    losses: Mapping[str, SymbolicLoss | HandmadeLoss],
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    rates: Sequence[float],
    steps: int,
) -> dict[str, dict[str, Any]]:
    """Train networks with each loss on each data set, with each seed and learning rate.

    Args:
        losses: by label.
        conditions: data sets with their noise.
        seeds: of splits, noise, initial weights and batches.
        rates: learning rates; for each loss and condition the one with the least mean validation error is reported.
        steps: of each training.

    Returns:
        By condition "name, noise", then by label: the test errors `each` per seed, their validation errors `valid`, and
        the `rate`.
    """
    results: dict[str, dict[str, Any]] = {}
    groups: dict[Any, list[Condition]] = {}
    for condition in conditions:
        groups.setdefault(shape_for(read(condition[0], seeds[0]).classes, steps), []).append(condition)
    for shape, members in groups.items():
        rows = []
        for (name, noise, share), seed in itertools.product(members, seeds):
            data = read(name, seed)
            rows.append((data, corrupt(data.train[1], data.classes, noise, share, seed), len(rows) % 2 == 1))
        classes = sorted({data.classes for data, _, _ in rows})
        tables = np.concatenate([[curves(loss, n) for n in classes] for loss in losses.values()])
        jobs = [
            Job(i, k * len(classes) + classes.index(data.classes), rate, seeds[i % len(seeds)])
            for i, (data, _, _) in enumerate(rows)
            for k in range(len(losses))
            for rate in rates
        ]
        errors = train(pad(rows, shape), tables, jobs, shape)
        by_row = errors.reshape(len(members), len(seeds), len(losses), len(rates), 2)
        for condition, by_seed in zip(members, by_row, strict=True):
            best = by_seed[..., 0].mean(0).argmin(-1)  # one per loss
            results[f"{condition[0]}, {condition[1]}"] = {
                label: {
                    "each": by_seed[:, k, best[k], 1].tolist(),
                    "valid": by_seed[:, k, best[k], 0].tolist(),
                    "rate": rates[best[k]],
                }
                for k, label in enumerate(losses)
            }
    return {f"{name}, {noise}": results[f"{name}, {noise}"] for name, noise, _ in conditions}


def log_ratios(results: Mapping[str, Mapping[str, Any]], label: str, other: str, part: str = "each") -> list[float]:
    """The logarithm of the mean error with one loss over that with another, per condition.

    Args:
        results: of `compare`.
        label: of the one loss.
        other: of the other loss.
        part: "each" for test errors, "valid" for those on validation examples.
    """
    return [
        float(np.log(max(np.mean(row[label][part]), LEAST) / max(np.mean(row[other][part]), LEAST)))
        for row in results.values()
    ]
