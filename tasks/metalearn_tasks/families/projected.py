"""Randomly projected classification, the task distribution of GPICL (Kirsch et al. 2022, arXiv 2212.04458).

A task is a random linear map A of the inputs, with entries N(0, 1/N_x), and a random permutation of the labels:
`x = A x_bar`, `y = rho(y_bar)`. It is regenerated from its number whenever it is needed, so 2^25 tasks need no memory.
Every training sequence has newly drawn examples; only the number of tasks can be limited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, UInt32

from metalearn.learner import Family, Signature
from metalearn.ranges import Count, Seed, Share, Size, Steps
from metalearn_tasks.families._task_numbers import numbered_tasks

__all__ = [
    "ProjectedConfig",
    "ProjectedData",
    "ProjectedTask",
    "anneal",
    "draw_without_replacement",
    "projected",
    "projected_data",
    "unprojected",
]


@dataclass(frozen=True)
class ProjectedConfig:
    """The distribution of projected classification tasks; by default every task is new and permutes its labels."""

    length: Size = 50
    """T, examples per sequence."""
    num_tasks: Steps | None = None
    """Number of meta-training tasks, at least 1 (the paper: 2^0 to 2^25). None: a new task every time."""
    project_to: Size | None = None
    """Width of the projected inputs. None: the width of the data."""
    permute_prob: Share = 1.0
    """Probability that a task permutes its labels, decided once per task. 0.1 is the paper's "90 % biased"."""
    anneal_steps: Count = 0
    """From this outer step on, permute_prob p grows as p * step / anneal_steps, up to 1. 0: it never grows."""
    seed: Seed = 0
    """Names the tasks: task i of one seed is the same whenever it is drawn."""
    repeats: bool = False
    """Draw the examples of a sequence with replacement, so that one can come again: for memorisation in context."""


class ProjectedData(NamedTuple):
    """Examples to build sequences from, and the current probability that a task permutes its labels.

    `num_tasks` and `seed`, if not None, replace those of the configuration. Families that differ only in them then
    share one compiled program.

    Attributes:
        inputs: the examples.
        labels: their classes.
        permute_prob: probability that a task permutes its labels.
        num_tasks: number of meta-training tasks, int32.
        seed: names the tasks.
    """

    inputs: Float[Array, "N X"]
    labels: Int[Array, "N"]
    permute_prob: Float[Array, ""]
    num_tasks: Int[Array, ""] | None = None
    seed: UInt32[Array, ""] | None = None


class ProjectedTask(NamedTuple):
    """One task: `x = x_bar @ projection`, `y = permutation[y_bar]`."""

    projection: Float[Array, "X D"]
    permutation: Int[Array, "C"]


def projected_data(inputs: ArrayLike, labels: ArrayLike, permute_prob: float = 1.0) -> ProjectedData:
    """Put examples [N, X] and integer labels [N] on the device, as the `data` of `projected` and `unprojected`."""
    return ProjectedData(jnp.asarray(inputs, jnp.float32), jnp.asarray(labels, jnp.int32), jnp.float32(permute_prob))


def anneal(config: ProjectedConfig) -> Callable[[ProjectedData, Array], ProjectedData]:
    """Make the schedule of `permute_prob`, for `metalearn.gradients.with_schedule`.

    The probability of a permutation is `p` up to step `anneal_steps`, then `p * step / anneal_steps`, at most 1.
    """

    def schedule(data: ProjectedData, outer_step: Array) -> ProjectedData:
        growth = jnp.maximum(outer_step.astype(jnp.float32) / max(config.anneal_steps, 1), 1.0)
        prob = config.permute_prob * growth if config.anneal_steps else jnp.float32(config.permute_prob)
        return data._replace(permute_prob=jnp.minimum(prob, 1.0))

    return schedule


def projected(inputs: int, classes: int, config: ProjectedConfig) -> Family:
    """Make the family of projected classification tasks.

    Args:
        inputs: N_x, the width of the data.
        classes: number of classes in the data.
        config: the distribution of tasks.

    Returns:
        A family whose `data` is a `ProjectedData`. Tasks 0 to num_tasks - 1 are seen in meta-training, negative numbers
        are unseen. The family has no `seen` if the configuration does not limit the number of tasks.

    Raises:
        ValueError: a number of tasks, length, width or probability out of range.
    """
    _check(inputs, classes, config)
    width = config.project_to or inputs

    def draw(data: ProjectedData, key: PRNGKeyArray) -> ProjectedTask:
        key_projection, key_permutation, key_coin = jax.random.split(key, 3)
        projection = jax.random.normal(key_projection, (inputs, width)) / jnp.sqrt(jnp.float32(inputs))
        return ProjectedTask(projection, _draw_permutation(data, classes, key_permutation, key_coin))

    sample, seen, unseen = numbered_tasks(draw, config.num_tasks, config.seed, lambda data: (data.num_tasks, data.seed))
    signature = Signature(width, classes, config.length)
    return Family(signature, sample, seen, unseen, _make_episode(config))


