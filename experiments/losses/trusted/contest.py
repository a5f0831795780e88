"""Which way to search finds losses that are best elsewhere: four searches of equal budget with each of several seeds.

evolution breeds formulas, random draws them. enumeration draws from the list of all small losses whose weights do not
depend on the number of classes, and model chooses from that list by a model of those trained so far. Each trains as
many distinct losses, on the same data sets, splits, noise and networks. Data sets have 2 to 100 classes and 0 to
60 % of wrong labels; what counts is the mean logarithm of the error, so that each counts by ratios. Finalists are
judged on other splits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.losses.trusted.data import Noise, corrupt, read
from experiments.losses.trusted.training import Job, Shape, pad, train
from metalearn_models.losses.formulas import Expr, to_text
from metalearn_models.losses.search.config import SearchConfig, Strategy
from metalearn_models.losses.search.evolution import SEEDS, EvolutionConfig
from metalearn_models.losses.search.population import LossTask, Trainer, TrainingConfig
from metalearn_models.losses.search.search import search
from metalearn_models.losses.search.table import classification_table, gradient_cells
from metalearn_models.networks.mlp import mlp

__all__ = ["SEARCHED", "STRATEGIES", "find_loss", "shape_for", "tasks"]

STRATEGIES: tuple[Strategy, ...] = ("evolution", "random", "enumeration", "model")
SEARCHED: tuple[tuple[str, Noise, float], ...] = (
    ("wine", "symmetric", 0.6),
    ("mixture-2", "class-dependent", 0.3),
    ("digits-low", "class-dependent", 0.3),
    ("digits-low", "clean", 0.0),
    ("digits-low-turned", "symmetric", 0.3),
    ("pairs-low", "symmetric", 0.3),
    ("mixture-100", "symmetric", 0.3),
)
"""Data sets of a search with their noise and its share."""
RATES = (1e-3, 3e-3, 1e-2)
"""Learning rates of Adam in the searches, for each loss and data set the best. Comparisons have five from 1e-4 on."""


def shape_for(classes: int, steps: int) -> Shape:
    """The padded shape of data sets with so many classes: small ones need not pay for 100 classes."""
    if classes <= 10:
        return Shape(64, 10, 32, (512, 256, 700), steps)
    if classes <= 100:
        return Shape(128, 100, 64, (2000, 500, 1000), steps)
    return Shape(64, 1000, 64, (6000, 1500, 3000), steps, at_once=6)


def tasks(seed: int, limit: int) -> list[LossTask]:
    """The data sets of `SEARCHED` with the splits and the noise of one seed, as the search takes them.

    Args:
        seed: of splits and noise.
        limit: only the first so many.
    """
    found = []
    for name, noise, share in SEARCHED[:limit]:
        data = read(name, seed)
        labels = corrupt(data.train[1], data.classes, noise, share, seed)
        network = mlp(data.train[0].shape[1], (32,), data.classes)  # what trains is the padded network instead
        apply = jax.vmap(network.apply, (None, 0))
        train_part = (data.train[0], labels)
        found.append(
            LossTask(f"{name}, {noise}", train_part, data.valid, "classification", data.classes, network.init, apply)
        )
    return found


def padded_trainers(steps: int) -> Callable[[LossTask, TrainingConfig, Any], Trainer]:
    """A way to prepare trainings that shares two compiled programs and all results among the searches of a seed.

    Every second data set is given a network of two hidden layers.
    """
    known: dict[tuple[Any, ...], np.ndarray] = {}
    numbers: dict[int, int] = {}

    def prepare(task: LossTask, config: TrainingConfig, _: Any = None) -> Trainer:
        number = numbers.setdefault(id(task), len(numbers))
        shape = shape_for(task.outputs, steps)
        rows = pad([(_Whole(task), task.train[1], number % 2 == 1)], shape)

        def train_losses(losses: Sequence[Expr], keys: Any) -> np.ndarray:
            seeds = [int(s) for s in jax.vmap(jax.random.bits)(keys)]
            new = [one for one in losses if (number, to_text(one), *seeds) not in known]
            if new:
                cells = np.stack([gradient_cells(classification_table(one), "classification") for one in new])
                jobs = [Job(0, i, r, s) for i in range(len(new)) for r in config.learning_rates for s in seeds]
                errors = train(rows, cells, jobs, shape)[:, 0].reshape(len(new), -1, len(seeds))
                known.update({(number, to_text(one), *seeds): e for one, e in zip(new, errors, strict=True)})
            shown = [known[(number, to_text(one), *seeds)] for one in losses]
            return np.stack(shown) if shown else np.zeros((0, len(config.learning_rates), len(seeds)))

        return Trainer(train_losses, lambda: 1, 0.5 / len(task.valid[1]))

    return prepare


class _Whole:
    """A task in the form of a data set, without examples to test."""

    def __init__(self, task: LossTask) -> None:
        self.classes, self.train, self.valid, self.test = task.outputs, task.train, task.valid, task.valid


def find_loss(strategy: Strategy, seed: int, trained: int, population: int, steps: int, limit: int) -> str:
    """Search in one way with one seed; the formula of the best loss, as text.

    Args:
        strategy: how candidates are made.
        seed: of the search, its splits, noise and networks, which are the same for each strategy.
        trained: distinct losses that the search trains.
        population: losses per generation.
        steps: of each training.
        limit: only the first so many data sets.
    """
    evolution = EvolutionConfig(
        population=population,
        tournament=2,
        crossover=0.55,
        mutation=0.4,
        newcomers=0.25,
        seeds=SEEDS["classification"],
    )  # as in label_noise.py, since generations are few
    config = SearchConfig(
        evolution,
        TrainingConfig(steps=steps, seeds=1, learning_rates=RATES),
        generations=100,
        strategy=strategy,
        max_trained=trained,
        finalists=2,
        average="geometric",
        seed=seed,
    )
    searched, final = tasks(2 * seed, limit), tasks(2 * seed + 1, limit)
    result = search(searched, config, final_tasks=final, prepare=padded_trainers(steps))
    return to_text(result.best[0].expr)
