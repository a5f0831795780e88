"""Scores of learners on a recipe's tasks, as curves, tables and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, PRNGKeyArray

from metalearn.curves import Curve, curve_scorer, last_positions, summarise
from metalearn.learner import Family, Learner
from metalearn.recipes.in_context.build import (
    Recipe,
)
from metalearn.recipes.in_context.config import TrainConfig
from metalearn.recipes.streams import stream
from metalearn_models.learners.registry import learner_entry
from metalearn_tasks.datasets.load import Dataset
from metalearn_tasks.families.projected import (
    ProjectedConfig,
    ProjectedData,
    projected_data,
    unprojected,
)

LAST = 10
"""The positions over which a curve is summed up in one number."""


def evaluations(recipe: Recipe) -> dict[str, tuple[Callable[..., Any], Any]]:
    """The tasks a learner is scored on while it is meta-trained: name -> (numbered task, data).

    "seen": tasks of meta-training with held-out examples, or, where every task is fresh, fresh tasks with
    training examples. "unseen": tasks meta-training never meets, held-out examples.
    """
    family = recipe.family
    if family.seen is not None:
        seen = recipe.test_data
        if isinstance(seen, ProjectedData):  # the very tasks that were met, permuted only where they were
            seen = seen._replace(permute_prob=recipe.data.permute_prob)
        return {"seen": (family.seen, seen), "unseen": (family.unseen, recipe.test_data)}

    def training(key: PRNGKeyArray, data: Any, index: Array) -> Any:
        return family.sample(data, jax.random.fold_in(key, index))

    # Bound, not closed over: a program for all seeds.
    drawn = Partial(training, stream(recipe.config.seed, "training tasks"))
    return {"training": (drawn, recipe.data), "unseen": (family.unseen, recipe.test_data)}


def learner_scorers(recipe: Recipe) -> dict[str, Callable[[Any], np.ndarray]]:
    """For each kind of task in `evaluations`, a compiled `theta -> scores[tasks, T]`, `tasks_to_score` of them."""
    config, key = recipe.config, stream(recipe.config.seed, "evaluation")

    def scorer(name: str, task: Callable[..., Any], data: Any) -> Callable[[Any], np.ndarray]:
        # Compiled for as many as asked for, whatever the number of tasks; rows beyond it repeat tasks and are dropped.
        score = curve_scorer(recipe.learner, recipe.family, task, config.eval_tasks, config.eval_sequences)
        rows = tasks_to_score(name, config.eval_tasks, config)
        return lambda theta: np.asarray(score(theta, data, key))[:rows]

    return {name: scorer(name, task, data) for name, (task, data) in evaluations(recipe).items()}


def tasks_to_score(name: str, tasks: int, config: TrainConfig) -> int:
    """As many tasks as asked for, but no more seen ones than there are: an interval must not count one twice."""
    return min(tasks, config.family.num_tasks) if name == "seen" and config.family.num_tasks else tasks


def score_learner(
    learner: Learner,
    theta: Any,
    family: Family,
    kinds: dict[str, tuple[Callable[..., Any], Any]],
    tasks: int,
    sequences: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Scores [tasks, T] of a learner on each kind of task: name -> (numbered task, data)."""
    key = stream(seed, "evaluation")
    return {
        name: np.asarray(curve_scorer(learner, family, task, tasks, sequences)(theta, data, key))
        for name, (task, data) in kinds.items()
    }


def check_references(names: Sequence[str]) -> None:
    """Refuse names that are no reference learners.

    Raises:
        UnknownNameError: with the nearest names.
        ValueError: for a learner that would need meta-training.
    """
    for name in names:
        if learner_entry(name).meta_learned:
            raise ValueError(f"{name} needs meta-training; reference learners are those that need none")


def score_references(
    names: Sequence[str], family: Family, data: Any, tasks: int, sequences: int, seed: int
) -> dict[str, np.ndarray]:
    """Scores [tasks, T] of reference learners on unseen tasks, on the episodes that `score_learner` draws.

    A reference learner that only knows classes is left out in regression. Errors are `check_references`'s.
    """
    check_references(names)
    scores = {}
    for name in names:
        entry = learner_entry(name)
        if family.signature.regression and name in ("centroid", "logistic"):
            continue
        learner = entry.build(family.signature, entry.config())
        kinds = {f"reference: {name}": (family.unseen, data)}
        theta = learner.init(stream(seed, "reference"))
        scores.update(score_learner(learner, theta, family, kinds, tasks, sequences, seed))
    return scores


def identity_kinds(dataset: Dataset, config: ProjectedConfig) -> tuple[Family, dict[str, Any]]:
    """The unprojected tasks of a data set, labels permuted and not, as kinds for `score_learner`."""
    family = unprojected(dataset.inputs, dataset.classes, config)
    permuted = projected_data(*dataset.test)
    return family, {
        "identity": (family.unseen, permuted),
        "identity, labels as they are": (family.unseen, permuted._replace(permute_prob=jnp.float32(0))),
    }


def curves(scores: dict[str, Any]) -> dict[str, Curve]:
    """Means and intervals of scores [tasks, T]."""
    return {name: summarise(value) for name, value in scores.items()}


def curves_as_json(scores: dict[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """The same as JSON values: mean, low and high of each curve; null where one task gives no interval."""

    def numbers(row: np.ndarray) -> list[float | None]:
        return [float(x) if np.isfinite(x) else None for x in row]

    return {name: {field: numbers(row) for field, row in c._asdict().items()} for name, c in curves(scores).items()}


def table(scores: dict[str, Any], regression: bool) -> str:
    """The result as text: one row a learner, the score with its 95 % interval after n examples."""
    length = next(iter(scores.values())).shape[1]
    columns = [n for n in (1, 10, 20, 40, 99) if n < length]
    title = "squared error" if regression else "accuracy"
    header = f"{title + ' after n examples':<34}" + "".join(f"{'n=' + str(n):>15}" for n in columns)
    rows = [header + f"{'last ' + str(min(LAST, length)):>15}"]
    for name, value in scores.items():
        curve, (mean, half) = summarise(value), last_positions(value, LAST)
        cells = [f"{curve.mean[n]:.3f} ± {curve.high[n] - curve.mean[n]:.3f}" for n in columns]
        rows.append(f"{name:<34}" + "".join(f"{c:>15}" for c in [*cells, f"{mean:.3f} ± {half:.3f}"]))
    return "\n".join(rows)
