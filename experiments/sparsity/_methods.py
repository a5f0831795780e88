"""Pruning methods under one signature: `(task, sizes, start, dense, key, share) -> (params, masks)`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax

from experiments.sparsity._networks import Task, draw_batches
from metalearn_models.sparsity.pruning import (
    activation,
    batch_gradients,
    gradient_magnitude,
    keep_by_layer,
    keep_globally,
    magnitude,
    optimal_brain_surgeon,
    random,
    snip,
)


class Sizes(Protocol):
    """How much data the methods see; the configuration of an experiment."""

    @property
    def score_batch(self) -> int:
        """Examples of the one batch that scores see."""
        ...

    @property
    def gradients(self) -> int:
        """Gradients per round of the brain surgeon."""
        ...

    @property
    def rounds(self) -> int:
        """Rounds of the brain surgeon."""
        ...

    @property
    def block(self) -> int:
        """Weights per block of its Fisher matrix."""
        ...


def _by_score(keep: Any, score: Callable[..., Any], early: bool = False) -> Callable[..., tuple[Any, Any]]:
    """A method that keeps the largest scores of the trained network, and goes on with its weights or the first ones."""

    def prune(task: Task, config: Sizes, start: Any, dense: Any, key: Any, share: float) -> tuple[Any, Any]:
        return start if early else dense, keep(score(task, config, dense, key), share)

    return prune


def _one_batch(task: Task, config: Sizes, key: Any) -> Callable[[Any], Any]:
    batch = jax.tree.map(lambda a: a[0], draw_batches(task, key, 1, config.score_batch))
    return lambda params: task.loss(params, batch)


def _random(task: Task, config: Sizes, dense: Any, key: Any) -> Any:
    return random(key, dense)


def _magnitude(task: Task, config: Sizes, dense: Any, key: Any) -> Any:
    return magnitude(dense)


def _gradient(task: Task, config: Sizes, dense: Any, key: Any) -> Any:
    return gradient_magnitude(_one_batch(task, config, key), dense)


def _activation(task: Task, config: Sizes, dense: Any, key: Any) -> Any:
    batch = jax.tree.map(lambda a: a[0], draw_batches(task, key, 1, config.score_batch))
    return activation(task.apply, dense, batch.inputs)


def _snip(task: Task, config: Sizes, start: Any, dense: Any, key: Any, share: float) -> tuple[Any, Any]:
    return start, keep_globally(snip(_one_batch(task, config, key), start), share)


def _surgeon(task: Task, config: Sizes, start: Any, dense: Any, key: Any, share: float) -> tuple[Any, Any]:
    compute = jax.jit(partial(batch_gradients, task.loss))

    def gradients(params: Any, number: int) -> Any:
        return compute(params, draw_batches(task, jax.random.fold_in(key, number), config.gradients, 16))

    return optimal_brain_surgeon(dense, gradients, share, rounds=config.rounds, block=config.block)


METHODS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "random": _by_score(keep_globally, _random),
    "global magnitude": _by_score(keep_globally, _magnitude),
    "layer-wise magnitude": _by_score(keep_by_layer, _magnitude),
    "global gradient": _by_score(keep_globally, _gradient),
    "layer-wise gradient": _by_score(keep_by_layer, _gradient),
    "global activation": _by_score(keep_globally, _activation),
    "layer-wise activation": _by_score(keep_by_layer, _activation),
    "brain surgeon": _surgeon,
    "SNIP": _snip,
    "lottery ticket": _by_score(keep_globally, _magnitude, early=True),
}
"""By name, `(task, config, start, dense, key, share) -> (params, masks)`."""
EARLY = ("SNIP", "lottery ticket")
"""Methods that go on from the initial weights, and train as long as the others train and fine-tune."""
