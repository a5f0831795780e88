"""Generated classification with any number of classes, to search for losses on and to compare them on.

    mixture-K    two Gaussians per class, in 16 dimensions
    rings        two classes that alternate with the distance from the origin, in 2 of 6 dimensions
    teacher-K    the largest output of a random network with 16 inputs
    template-K   64 random bits per class, each of them flipped in one of five examples

Kinds, sizes and constants are our choice. With 1,000 classes there are 6,000 training examples: few for each class.
"""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["generate"]

_FLIPPED = 0.2  # share of bits of a template that are changed in an example
_Part = tuple[np.ndarray, np.ndarray]


def generate(name: str, seed: int) -> tuple[int, tuple[_Part, _Part, _Part]]:
    """Make a data set, inputs standardised by the training examples.

    Args:
        name: one of those at the head of this file, K a number.
        seed: decides the task and its examples.

    Returns:
        The number of classes; training, validation and test examples, inputs float32 and labels int32.

    Raises:
        ValueError: there is no such kind, or K is no number from 2 on.
    """
    kind, _, number = name.partition("-")
    numbered = kind in ("mixture", "teacher", "template") and number.isdecimal() and int(number) >= 2
    if not numbered and name != "rings":
        raise ValueError(
            f"generated data must be mixture-K, teacher-K or template-K with K of at least 2, or rings; got {name!r}"
        )
    rng = np.random.default_rng([zlib.crc32(name.encode()), seed])
    classes = int(number or 2)
    count = 400 if classes < 20 else 2000 if classes <= 100 else 6 * classes
    sizes = (count, max(200, count // 4), max(600, count // 2))
    x, y = {"mixture": _mixture, "rings": _rings, "teacher": _teacher, "template": _template}[kind](
        rng, classes, sum(sizes)
    )
    x = (x - x[:count].mean(0)) / np.maximum(x[:count].std(0), 1e-6)
    first, second = sizes[0], sizes[0] + sizes[1]
    x, y = x.astype(np.float32), y.astype(np.int32)
    return classes, ((x[:first], y[:first]), (x[first:second], y[first:second]), (x[second:], y[second:]))


def _mixture(rng: np.random.Generator, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    centres = rng.normal(size=(classes, 2, 16)) * (0.6 if classes < 20 else 1.0)
    y, which = rng.integers(classes, size=count), rng.integers(2, size=count)
    return centres[y, which] + 0.6 * rng.normal(size=(count, 16)), y


def _rings(rng: np.random.Generator, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(count, 6))
    return x, np.floor(0.9 * np.hypot(x[:, 0], x[:, 1])).astype(np.int64) % classes


def _teacher(rng: np.random.Generator, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(size=(count, 16))
    hidden = np.tanh(x @ rng.normal(size=(16, 12)) / 3)
    return x, (hidden @ rng.normal(size=(12, classes))).argmax(1)


def _template(rng: np.random.Generator, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    templates, y = rng.integers(2, size=(classes, 64)), rng.integers(classes, size=count)
    return np.where(rng.random((count, 64)) < _FLIPPED, 1 - templates[y], templates[y]).astype(np.float64), y
