"""Data sets of 2 to 1,000 classes with wrong training labels, for searching losses and, others, for comparing them.

The search sees `META_TRAINING`, comparisons are made on `HELD_OUT`: other data sets, and other generators. Half of the
digits, 0 to 4, belong to the search, the others to the comparison.

    wine, breast_cancer, iris, digits-low, digits-low-turned, digits-high   see metalearn_tasks.datasets.corrupted
    pairs-low, pairs-high   two images of digits 0 to 4 (5 to 9) side by side, each pair of digits a class: 25 classes
    mixture-K, rings, teacher-K, template-K                                 see metalearn_tasks.datasets.generated

Only training labels are corrupted. Symmetric noise: a share of the labels is replaced by other classes, drawn evenly.
Class-dependent noise: a share of the examples of each class gets the label of the next class, the last one that of the
first; of two classes, where that would be symmetric, only the first is changed.
"""

from __future__ import annotations

import zlib
from typing import Literal, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from metalearn_tasks.datasets.corrupted import clean_splits
from metalearn_tasks.datasets.generated import generate

__all__ = ["HELD_OUT", "META_TRAINING", "NOISES", "Data", "Noise", "corrupt", "read"]

Noise = Literal["clean", "symmetric", "class-dependent"]
NOISES: tuple[Noise, ...] = ("symmetric", "class-dependent", "clean")
META_TRAINING = ("wine", "digits-low", "digits-low-turned", "mixture-2", "pairs-low", "mixture-100")
HELD_OUT = ("breast_cancer", "rings", "iris", "digits-high", "teacher-10", "pairs-high", "template-40", "template-100")


class Data(NamedTuple):
    """A data set in three parts, inputs standardised by the training examples.

    Attributes:
        classes: how many there are.
        train: `(x[N, D], y[N])`, float32 and int32, labels clean.
        valid: the same; chooses learning rates and judges searched losses.
        test: the same; for what is reported.
    """

    classes: int
    train: tuple[Float[np.ndarray, "N D"], Int[np.ndarray, "N"]]
    valid: tuple[Float[np.ndarray, "M D"], Int[np.ndarray, "M"]]
    test: tuple[Float[np.ndarray, "T D"], Int[np.ndarray, "T"]]


def read(name: str, seed: int) -> Data:
    """Read or generate a data set, with a split of its own for each seed.

    Args:
        name: one of those at the head of this file, K a number.
        seed: decides the split, and the examples and the task of generated data.
    """
    kind, _, number = name.partition("-")
    if kind == "pairs":
        return _pairs(f"digits-{number}", seed, np.random.default_rng([zlib.crc32(name.encode()), seed]))
    if kind in ("mixture", "rings", "teacher", "template"):
        classes, parts = generate(name, seed)
        return Data(classes, *parts)
    parts = clean_splits(name, seed)
    return Data(int(parts.train[1].max()) + 1, *parts)


def corrupt(labels: Int[np.ndarray, "N"], classes: int, noise: Noise, share: float, seed: int) -> Int[np.ndarray, "N"]:
    """Replace a share of labels by wrong ones.

    Args:
        labels: the right ones, from 0 to `classes` - 1.
        classes: how many there are.
        noise: which labels become which, see the head of this file.
        share: of the labels, in [0, 1), that become wrong; class-dependent: of each class that is changed.
        seed: of the choice.
    """
    if noise == "clean" or share == 0:
        return labels
    rng = np.random.default_rng([zlib.crc32(noise.encode()), seed])
    wrong = labels.copy()
    if noise == "symmetric":
        hit = rng.permutation(len(labels))[: round(share * len(labels))]
        wrong[hit] = (labels[hit] + rng.integers(1, classes, len(hit))) % classes
        return wrong
    hit = rng.random(len(labels)) < share
    hit &= (labels == 0) | (classes > 2)
    return np.where(hit, (labels + 1) % classes, labels).astype(labels.dtype)


def _pairs(name: str, seed: int, rng: np.random.Generator) -> Data:
    """Two images side by side; images of different parts are different."""
    parts = clean_splits(name, seed)

    def pair(part: tuple[np.ndarray, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = part
        chosen = rng.integers(len(y), size=(count, 2))
        return rearrange(x[chosen], "n two d -> n (two d)"), (5 * y[chosen[:, 0]] + y[chosen[:, 1]]).astype(np.int32)

    return Data(25, pair(parts.train, 1500), pair(parts.valid, 375), pair(parts.test, 750))
