"""Small data sets with corrupted training labels, on which loss functions are searched for and compared.

Three splits each: train, which alone is corrupted; validation, by which a loss is judged in a search; test, for what is
reported. No example is in two of them. friedman1 to friedman3 are the generators of Friedman, "Multivariate Adaptive
Regression Splines" (1991), and Breiman, "Bagging Predictors" (1996), as scikit-learn has them; corrupting the training
labels only is the protocol of Gao, Gouk, Hospedales, "Searching for Robustness" (2021, arXiv 2103.00243).
"""

from __future__ import annotations

import zlib
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Num

from metalearn.errors import unknown_name
from metalearn_models.losses.search.population import LossTask
from metalearn_models.networks.mlp import relu_network

SHIFT = (3.0, 8.0)  # standard deviations of the clean training targets
UPWARD = 0.8  # of the shifted targets
_GENERATED = (250, 400, 1000)  # train, validation, test examples of the Friedman functions
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
    }
)


class Splits(NamedTuple):
    """Clean, disjoint and standardised examples, each split `(x[N, D] float32, y[N])`; y float32, or int32 classes."""

    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def names() -> tuple[str, ...]:
    """Names that `loss_task` knows: the regression tasks, then the classification tasks."""
    return (*_REGRESSION, *_CLASSES)


def loss_task(name: str, noise: float = 0.0, hidden: tuple[int, ...] = (32,), seed: int = 0) -> LossTask:
    """A data set with corrupted training labels, and a ReLU network.

    Args:
        name: one of `names()`; digits-low has the digits 0 to 4, digits-high 5 to 9, as classes 0 to 4;
            digits-low-turned has the digits 0 to 4 too, half of them turned by a right angle, as classes 5 to 9: many
            classes without any image of a digit above 4.
        noise: share of the training labels that is corrupted, in [0, 1). Regression: shifted by 3 to 8 standard
            deviations, uniformly, four of five upward. Classification: replaced by a class drawn uniformly from all,
            its own included (so with C classes a share noise (C - 1) / C becomes wrong). Validation labels stay clean.
        hidden: widths of the network's hidden layers.
        seed: of split, generated examples and noise.

    Returns:
        The task; its test examples are `test_split(name, seed)`.

    Raises:
        UnknownNameError: no such task.
        ValueError: noise outside [0, 1), a negative seed, or a width that is not positive.
    """
    if not 0 <= noise < 1:
        raise ValueError(f"noise is a share of the training labels, in [0, 1), got {noise}")
    splits = clean_splits(name, seed)
    x, y = splits.train
    rng = _generator(name, seed, "noise")
    hit = rng.permutation(len(y))[: round(noise * len(y))]
    y = y.copy()
    if name in _REGRESSION:
        sign = np.where(np.arange(len(hit)) < round(UPWARD * len(hit)), 1, -1)
        y[hit] += (sign * rng.uniform(*SHIFT, len(hit))).astype(np.float32)
    else:
        y[hit] = rng.integers(len(_CLASSES[name]), size=len(hit))
    outputs = 1 if name in _REGRESSION else len(_CLASSES[name])
    network = relu_network(x.shape[1], hidden, outputs)
    kind = "regression" if name in _REGRESSION else "classification"
    return LossTask(name, (x, y), splits.valid, kind, outputs, network.init, jax.vmap(network.apply, (None, 0)))


def test_split(name: str, seed: int) -> tuple[Float[np.ndarray, "N D"], Num[np.ndarray, " N"]]:
    """Clean examples that are in neither the train nor the validation split of `loss_task(name, seed=seed)`."""
    return clean_splits(name, seed).test


test_split.__test__ = False  # type: ignore[attr-defined]  # no test, though pytest goes by the name


def clean_splits(name: str, seed: int = 0) -> Splits:
    """All three splits without noise, standardised by the statistics of the clean training examples.

    Half of the examples for training, a quarter each for validation and test; the Friedman functions, which have as
    many examples as one likes (friedman1 with noise of standard deviation 1, the other two without): 250, 400, 1000.
    Inputs and real targets are standardised column by column; the pixels of digits by one mean and one deviation.

    Raises:
        UnknownNameError: no such task.
        ValueError: a negative seed.
    """
    if name not in names():
        raise unknown_name("task", name, names())
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    x, y = _examples(name, seed)
    order = _generator(name, seed, "split").permutation(len(y))
    train, valid, _ = _GENERATED if name.startswith("friedman") else (len(y) // 2, len(y) // 4, 0)
    x, y = x[order], y[order]
    axis = None if name.startswith("digits") else 0
    x = _standardised(x, train, axis)
    y = _standardised(y, train, 0).astype(np.float32) if name in _REGRESSION else y.astype(np.int32)
    parts = (slice(0, train), slice(train, train + valid), slice(train + valid, None))
    return Splits(*((x[part].astype(np.float32), y[part]) for part in parts))


def _standardised(values: np.ndarray, train: int, axis: int | None) -> np.ndarray:
    known = values[:train].astype(np.float64)
    deviation = known.std(axis)
    return (values - known.mean(axis)) / np.where(deviation > 0, deviation, 1)


def _examples(name: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """All examples as their source gives them, classes renumbered from 0."""
    from sklearn import datasets  # imported late: slow, and only some users need it

    if name.startswith("friedman"):
        make = getattr(datasets, f"make_{name}")
        state = int(_generator(name, seed, "examples").integers(2**31))
        return make(sum(_GENERATED), noise=1.0 if name == "friedman1" else 0.0, random_state=state)
    data = getattr(datasets, f"load_{name.split('-')[0]}")()
    x, first = np.unique(np.asarray(data.data), axis=0, return_index=True)  # iris holds one flower twice
    y = np.asarray(data.target)[first]
    if name in _REGRESSION:
        return x, y
    kept = np.isin(y, _CLASSES[name.removesuffix("-turned")])
    x, y = x[kept], np.searchsorted(_CLASSES[name], y[kept])
    if name.endswith("-turned"):
        turned = _generator(name, seed, "turned").permutation(len(y))[: len(y) // 2]
        x[turned] = np.rot90(x[turned].reshape(-1, 8, 8), axes=(1, 2)).reshape(-1, 64)
        y[turned] += 5
    return x, y


def _generator(name: str, seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(f"{name} {purpose}".encode()), seed])
