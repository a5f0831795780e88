"""From a configuration to the parts it names: data, tasks, learner, outer loop, and their scores."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial
from jaxtyping import Array, PRNGKeyArray

from metalearn.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.cli.config import DataConfig, OptimizerConfig, TrainConfig, from_json
from metalearn.curves import Curve, curve_scorer, last_positions, summarise
from metalearn.errors import RunError
from metalearn.gradients import (
    Estimator,
    backprop,
    dense,
    full_es,
    lengthening,
    linear_growth,
    low_rank,
    nres,
    pes,
    scheduled,
    truncated_backprop,
    truncated_es,
)
from metalearn.inner import InnerLoop
from metalearn.learner import Family, Learner, inner_loop
from metalearn.outer import Outer, OuterState, local_mesh, outer
from metalearn.runs import open_run
from metalearn_models.registry import build_learner, learner_entry
from metalearn_tasks.datasets import Dataset, load
from metalearn_tasks.projected import ProjectedConfig, ProjectedData, anneal, projected, projected_data, unprojected
from metalearn_tasks.regression import RegressionConfig, regression

LAST = 10
"""The positions over which a curve is summed up in one number."""


class Recipe(NamedTuple):
    """What a configuration builds.

    Attributes:
        config: the configuration.
        family: the meta-training tasks.
        data: their `data`, of training examples.
        test_data: the same of held-out examples.
        learner: what is meta-trained.
        estimator: where its meta-gradients come from.
        chance: accuracy of guessing; None in regression.
    """

    config: TrainConfig
    family: Family
    data: Any
    test_data: Any
    learner: Learner
    estimator: Estimator
    chance: float | None


def load_data(config: DataConfig) -> Dataset:
    """The data set a configuration names, prepared as it says. Errors are `metalearn_tasks.datasets.load`'s."""
    return load(config.source, size=config.size, pca=config.pca, data_dir=config.data_dir)


