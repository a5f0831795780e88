"""Data sets with wrong training labels or shifted training targets, as tasks for loss functions.

`loss_task` makes the tasks on which losses are searched for and compared. Each has three disjoint splits: train, the
only corrupted one; validation, which judges a loss during a search; test, for the reported figures (`clean_splits`).

Corrupting the training labels alone is the protocol of Gao, Gouk and Hospedales 2021, "Searching for Robustness"
(arXiv 2103.00243). The data sets friedman1 to friedman3 are scikit-learn's generators after Friedman 1991,
"Multivariate Adaptive Regression Splines", and Breiman 1996, "Bagging Predictors".
"""

from __future__ import annotations

import zlib
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Float, Int, Num

from metalearn.errors import unknown_name
from metalearn_models.losses.scaling import robust_scale
from metalearn_models.losses.search.population import LossTask
from metalearn_models.networks.mlp import mlp
from metalearn_tasks.datasets.generated import generate

__all__ = ["CleanSplits", "Unit", "clean_splits", "loss_task", "names"]

Unit = Literal["clean", "deviation", "robust"]
"""Of the targets of regression: the standard deviation of the targets without corruption, which no user knows; that of
the training targets as they are; or their `robust_scale`."""

_SHIFT = (3.0, 8.0)  # least and largest shift of a target, in standard deviations of the clean training targets
_SHARE_UPWARD = 0.8  # share of the shifted targets whose shift is upward
_GENERATED = (250, 400, 1000)  # train, validation and test examples of the Friedman functions
_REGRESSION = ("diabetes", "friedman1", "friedman2", "friedman3")
_CLASSES = MappingProxyType(
    {
        "digits": tuple(range(10)),
        "digits-low": tuple(range(5)),
        "digits-low-turned": tuple(range(10)),
        "digits-high": tuple(range(5, 10)),
        "wine": (0, 1, 2),
        "breast_cancer": (0, 1),
        "iris": (0, 1, 2),
        **{f"{kind}-{k}": tuple(range(k)) for kind, k in (("mixture", 100), ("template", 100), ("template", 1000))},
    }
)
_Labels = Float[np.ndarray, " N"] | Int[np.ndarray, " N"]


class CleanSplits(NamedTuple):
    """Disjoint, standardised examples without corruption, each split a pair of inputs and labels.

    Attributes:
        train: `(x[N, D], y[N])`; x float32; y float32 targets or int32 classes.
        valid: the same for validation.
        test: the same for testing.
    """

    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def names() -> tuple[str, ...]:
    """List the names that `loss_task` knows: the regression tasks, then the classification tasks."""
    return (*_REGRESSION, *_CLASSES)


def loss_task(
    name: str, noise: float = 0.0, hidden: tuple[int, ...] = (32,), seed: int = 0, unit: Unit = "clean"
) -> LossTask:
    """Make a task for losses: a data set with corrupted training labels, and a ReLU network to train on it.

    Args:
        name: one of `names()`. mixture-100, template-100 and template-1000 are generated, with that many classes.
            digits-low has the digits 0 to 4 and digits-high 5 to 9, both as classes 0 to 4.
            digits-low-turned also has the digits 0 to 4 only, half of them turned by a right angle, as classes 5 to
            9: ten classes without an image of a digit above 4.
        noise: share of the training labels that is corrupted, in [0, 1). Regression: targets are shifted by 3 to 8
            standard deviations, uniformly, four of five upward. Classification: labels are replaced by a class drawn
            uniformly from all, the right one included, so with C classes a share noise (C - 1) / C becomes wrong.
            Validation labels stay clean.
        hidden: widths of the network's hidden layers.
        seed: seed of the split, the generated examples and the noise.
        unit: regression only: in which unit the targets are given to the loss, and which errors are measured in.
            "deviation" also subtracts the mean of the training targets, "robust" their median, as a user would who
            does not know which of them are shifted.

    Returns:
        The task. With the unit "clean", its test examples are `clean_splits(name, seed).test`.

    Raises:
        UnknownNameError: no such task.
        ValueError: noise outside [0, 1), a negative seed, a width that is not positive, or a unit for classes.
    """
    if not 0 <= noise < 1:
        raise ValueError(f"noise must be a share of the training labels in [0, 1), got {noise}")
    if unit != "clean" and name not in _REGRESSION:
        raise ValueError(f'unit is for targets of regression ({", ".join(_REGRESSION)}), got "{unit}" for {name}')
    splits = clean_splits(name, seed)
    x, y = splits.train
    rng = _generator(name, seed, "noise")
    hit = rng.permutation(len(y))[: round(noise * len(y))]
    y = y.copy()
    if name in _REGRESSION:
        sign = np.where(np.arange(len(hit)) < round(_SHARE_UPWARD * len(hit)), 1, -1)
        y[hit] += (sign * rng.uniform(*_SHIFT, len(hit))).astype(np.float32)
    else:
        y[hit] = rng.integers(len(_CLASSES[name]), size=len(hit))
    valid = splits.valid
    if unit != "clean":
        middle, scale = (np.median(y), robust_scale(y)) if unit == "robust" else (y.mean(), y.std())
        y, valid = ((v - middle) / scale for v in (y, valid[1]))
        y, valid = np.asarray(y, np.float32), (splits.valid[0], np.asarray(valid, np.float32))
    outputs = 1 if name in _REGRESSION else len(_CLASSES[name])
    network = mlp(x.shape[1], hidden, outputs)
    kind = "regression" if name in _REGRESSION else "classification"
    return LossTask(name, (x, y), valid, kind, outputs, network.init, jax.vmap(network.apply, (None, 0)))


