"""Scores of learners on a recipe's tasks, as curves, tables and JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
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
from metalearn_models.learners.registry import LEARNERS, learner_entry

__all__ = [
    "LAST",
    "check_references",
    "curves",
    "curves_as_json",
    "evaluations",
    "learner_scorers",
    "score_learner",
    "score_references",
    "table",
    "tasks_to_score",
]

LAST = 10
"""A curve is summed up by its mean over so many last positions."""


def evaluations(recipe: Recipe) -> dict[str, tuple[Callable[..., Any], Any]]:
    """The tasks a learner is scored on while it is meta-trained: name -> (numbered task, data).

    "seen": tasks of meta-training with held-out examples. If every task of meta-training is fresh, "training" takes its
    place: fresh tasks with training examples. "unseen": tasks that meta-training never meets, held-out examples.
    """
    family = recipe.family
    if family.seen is not None:
        return {"seen": (family.seen, recipe.seen_data), "unseen": (family.unseen, recipe.test_data)}

    def training(key: PRNGKeyArray, data: Any, index: Array) -> Any:
        return family.sample(data, jax.random.fold_in(key, index))

    # Bound, not closed over: a program for all seeds.
    drawn = Partial(training, stream(recipe.config.seed, "training tasks"))
    return {"training": (drawn, recipe.data), "unseen": (family.unseen, recipe.test_data)}


def learner_scorers(recipe: Recipe) -> dict[str, Callable[[Any], np.ndarray]]:
    """A compiled `theta -> scores[tasks, T]` for each kind of task in `evaluations`, with `tasks_to_score` tasks."""
    config, key = recipe.config, stream(recipe.config.seed, "evaluation")

    def scorer(name: str, task: Callable[..., Any], data: Any) -> Callable[[Any], np.ndarray]:
        # Compiled for as many tasks as asked for; rows that repeat a task, where there are fewer, are dropped.
        score = curve_scorer(recipe.learner, recipe.family, task, config.eval_tasks, config.eval_sequences)
        rows = tasks_to_score(name, config.eval_tasks, config)
        return lambda theta: np.asarray(score(theta, data, key))[:rows]

    return {name: scorer(name, task, data) for name, (task, data) in evaluations(recipe).items()}


def tasks_to_score(name: str, tasks: int, config: TrainConfig) -> int:
    """As many tasks as asked for, but at most as many seen tasks as there are: an interval must not count one twice."""
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
    """Refuse names that are not reference learners.

    Raises:
        UnknownNameError: with the nearest names.
        ValueError: for a learner that would need meta-training.
    """
    for name in names:
        if learner_entry(name).meta_learned:
            raise ValueError(
                f"--references takes learners that need no meta-training, and {name} needs it: take some of "
                f"{', '.join(n for n, e in LEARNERS.items() if not e.meta_learned)}"
            )


def score_references(
    names: Sequence[str], family: Family, data: Any, tasks: int, sequences: int, seed: int
) -> dict[str, np.ndarray]:
    """Scores [tasks, T] of reference learners on unseen tasks, on the episodes that `score_learner` draws.

    Reference learners that only predict classes are left out in regression. Errors are those of `check_references`.
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


def curves(scores: dict[str, Any]) -> dict[str, Curve]:
    """Means and intervals of scores [tasks, T]."""
    return {name: summarise(value) for name, value in scores.items()}


def curves_as_json(scores: dict[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """The same as JSON values: mean, low and high of each curve; null if a single task gives no interval."""

    def numbers(row: np.ndarray) -> list[float | None]:
        return [float(x) if np.isfinite(x) else None for x in row]

    return {name: {field: numbers(row) for field, row in c._asdict().items()} for name, c in curves(scores).items()}


def table(scores: dict[str, Any], regression: bool) -> str:
    """The result as text: one row per learner, the score after n examples with its 95 % interval, and a legend."""
    length = next(iter(scores.values())).shape[1]
    columns = [n for n in (1, 10, 20, 40, 99) if n < length]
    title = "squared error" if regression else "accuracy"
    header = f"{title + ' after n examples':<34}" + "".join(f"{'n=' + str(n):>15}" for n in columns)
    rows = [header + f"{'last ' + str(min(LAST, length)):>15}"]
    for name, value in scores.items():
        curve, (mean, half) = summarise(value), last_positions(value, LAST)
        cells = [_with_half(curve.mean[n], curve.high[n] - curve.mean[n]) for n in columns]
        rows.append(f"{name:<34}" + "".join(f"{c:>15}" for c in [*cells, _with_half(mean, half)]))
    counts = {name: len(value) for name, value in scores.items()}
    different = set(counts.values())
    each = ", ".join(f"{name}: {count}" for name, count in counts.items())
    only = different.pop() if len(different) == 1 else None
    tasks = f"tasks ({each})" if only is None else f"{only} task{'s' * (only != 1)}"
    last = min(LAST, length)
    rows.append(
        f"\nmean ± half of its 95 % interval (Student's t) over {tasks}\n"
        f"last {last}: mean over the last {last} of {length} positions"
    )
    return "\n".join(rows)


def _with_half(mean: float, half: float) -> str:
    """A mean and half its interval; a single task gives no interval."""
    return f"{mean:.3f} ± {half:.3f}" if np.isfinite(half) else f"{mean:.3f}"