def unprojected(inputs: int, classes: int, config: ProjectedConfig) -> Family:
    """Make the family of the identity task: inputs stay as they are, labels are permuted with `permute_prob`.

    Arguments and errors are those of `projected`. If `project_to` is below the width of the data, the first
    `project_to` inputs are kept.
    """
    _check(inputs, classes, config)
    width = config.project_to or inputs

    def sample(data: ProjectedData, key: PRNGKeyArray) -> ProjectedTask:
        key_permutation, key_coin = jax.random.split(key)
        return ProjectedTask(jnp.eye(inputs, width), _draw_permutation(data, classes, key_permutation, key_coin))

    def unseen(data: ProjectedData, index: ArrayLike) -> ProjectedTask:
        key = jax.random.key(config.seed if data.seed is None else data.seed)
        return sample(data, jax.random.fold_in(key, jnp.asarray(index, jnp.uint32)))

    return Family(Signature(width, classes, config.length), sample, None, unseen, _make_episode(config))


def draw_without_replacement(key: PRNGKeyArray, population: int, count: int) -> Int[Array, "count"]:
    """Draw `count` different numbers below `population`, in random order; every ordered choice is equally likely.

    This is Floyd's algorithm (Bentley & Floyd 1987, "A sample of brilliance") followed by a shuffle. Its cost does not
    depend on the population. Permuting 60,000 examples for every sequence would dominate a training step.
    """
    key_draw, key_shuffle = jax.random.split(key)
    last = jnp.arange(population - count, population, dtype=jnp.int32)
    draws = jax.random.randint(key_draw, (count,), 0, last + 1)

    def pick(chosen: Array, slot: Array) -> tuple[Array, None]:
        new = jnp.where(jnp.any(chosen == draws[slot]), last[slot], draws[slot])
        return chosen.at[slot].set(new), None

    chosen, _ = jax.lax.scan(pick, jnp.full(count, -1, jnp.int32), jnp.arange(count))
    return jax.random.permutation(key_shuffle, chosen)


def _draw_permutation(data: ProjectedData, classes: int, key: PRNGKeyArray, key_coin: PRNGKeyArray) -> Int[Array, "C"]:
    # The coin comes from the task's own key, so a task stays permuted or not, until annealing changes it.
    permuted = jax.random.uniform(key_coin) < data.permute_prob
    return jnp.where(permuted, jax.random.permutation(key, classes), jnp.arange(classes)).astype(jnp.int32)


def _make_episode(config: ProjectedConfig) -> Callable[..., tuple[Array, Array]]:
    length = config.length

    def episode(data: ProjectedData, task: ProjectedTask, key: PRNGKeyArray) -> tuple[Array, Array]:
        if config.repeats:
            rows = jax.random.randint(key, (length,), 0, data.inputs.shape[0])
            return data.inputs[rows] @ task.projection, task.permutation[data.labels[rows]]
        if data.inputs.shape[0] < length:
            raise ValueError(
                f"length must be at most the number of examples, {data.inputs.shape[0]}, got {length}: "
                f"an example comes at most once per sequence"
            )
        rows = draw_without_replacement(key, data.inputs.shape[0], length)
        return data.inputs[rows] @ task.projection, task.permutation[data.labels[rows]]

    return episode


def _check(inputs: int, classes: int, config: ProjectedConfig) -> None:
    if config.project_to is not None and config.project_to < 1:
        raise ValueError(f"project_to must be at least 1, got {config.project_to}")
    if not 0.0 <= config.permute_prob <= 1.0:
        raise ValueError(f"permute_prob must be a probability, between 0 and 1, got {config.permute_prob}")
    if config.length < 1 or inputs < 1 or classes < 2:
        raise ValueError(f"need length >= 1, inputs >= 1 and classes >= 2, got {config.length}, {inputs} and {classes}")
