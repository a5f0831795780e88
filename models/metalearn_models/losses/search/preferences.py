"""Which of several trained losses to prefer: by error, by error and size, and the smallest within the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from metalearn_models.losses.formulas import size, to_text
from metalearn_models.losses.search.file import Trained

__all__ = ["order", "pareto_front", "prefer_small"]


def order(entry: Trained) -> tuple[float, int, str]:
    """The key by which losses are sorted, best first: fitness, size, text."""
    return entry.fitness, size(entry.expr), to_text(entry.expr)


def pareto_front(trained: Sequence[Trained]) -> tuple[Trained, ...]:
    """The losses that have less error than every smaller formula, from the smallest to the best."""
    front: list[Trained] = []
    for entry in sorted(trained, key=lambda e: (size(e.expr), e.fitness, to_text(e.expr))):
        if math.isfinite(entry.fitness) and (not front or entry.fitness < front[-1].fitness):
            front.append(entry)
    return tuple(front)


def prefer_small(entries: Sequence[Trained]) -> Trained:
    """The smallest formula within the noise of the best.

    Its mean log error exceeds that of the best by at most one standard error, over tasks, of the difference. With a
    single task there is no standard error, and the best is returned.

    Args:
        entries: losses with errors on the same tasks, such as `SearchResult.best`; at least one.
    """
    logs = np.log(np.maximum([entry.errors for entry in entries], 1e-12))
    best = min(range(len(entries)), key=lambda i: order(entries[i]))
    apart = logs - logs[best]
    tasks = apart.shape[1]
    error = apart.std(1, ddof=1) / np.sqrt(tasks) if tasks > 1 else np.zeros(len(entries))
    near = [i for i in range(len(entries)) if i == best or apart[i].mean() <= error[i]]
    return entries[min(near, key=lambda i: (size(entries[i].expr), order(entries[i])))]