def prepare(config: TrainConfig, dataset: Dataset | None = None) -> Recipe:
    """Build everything a configuration names.

    Args:
        config: the configuration.
        dataset: the examples, when they are at hand already; loaded otherwise.

    Raises:
        ValueError: parts that do not fit each other, or numbers out of range.
    """
    for name in ("tasks", "sequences", "steps_per_call", "eval_tasks", "eval_sequences"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if isinstance(config.task, RegressionConfig):
        family, data, test_data, chance = regression(config.task), (), (), None
    else:
        dataset = dataset or load_data(config.data)
        for split, (inputs, _) in (("training", dataset.train), ("held-out", dataset.test)):
            if len(inputs) < config.task.length:
                raise ValueError(
                    f"a sequence of {config.task.length} different examples cannot be drawn from the {len(inputs)} "
                    f"{split} examples of {dataset.name}: shorten task.length or take more data"
                )
        family = projected(dataset.inputs, dataset.classes, config.task)
        data = _numbered_by(projected_data(*dataset.train, config.task.permute_prob), config.task)
        test_data = _numbered_by(projected_data(*dataset.test), config.task)
        chance = 1.0 / dataset.classes
    learner = build_learner(family.signature, config.learner)
    loop = inner_loop(learner, family, config.sequences)
    estimator = _with_curriculum(loop, config) if config.curriculum.steps else meta_gradient(loop, config)
    if isinstance(config.task, ProjectedConfig) and config.task.anneal_steps:
        estimator = scheduled(estimator, anneal(config.task))
    return Recipe(config, family, data, test_data, learner, estimator, chance)


def _numbered_by(data: ProjectedData, task: ProjectedConfig) -> ProjectedData:
    # As data, so that runs of other seeds and numbers of tasks find their programs in JAX's compilation cache.
    count = None if task.num_tasks is None else jnp.int32(task.num_tasks)
    return data._replace(num_tasks=count, seed=jnp.uint32(task.seed % 2**32))  # the bits that `jax.random.key` takes


def _with_curriculum(loop: InnerLoop, config: TrainConfig) -> Estimator:
    first, steps, length = config.curriculum.first, config.curriculum.steps, config.task.length
    if not 1 <= first <= length or steps < 0:
        raise ValueError(
            f"a curriculum goes from 1 to {length} examples, the length of a sequence, in a positive number of steps; "
            f"got {first} examples at first and {steps} steps"
        )
    return lengthening(loop, lambda weighted: meta_gradient(weighted, config), linear_growth(first, length, steps))


def meta_gradient(loop: InnerLoop, config: TrainConfig) -> Estimator:
    """The estimator that a configuration names.

    Raises:
        ValueError: a window where there is none or none where there must be one, or numbers that do not fit.
    """
    method, window, tasks = config.gradient.method, config.window, config.tasks
    if method == "backprop":
        return backprop(loop, tasks) if window is None else truncated_backprop(loop, tasks, window)
    pairs = config.gradient.pairs or tasks
    if tasks % pairs:
        raise ValueError(f"{tasks} tasks cannot be divided evenly among {pairs} pairs: make tasks a multiple of them")
    noise = dense if config.gradient.rank is None else low_rank(config.gradient.rank)
    if method == "es":
        if window is not None:
            raise ValueError(f"es updates after whole sequences: leave out --window {window}, or choose nres or pes")
        return full_es(loop, config.gradient.sigma, pairs, noise=noise, tasks=tasks // pairs)
    if window is None:
        raise ValueError(f"{method} updates every few examples: say after how many with --window")
    online = {"nres": nres, "pes": pes, "truncated-es": truncated_es}[method]
    return online(loop, config.gradient.sigma, pairs, window, noise=noise, tasks=tasks // pairs)


def outer_loop(recipe: Recipe, steps_left: int) -> tuple[Outer, int]:
    """The compiled outer loop, over all local devices that divide its batch, and the steps in one of its calls.

    The steps in a call are made to divide what is left, so that a run ends on the step it was asked to.
    """
    wish = range(1, recipe.config.steps_per_call + 1)
    per_call = max(d for d in wish if max(steps_left, 1) % d == 0 and recipe.config.steps % d == 0)
    optimizer = outer_optimizer(recipe.config.optimizer, recipe.config.steps)
    return outer(recipe.estimator, optimizer, per_call, local_mesh(recipe.estimator.batch)), per_call


def outer_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Adam, or AdamW, with the warm-up, decay and clipping of the configuration.

    Raises:
        ValueError: the warm-up is not shorter than the run.
    """
    rate: Any = config.learning_rate
    if config.warmup >= steps and config.warmup:
        raise ValueError(
            f"the warm-up of {config.warmup} steps must be shorter than the run of {steps}: lower it or make more steps"
        )
    if config.schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if config.warmup else config.learning_rate,
            config.learning_rate,
            config.warmup,
            steps,
            config.learning_rate / 100,
        )
    elif config.warmup:
        rate = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    constants: dict[str, Any] = {"b1": config.b1, "b2": config.b2, "eps": config.eps, "eps_root": config.eps_root}
    decay = config.weight_decay
    adam = optax.adamw(rate, weight_decay=decay, **constants) if decay else optax.adam(rate, **constants)
    return adam if config.clip is None else optax.chain(optax.clip_by_global_norm(config.clip), adam)


def initial_state(recipe: Recipe, loop: Outer) -> OuterState:
    """The state before the first outer step, from the one seed, and from another run's theta where one is named.

    Raises:
        RunError: the run to begin from has no readable checkpoint.
        ValueError: its meta-parameters have other shapes.
    """
    theta = jax.jit(recipe.learner.init)(stream(recipe.config.seed, "theta"))
    if recipe.config.start is not None:
        begun = Path(recipe.config.start)
        found = restore_theta(begun, prepare(from_json(open_run(begun).config)))
        if jax.tree.map(jnp.shape, found) != jax.tree.map(jnp.shape, theta):
            raise ValueError(f"the learner of {recipe.config.start} has other sizes than this one: give it the same")
        theta = found
    return loop.init(theta, recipe.data, stream(recipe.config.seed, "outer"))


def restore_theta(folder: Path, recipe: Recipe) -> Any:
    """The meta-parameters of the newest readable checkpoint of a run.

    Args:
        folder: of the run.
        recipe: what the run's configuration builds.

    Raises:
        RunError: no run, no checkpoint, none readable, or of another configuration.
    """
    run = open_run(folder)
    if not checkpoint_steps(run):
        raise RunError(f"{folder} holds no checkpoint yet: train it first")
    # Only shapes are needed, so the run that this one began from need not be there any more.
    recipe = recipe._replace(config=dataclasses.replace(recipe.config, start=None))
    loop, _ = outer_loop(recipe, recipe.config.steps)
    return restore_checkpoint(run, initial_state(recipe, loop)).theta


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


def stream(seed: int, name: str) -> PRNGKeyArray:
    """The root key of one use of the seed.

    Two folds away from `key(seed)`, so that no use shares a key with another, nor with task number i of a family of
    the same seed, which is one fold away.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x6D6C), zlib.crc32(name.encode()))


def tasks_to_score(name: str, tasks: int, config: TrainConfig) -> int:
    """As many tasks as asked for, but no more seen ones than there are: an interval must not count one twice."""
    return min(tasks, config.task.num_tasks) if name == "seen" and config.task.num_tasks else tasks


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
