"""Mix several families of tasks: each task comes from one of them, drawn with given probabilities.

Meta-training on a mixture makes one learner for several kinds of data. Kim et al. 2024 (arXiv 2410.05448) report that
it also shortens the plateau at the start. `reproject` makes families alike: after a random linear map of the inputs, no
axis has a meaning of its own.

Every family draws a task and an episode, and one of them is kept; under `vmap` a switch would compute all anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from metalearn.learner import Family

__all__ = ["MixtureTask", "ReprojectedTask", "mixture", "reproject"]


class MixtureTask(NamedTuple):
    """A task of each family, and the index of the one that counts.

    Attributes:
        family: index of the family.
        tasks: one task per family.
    """

    family: Int[Array, ""]
    tasks: tuple[Any, ...]


class ReprojectedTask(NamedTuple):
    """A task of a family, and the linear map of its inputs."""

    task: Any
    projection: Float[Array, "F D"]


def mixture(families: Sequence[Family], weights: Sequence[float], seed: int = 0) -> Family:
    """Mix families: a task comes from `families[i]` with a probability proportional to `weights[i]`.

    Args:
        families: at least one family, all with the same signature.
        weights: one per family, none negative, not all zero.
        seed: decides which family a numbered task comes from.

    Returns:
        A family whose `data` is the tuple of the families' data. Task i of `unseen` is task i of the drawn family's
        `unseen`. It has no `seen`, because the families can have different numbers of tasks.

    Raises:
        ValueError: weights out of range or of the wrong number, or signatures that differ.
    """
    families = tuple(families)
    if not families or len(weights) != len(families):
        raise ValueError(f"weights must have one number per family, got {len(weights)} for {len(families)} families")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got {tuple(weights)}")
    signature = families[0].signature
    for family in families[1:]:
        if family.signature != signature:
            raise ValueError(f"families must have the same signature, got {signature} and {family.signature}")
    total = float(sum(weights))
    log_weights = jnp.array([math.log(w / total) if w else -math.inf for w in weights], jnp.float32)

    def choose(key: PRNGKeyArray) -> Int[Array, ""]:
        return jax.random.categorical(key, log_weights).astype(jnp.int32)

    def sample(data: tuple[Any, ...], key: PRNGKeyArray) -> MixtureTask:
        key_family, key_task = jax.random.split(key)
        tasks = tuple(f.sample(d, key_task) for f, d in zip(families, data, strict=True))
        return MixtureTask(choose(key_family), tasks)

    def unseen(data: tuple[Any, ...], index: ArrayLike) -> MixtureTask:
        key = jax.random.fold_in(jax.random.key(seed), jnp.asarray(index, jnp.uint32))
        tasks = tuple(f.unseen(d, index) for f, d in zip(families, data, strict=True))
        return MixtureTask(choose(key), tasks)

    def episode(data: tuple[Any, ...], task: MixtureTask, key: PRNGKeyArray) -> tuple[Array, Array]:
        episodes = [f.episode(d, t, key) for f, d, t in zip(families, data, task.tasks, strict=True)]
        xs, ys = (jnp.stack(parts) for parts in zip(*episodes, strict=True))
        return xs[task.family], ys[task.family]

    return Family(signature, sample, None, unseen, episode)


def reproject(family: Family, width: int | None = None, seed: int = 0) -> Family:
    """Map the F inputs of each task by a random matrix with entries N(0, 1/F), drawn once per task.

    Args:
        family: any family; its `data` and its labels stay the same.
        width: D, the number of inputs after the map. None: as many as before.
        seed: names the maps of the numbered tasks.

    Raises:
        ValueError: a width below 1.
    """
    features = family.signature.inputs
    width = features if width is None else width
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")

    def draw(task: Any, key: PRNGKeyArray) -> ReprojectedTask:
        return ReprojectedTask(task, jax.random.normal(key, (features, width)) / jnp.sqrt(jnp.float32(features)))

    def sample(data: Any, key: PRNGKeyArray) -> ReprojectedTask:
        key_task, key_projection = jax.random.split(key)
        return draw(family.sample(data, key_task), key_projection)

    def number(tasks: Any) -> Any:
        def task(data: Any, index: ArrayLike) -> ReprojectedTask:
            key = jax.random.fold_in(jax.random.key(seed), jnp.asarray(index, jnp.uint32))
            return draw(tasks(data, index), key)

        return task

    def episode(data: Any, task: ReprojectedTask, key: PRNGKeyArray) -> tuple[Array, Array]:
        xs, ys = family.episode(data, task.task, key)
        return xs @ task.projection, ys

    seen = None if family.seen is None else number(family.seen)
    return Family(family.signature._replace(inputs=width), sample, seen, number(family.unseen), episode)
