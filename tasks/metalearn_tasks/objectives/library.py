"""Objectives by name, with their data: the values of `metalearn train-optimizer --objective NAME`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.errors import unknown_name
from metalearn_models.networks.attention import attention
from metalearn_tasks import datasets
from metalearn_tasks.datasets import Dataset, Split
from metalearn_tasks.objectives.classification import (
    classification,
    conv_classification,
    mlp_classification,
    two_moons,
)
from metalearn_tasks.objectives.functions import quadratic, rosenbrock
from metalearn_tasks.objectives.nqm import noisy_quadratic
from metalearn_tasks.objectives.objective import Objective
from metalearn_tasks.objectives.regression import linear_regression

__all__ = ["NamedObjective", "load", "names"]


class NamedObjective(NamedTuple):
    """An objective and its data.

    Attributes:
        objective: what is minimised.
        data: the training examples the objective is over, on the device; `()` if it needs none.
        length: default number of steps of a training run.
    """

    objective: Objective
    data: Any
    length: int


def names() -> dict[str, str]:
    """List the objectives that `load` knows, as name -> description; DATA in a name stands for a data set."""
    return {name: description for name, (_, description) in _OBJECTIVES.items()} | {
        f"{name}-DATA": description for name, (_, description) in _OBJECTIVES_OVER_DATA.items()
    }


def load(name: str, size: int | None = None, data_dir: str | None = None) -> NamedObjective:
    """Load an objective by name, with its data.

    Args:
        name: one of `names()`, such as `quadratic`. DATA is any name or prepared folder that
            `metalearn_tasks.datasets.load` knows, as in `mlp-digits` or `conv-mnist`.
        size: height and width to which images are resized. None: no resize.
        data_dir: where tensorflow-datasets keeps its prepared sets. None: its own default.

    Raises:
        UnknownNameError: no such objective or data set.
        ValueError: a data set, or an option for one, where the objective needs none; or none where it needs one.
        DataNotPreparedError: the data set is not on this machine.
    """
    if not isinstance(name, str):
        raise unknown_name("objective", name, names())
    if name in _OBJECTIVES:
        if size is not None or data_dir is not None:
            raise ValueError(f"size and data_dir must be None for {name}, which has no data set")
        make, _ = _OBJECTIVES[name]
        return make()
    if name in _OBJECTIVES_OVER_DATA:
        raise ValueError(f"{name} needs a data set in its name, such as {name}-digits")
    for kind, (make_over, _) in _OBJECTIVES_OVER_DATA.items():
        if name.startswith(f"{kind}-"):
            return make_over(datasets.load(name.removeprefix(f"{kind}-"), size=size, data_dir=data_dir))
    raise unknown_name("objective", name, names())


def _mlp(dataset: Dataset) -> NamedObjective:
    objective = mlp_classification(dataset.inputs, 32, dataset.classes)
    return NamedObjective(objective, _put_on_device(dataset.train), 500)


def _sigmoid_mlp(dataset: Dataset) -> NamedObjective:
    objective = mlp_classification(dataset.inputs, 20, dataset.classes, 128, jax.nn.sigmoid, scale=0.1)
    return NamedObjective(objective, _put_on_device(dataset.train), 100)


def _deep_mlp(dataset: Dataset) -> NamedObjective:
    objective = mlp_classification(dataset.inputs, (24, 24, 24), dataset.classes, 32, jnp.tanh)
    return NamedObjective(objective, _put_on_device(dataset.train), 1000)


def _attention(dataset: Dataset) -> NamedObjective:
    if len(dataset.shape) < 2:
        raise ValueError(f"a Transformer reads the rows of images, got {dataset.name}, which has none")
    network = attention(dataset.shape[0], math.prod(dataset.shape[1:]), dataset.classes)
    return NamedObjective(classification(network, 32), _put_on_device(dataset.train), 1000)


def _conv(dataset: Dataset) -> NamedObjective:
    if len(dataset.shape) < 2:
        raise ValueError(f"a convolutional network needs images, got {dataset.name}, which has none")
    objective = conv_classification(dataset.shape, (8, 16), dataset.classes)
    return NamedObjective(objective, _put_on_device(dataset.train), 500)


def _put_on_device(split: Split) -> Split:
    return jax.tree.map(jnp.asarray, split)


_OBJECTIVES: Mapping[str, tuple[Callable[[], NamedObjective], str]] = MappingProxyType(
    {
        "quadratic": (
            lambda: NamedObjective(quadratic(10), (), 100),
            "random quadratics of 10 dimensions (Andrychowicz et al. 2016)",
        ),
        "noisy-quadratic": (
            lambda: NamedObjective(noisy_quadratic(10), (), 200),
            "random quadratics of 10 dimensions whose minimum moves at every step (Harrison et al. 2022)",
        ),
        "rosenbrock": (
            lambda: NamedObjective(rosenbrock(2), (), 500),
            "Rosenbrock's curved valley, from random starts",
        ),
        "regression": (
            lambda: NamedObjective(linear_regression(), (), 200),
            "random linear regression (Maheswaranathan et al. 2020)",
        ),
        "noisy-regression": (
            lambda: NamedObjective(linear_regression(batch=16, scale=0.1), (), 500),
            "random linear regression on batches of 16 examples",
        ),
        "moons": (
            lambda: NamedObjective(two_moons(), (), 500),
            "two moons, a network of two hidden layers of 32 tanh units",
        ),
    }
)
_OBJECTIVES_OVER_DATA: Mapping[str, tuple[Callable[[Dataset], NamedObjective], str]] = MappingProxyType(
    {
        "mlp": (_mlp, "one hidden layer of 32 ReLU units, batches of 64 (Metz et al. 2022)"),
        "sigmoid-mlp": (
            _sigmoid_mlp,
            "one hidden layer of 20 sigmoid units, batches of 128 (Andrychowicz et al. 2016)",
        ),
        "deep-mlp": (_deep_mlp, "three hidden layers of 24 tanh units, batches of 32"),
        "attention": (_attention, "a Transformer of one block and width 16 over the rows of images, batches of 32"),
        "conv": (_conv, "two convolutions of 8 and 16 channels, batches of 64"),
    }
)