def clean_splits(name: str, seed: int = 0) -> CleanSplits:
    """Make the three splits of a task without noise, standardised by the statistics of the training examples.

    Half of the examples are for training, a quarter each for validation and test. The Friedman functions generate as
    many examples as asked for: 250, 400 and 1000; friedman1 has noise of standard deviation 1, the other two have
    none. Inputs and real targets are standardised by column, the pixels of digits by one mean and one deviation.

    Args:
        name: one of `names()`.
        seed: seed of the split and of the generated examples.

    Raises:
        UnknownNameError: no such task.
        ValueError: a negative seed.
    """
    if name not in names():
        raise unknown_name("task", name, names())
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if name.startswith(("mixture", "template")):
        return CleanSplits(*generate(name, seed)[1])
    x, y = _read_examples(name, seed)
    order = _generator(name, seed, "split").permutation(len(y))
    train, valid, _ = _GENERATED if name.startswith("friedman") else (len(y) // 2, len(y) // 4, 0)
    x, y = x[order], y[order]
    axis = None if name.startswith("digits") else 0
    x = _standardise(x, train, axis)
    y = _standardise(y, train, 0).astype(np.float32) if name in _REGRESSION else y.astype(np.int32)
    parts = (slice(0, train), slice(train, train + valid), slice(train + valid, None))
    return CleanSplits(*((x[part].astype(np.float32), y[part]) for part in parts))


def _standardise(values: Num[np.ndarray, "N *D"], train: int, axis: int | None) -> Float[np.ndarray, "N *D"]:
    """Standardise by the statistics of the first `train` rows, per column (axis 0) or over everything (None)."""
    known = values[:train].astype(np.float64)
    deviation = known.std(axis)
    return (values - known.mean(axis)) / np.where(deviation > 0, deviation, 1)


def _read_examples(name: str, seed: int) -> tuple[Float[np.ndarray, "N D"], _Labels]:
    """All examples as their source has them, with classes renumbered from 0."""
    from sklearn import datasets  # Imported late: it is slow, and only some callers need it.

    if name.startswith("friedman"):
        make = getattr(datasets, f"make_{name}")
        state = int(_generator(name, seed, "examples").integers(2**31))
        return make(sum(_GENERATED), noise=1.0 if name == "friedman1" else 0.0, random_state=state)
    data = getattr(datasets, f"load_{name.split('-')[0]}")()
    x, first = np.unique(np.asarray(data.data), axis=0, return_index=True)  # iris has one flower twice.
    y = np.asarray(data.target)[first]
    if name in _REGRESSION:
        return x, y
    kept = np.isin(y, _CLASSES[name.removesuffix("-turned")])
    x, y = x[kept], np.searchsorted(_CLASSES[name], y[kept])
    if name.endswith("-turned"):
        turned = _generator(name, seed, "turned").permutation(len(y))[: len(y) // 2]
        pixels = rearrange(x[turned], "n (h w) -> n h w", h=8)
        x[turned] = rearrange(np.rot90(pixels, axes=(1, 2)), "n h w -> n (h w)")
        y[turned] += 5
    return x, y


def _generator(name: str, seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(f"{name} {purpose}".encode()), seed])
