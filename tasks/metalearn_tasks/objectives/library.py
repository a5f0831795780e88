"""Objectives by name, with the data they are over: what `metalearn train-optimizer --objective NAME` can be given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metalearn.errors import unknown_name
from metalearn_tasks.datasets.load import Dataset, Split, load
from metalearn_tasks.objectives.classification import conv_classification, mlp_classification, two_moons
from metalearn_tasks.objectives.functions import quadratic, rosenbrock
from metalearn_tasks.objectives.nqm import noisy_quadratic
from metalearn_tasks.objectives.objective import Objective
from metalearn_tasks.objectives.regression import linear_regression


class NamedObjective(NamedTuple):
    """An objective and its data.

    Attributes:
        objective: what is minimised.
        data: what it is over, training examples where there are any; `()` where it needs none.
        length: steps of a training run, where nobody says otherwise.
    """

    objective: Objective
    data: Any
    length: int


class Entry(NamedTuple):
    """A named objective: how it is made, from a data set where it is over one, and a line for people."""

    make: Callable[..., NamedObjective]
    description: str
    over_data: bool


def _mlp(dataset: Dataset) -> NamedObjective:
    objective = mlp_classification(dataset.inputs, 32, dataset.classes)
    return NamedObjective(objective, _on_device(dataset.train), 500)


def _sigmoid_mlp(dataset: Dataset) -> NamedObjective:
    objective = mlp_classification(dataset.inputs, 20, dataset.classes, 128, jax.nn.sigmoid, scale=0.1)
    return NamedObjective(objective, _on_device(dataset.train), 100)


def _conv(dataset: Dataset) -> NamedObjective:
    if len(dataset.shape) < 2:
        raise ValueError(f"a convolutional network needs images, {dataset.name} has none")
    objective = conv_classification(dataset.shape, (8, 16), dataset.classes)
    return NamedObjective(objective, _on_device(dataset.train), 500)


def _on_device(split: Split) -> Split:
    return jax.tree.map(jnp.asarray, split)


OBJECTIVES: dict[str, Entry] = {
    "quadratic": Entry(
        lambda: NamedObjective(quadratic(10), (), 100),
        "random, 10 dimensions (Andrychowicz et al. 2016)",
        False,
    ),
    "noisy-quadratic": Entry(
        lambda: NamedObjective(noisy_quadratic(10), (), 200),
        "random, 10 dimensions, moving targets (Harrison et al. 2022)",
        False,
    ),
    "rosenbrock": Entry(lambda: NamedObjective(rosenbrock(2), (), 500), "the curved valley, from random starts", False),
    "regression": Entry(
        lambda: NamedObjective(linear_regression(), (), 200),
        "linear, random (Maheswaranathan et al. 2020)",
        False,
    ),
    "moons": Entry(lambda: NamedObjective(two_moons(), (), 500), "two moons, a network of 32 32 tanh units", False),
    "mlp": Entry(_mlp, "a hidden layer of 32 ReLU units, batches of 64 (Metz et al. 2022)", True),
    "sigmoid-mlp": Entry(
        _sigmoid_mlp, "a hidden layer of 20 sigmoid units, batches of 128 (Andrychowicz et al. 2016)", True
    ),
    "conv": Entry(_conv, "two convolutions of 8 and 16 channels, batches of 64", True),
}
"""Objectives over data are called `NAME-DATA`: `mlp-digits`, `conv-mnist`."""


def named_objective(name: str, size: int | None = None, data_dir: str | None = None) -> NamedObjective:
    """The objective of a name.

    Args:
        name: one of `OBJECTIVES`, with `-DATA` after it where it is over a data set: any name or prepared folder that
            `metalearn_tasks.datasets.load.load` knows.
        size: images are resized to size x size; None: left as they are.
        data_dir: where tensorflow-datasets keeps its prepared sets; None: its own default.

    Raises:
        UnknownNameError: no such objective or data set.
        ValueError: a data set where none is wanted, or none where one is.
        DataNotPreparedError: the data set is not on this machine.
    """
    if name in OBJECTIVES:
        if OBJECTIVES[name].over_data:
            raise ValueError(f"{name} is over a data set: say which, as in {name}-digits")
        if size is not None or data_dir is not None:
            raise ValueError(f"{name} has no images to resize and no data to find: leave size and data_dir out")
        return OBJECTIVES[name].make()
    over_data = [n for n, entry in OBJECTIVES.items() if entry.over_data and name.startswith(f"{n}-")]
    if not over_data:
        raise unknown_name("objective", name, [f"{n}-DATA" if e.over_data else n for n, e in OBJECTIVES.items()])
    kind = over_data[0]
    return OBJECTIVES[kind].make(load(name.removeprefix(f"{kind}-"), size=size, data_dir=data_dir))
