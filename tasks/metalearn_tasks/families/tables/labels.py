"""Classes: how many, how frequent, from which scores, and how often wrong."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from metalearn_tasks.families.tables.config import TablesConfig
from metalearn_tasks.families.tables.pieces import standardise

__all__ = [
    "ROWS_PER_CLASS",
    "class_of_intervals",
    "class_of_largest",
    "compact",
    "draw_proportions",
    "flip",
    "number_of_classes",
]

ROWS_PER_CLASS = 5
"""There are at most so many classes that each can have so many rows."""


def number_of_classes(rng: np.random.Generator, rows: int, config: TablesConfig) -> int:
    """How many classes a table is meant to have."""
    most = max(2, min(config.classes, rows // ROWS_PER_CLASS))
    return 2 if rng.random() < config.binary else 2 + int(rng.integers(most - 1))


def draw_proportions(rng: np.random.Generator, classes: int, imbalanced: bool) -> Float[np.ndarray, " {classes}"]:
    """The intended frequency of each class; imbalanced ones differ several times."""
    weights = np.exp(rng.uniform(0.3, 1.2) * rng.standard_normal(classes)) if imbalanced else np.ones(classes)
    return weights / weights.sum()


def class_of_largest(
    scores: Float[np.ndarray, "n K"], proportions: Float[np.ndarray, " K"], tolerance: float = 0.3
) -> Int[np.ndarray, " n"]:
    """The class with the largest standardised score.

    Scores are shifted until the frequencies come near the proportions, in at most ten steps.
    """
    z = standardise(scores)
    shift, ys = np.zeros(z.shape[1]), z.argmax(1)
    for _ in range(10):
        ys = (z + shift).argmax(1)
        found = np.bincount(ys, minlength=len(proportions)) / len(ys)
        if np.all(np.abs(found - proportions) <= tolerance * proportions):
            break
        shift += 0.5 * np.log((proportions + 0.02) / (found + 0.02))
    return ys


def class_of_intervals(score: Float[np.ndarray, " n"], proportions: Float[np.ndarray, " K"]) -> Int[np.ndarray, " n"]:
    """The interval that holds the score; the intervals have the proportions of the rows, but for ties."""
    cuts = np.quantile(score, np.cumsum(proportions)[:-1])
    return (score[:, None] > cuts).sum(1)


def flip(rng: np.random.Generator, ys: Int[np.ndarray, " n"], probability: float) -> Int[np.ndarray, " n"]:
    """Each class is replaced with this probability by that of a random row."""
    return np.where(rng.random(len(ys)) < probability, ys[rng.integers(len(ys), size=len(ys))], ys)


def compact(rng: np.random.Generator, ys: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Names 0 to K - 1 in random order for the K classes that occur."""
    found, places = np.unique(ys, return_inverse=True)
    return rng.permutation(len(found))[places]
