"""Families of tasks by name: the one table that recipes and the command line read.

To add a family, write a frozen configuration, a function that makes a `TaskSource` of it, and an entry in `FAMILIES`.
Nothing else needs to know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from metalearn.errors import unknown_name
from metalearn.learner import Family, Signature
from metalearn_tasks.datasets import Dataset
from metalearn_tasks.families.projected import (
    ProjectedConfig,
    ProjectedData,
    anneal,
    projected,
    projected_data,
    unprojected,
)
from metalearn_tasks.families.regression import RegressionConfig, regression
from metalearn_tasks.families.synthetic import SyntheticConfig, synthetic
from metalearn_tasks.families.tables.family import TablesFamilyConfig, draw_pool, tables
from metalearn_tasks.families.testbed import TestbedConfig, testbed

__all__ = ["FAMILIES", "FamilyEntry", "TaskSource", "entry_of", "family_entry", "names"]


class TaskSource(NamedTuple):
    """A family of tasks with the data that its tasks are made from.

    Attributes:
        family: the distribution of tasks.
        data: its `data`, of training examples; `()` for a family that makes its own.
        test_data: the same of held-out examples.
        seen_data: held-out examples for the tasks that were met in meta-training: equal to `test_data` but for what
            belongs to the tasks, such as how many of them permute their labels.
        chance: accuracy of guessing; None in regression.
        schedule: `(data, outer_step) -> data`, changes of `data` during meta-training; None: there are none.
    """

    family: Family
    data: Any
    test_data: Any
    seen_data: Any
    chance: float | None
    schedule: Callable[[Any, Array], Any] | None = None


class FamilyEntry(NamedTuple):
    """A named family.

    Attributes:
        name: of the family.
        config: the class of its configuration, a frozen dataclass with at least `length`, `num_tasks` and `seed`.
        build: `(config, dataset) -> TaskSource`; `dataset` is None unless `over_data`.
        description: one line for people.
        over_data: whether the tasks are made from a data set.
        regression: whether labels are real numbers, so that scores are errors.
        title: `(config) -> text`, what its tasks are called in pictures and file names; None: the family's name.
        transfer: `(config, dataset, signature) -> TaskSource`, tasks over another data set for a learner with this
            signature. None: the family has no data set to exchange.
        identity: `(config, dataset) -> (family, {name: data})`, the data set as it is, without random maps, as named
            variants whose tasks are `family.unseen`. None: there is no such task.
    """

    name: str
    config: type
    build: Callable[[Any, Any], TaskSource]
    description: str
    over_data: bool
    regression: bool = False
    title: Callable[[Any], str] | None = None
    transfer: Callable[[Any, Dataset, Signature], TaskSource] | None = None
    identity: Callable[[Any, Dataset], tuple[Family, dict[str, Any]]] | None = None


def _build_projected(config: ProjectedConfig, dataset: Dataset) -> TaskSource:
    for split, (inputs, _) in (("training", dataset.train), ("held-out", dataset.test)):
        if len(inputs) < config.length and not config.repeats:
            raise ValueError(
                f"a sequence of {config.length} different examples cannot be drawn from the {len(inputs)} {split} "
                f"examples of {dataset.name}: lower --family.length, take more data, or draw some again with "
                "--family.repeats"
            )
    data = _with_task_numbers(projected_data(*dataset.train, config.permute_prob), config)
    test_data = _with_task_numbers(projected_data(*dataset.test), config)
    return TaskSource(
        projected(dataset.inputs, dataset.classes, config),
        data,
        test_data,
        test_data._replace(permute_prob=data.permute_prob),  # a task met unpermuted is scored unpermuted
        1.0 / dataset.classes,
        anneal(config) if config.anneal_steps else None,
    )


def _with_task_numbers(data: ProjectedData, config: ProjectedConfig) -> ProjectedData:
    # As data, so that runs with other seeds and numbers of tasks find their programs in JAX's compilation cache.
    count = None if config.num_tasks is None else jnp.int32(config.num_tasks)
    return data._replace(num_tasks=count, seed=jnp.uint32(config.seed % 2**32))  # the bits that `jax.random.key` takes


def _transfer_projected(config: ProjectedConfig, dataset: Dataset, signature: Signature) -> TaskSource:
    # A small set gives shorter sequences, so that each example still comes at most once.
    length = config.length if config.repeats else min(config.length, len(dataset.test.labels))
    config = dataclasses.replace(config, project_to=signature.inputs, length=length)
    family = projected(dataset.inputs, dataset.classes, config)
    test_data = projected_data(*dataset.test)
    return TaskSource(family, projected_data(*dataset.train), test_data, test_data, 1.0 / dataset.classes)


def _identity_projected(config: ProjectedConfig, dataset: Dataset) -> tuple[Family, dict[str, Any]]:
    length = config.length if config.repeats else min(config.length, len(dataset.test.labels))
    config = dataclasses.replace(config, project_to=None, length=length)
    permuted = projected_data(*dataset.test)
    return unprojected(dataset.inputs, dataset.classes, config), {
        "identity": permuted,
        "identity, labels as they are": permuted._replace(permute_prob=jnp.float32(0)),
    }


def _build_regression(config: RegressionConfig, dataset: None) -> TaskSource:
    del dataset
    return TaskSource(regression(config), (), (), (), None)


def _build_synthetic(config: SyntheticConfig, dataset: None) -> TaskSource:
    del dataset
    return TaskSource(synthetic(config), (), (), (), 1.0 / config.classes)


def _build_tables(config: TablesFamilyConfig, dataset: None) -> TaskSource:
    del dataset
    pool = draw_pool(config)
    return TaskSource(tables(config), pool, draw_pool(config, held_out=True), pool, 1.0 / config.classes)


def _build_testbed(config: TestbedConfig, dataset: None) -> TaskSource:
    del dataset
    return TaskSource(testbed(config), (), (), (), 1.0 / config.classes)


_ENTRIES = (
    FamilyEntry(
        "projected",
        ProjectedConfig,
        _build_projected,
        "randomly projected classification over a data set (Kirsch et al. 2022)",
        over_data=True,
        transfer=_transfer_projected,
        identity=_identity_projected,
    ),
    FamilyEntry(
        "regression",
        RegressionConfig,
        _build_regression,
        "linear, sparse, sinusoid, network, tree (Garg et al. 2022; Finn et al. 2017)",
        over_data=False,
        regression=True,
        title=lambda config: config.kind,
    ),
    FamilyEntry(
        "synthetic",
        SyntheticConfig,
        _build_synthetic,
        "synthetic tables of 2 to 10 classes, in the spirit of TabPFN (Hollmann et al. 2022)",
        over_data=False,
    ),
    FamilyEntry(
        "tables",
        TablesFamilyConfig,
        _build_tables,
        "tables from causal models, functions and clusters, drawn ahead (after Hollmann et al. 2022)",
        over_data=False,
    ),
    FamilyEntry(
        "testbed",
        TestbedConfig,
        _build_testbed,
        "the neural testbed: labels of random networks at several temperatures (Osband et al. 2022)",
        over_data=False,
    ),
)
FAMILIES: dict[str, FamilyEntry] = {entry.name: entry for entry in _ENTRIES}
"""All families by name."""


def names() -> tuple[str, ...]:
    """The names of all families."""
    return tuple(FAMILIES)


def family_entry(name: str) -> FamilyEntry:
    """The entry of a family.

    Raises:
        UnknownNameError: with the nearest names.
    """
    if name not in FAMILIES:
        raise unknown_name("family of tasks", name, FAMILIES)
    return FAMILIES[name]


def entry_of(config: Any) -> FamilyEntry:
    """The entry of the family that a configuration belongs to.

    Raises:
        TypeError: it is the configuration of no family.
    """
    for entry in _ENTRIES:
        if type(config) is entry.config:
            return entry
    known = ", ".join(entry.config.__name__ for entry in _ENTRIES)
    raise TypeError(f"{type(config).__name__} is the configuration of no family of tasks: take one of {known}")
