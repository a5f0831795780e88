"""Training of the cells of `rigl`: one network, one method, one sparsity, one length and one seed.

SGD with momentum .9, a cosine from .1, weight decay 1e-4. A program takes masks and the order of the
examples as data, so all sparsities and seeds share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn_models.networks import Network, conv, mlp
from metalearn_models.sparsity import (
    Rule,
    apply_masks,
    count_masks,
    draw_masks,
    erk,
    gradual_pruning,
    rigl,
    rigl_released,
    set_rule,
    snfs,
    sparse_with_masks,
    static,
)
from metalearn_models.sparsity.masks import sparse_shapes
from metalearn_models.sparsity.training_flops import (
    dense_training,
    forward_flops,
    gradual_pruning_training,
    pruned_share,
    rigl_training,
    snfs_training,
    static_training,
)
from metalearn_tasks.datasets import Dataset

RATE, MOMENTUM, DECAY, ALPHA = 0.1, 0.9, 1e-4, 0.3
END = 0.75
"""Share of the training after which connections stay."""
PRUNING_START = 0.125
"""Share of the training before the first pruning; ours."""
METHODS = ("dense", "small-dense", "static", "set", "snfs", "rigl", "rigl-released", "pruning")


@dataclass(frozen=True)
class Cell:
    """One training."""

    network: str
    method: str
    sparsity: float
    length: int
    seed: int

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.network}-{self.method}-{self.sparsity:g}-{self.length}x-{self.seed}"


@dataclass(frozen=True)
class Schedule:
    """What all trainings share.

    Attributes:
        steps: steps of the shortest training.
        every: steps between two changes of connections.
        batch: examples per step.
    """

    steps: int
    every: int = 100
    batch: int = 128


class Model(NamedTuple):
    """A network and how often each of its kernels is used per example."""

    network: Network
    places: dict[str, int]


def model_of(name: str, shape: tuple[int, ...], budget: int | None = None) -> Model:
    """The network of a name; or, with a budget, the widest dense one of its kind with at most so many parameters.

    Args:
        name: "lenet" or "conv".
        shape: (H, W) or (H, W, 1) of the images.
        budget: a number of parameters.

    A small LeNet has one hidden layer: with two, the budget of 99 % leaves a layer of one unit.
    """
    pixels = math.prod(shape)
    if name == "lenet":
        if budget is None:
            return Model(mlp(pixels, (300, 100), 10), {})
        return Model(mlp(pixels, (max(1, (budget - 10) // (pixels + 11)),), 10), {})
    places = {f"{i}/weight": math.prod(-(-side // 2 ** (i + 1)) for side in shape[:2]) for i in range(3)}
    channels, scale = (16, 32, 64), 1.0
    if budget is not None:
        sizes = [s / 64 for s in range(64, 0, -1)]
        scale = next((s for s in sizes if _conv_size(_scaled(channels, s)) <= budget), sizes[-1])
    return Model(conv(shape, _scaled(channels, scale), 10), places)


def _scaled(channels: tuple[int, ...], scale: float) -> tuple[int, ...]:
    return tuple(max(1, round(scale * c)) for c in channels)


def _conv_size(channels: tuple[int, ...]) -> int:
    return sum(9 * a * b + b for a, b in pairwise((1, *channels))) + 11 * channels[-1]


def rule_of(method: str, steps: int, every: int) -> Rule:
    """The rule of a method, for that many steps and that many between two changes."""
    end = _end(steps, every)
    cycles: dict[str, Callable[..., Rule]] = {
        "set": set_rule,
        "snfs": snfs,
        "rigl": rigl,
        "rigl-released": rigl_released,
    }
    if method in cycles:
        return cycles[method](end, every=every, alpha=ALPHA)
    if method == "pruning":
        return gradual_pruning(*_pruning_times(steps, every))
    return static()


def _end(steps: int, every: int) -> int:
    return max(every, round(END * steps / every) * every)


def _pruning_times(steps: int, every: int) -> tuple[int, int, int]:
    """End, every and start of gradual pruning."""
    end = _end(steps, every)
    return end, every, min(end - every, round(PRUNING_START * steps / every) * every)


@cache
def _program(network: str, method: str, steps: int, every: int) -> Callable[..., dict[str, Any]]:
    rate = optax.cosine_decay_schedule(RATE, steps)
    inner = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(rate, momentum=MOMENTUM))

    @jax.jit
    def train(apply: Any, params: Any, masks: Any, key: Any, order: Any, train: Any, test: Any) -> dict[str, Any]:
        tx: Any = inner if masks is None else sparse_with_masks(inner, rule_of(method, steps, every), masks, key=key)
        state: Any = tx.init(params)
        params = params if masks is None else apply_masks(params, state.masks)

        def loss(params: Any, x: Any, y: Any) -> Any:
            logits = jax.vmap(apply, (None, 0))(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        def step(carry: Any, rows: Any) -> Any:
            params, state = carry
            grads = jax.grad(loss)(params, train[0][rows], train[1][rows])
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), order)
        right = jax.vmap(apply, (None, 0))(params, test[0]).argmax(-1) == test[1]
        kernels = [w for w in jax.tree.leaves(params) if w.ndim > 1]
        return {
            "accuracy": right.mean(),
            "loss": loss(params, *train),
            "connections": jnp.stack([w.size for w in kernels]).sum() if masks is None else count_masks(state.masks),
        }

    return train


def train_cell(cell: Cell, data: Dataset, schedule: Schedule) -> dict[str, Any]:
    """Train one cell; accuracy on the test images, loss on the training images, connections and FLOPs per example.

    `flops` is the mean over the steps by the formulas of the paper, as a share of dense training; longer trainings
    cost as many times more.
    """
    steps, batch = schedule.steps * cell.length, schedule.batch
    full = model_of(cell.network, data.shape)
    key_init, key_masks, key_rule = jax.random.split(jax.random.key(cell.seed), 3)
    like = full.network.init(key_init)
    masks = draw_masks(key_masks, like, erk, cell.sparsity) if cell.method not in ("dense", "small-dense") else None
    shapes = sparse_shapes(like)
    dense = forward_flops(shapes, None, full.places)
    used = full
    if cell.method == "small-dense":
        size, kernels = (
            sum(math.prod(s) for s in x) for x in ([x.shape for x in jax.tree.leaves(like)], shapes.values())
        )
        used = model_of(cell.network, data.shape, round((1 - cell.sparsity) * kernels) + size - kernels)
        small = jax.eval_shape(used.network.init, key_init)
        per_step = dense_training(forward_flops(sparse_shapes(small), None, used.places))
    else:
        per_step = _training_flops(cell, shapes, full.places, steps, schedule.every)
    rng = np.random.default_rng(cell.seed)
    count = len(data.train.labels)
    epochs = [
        rng.permutation(count)[: count // batch * batch] for _ in range(-(-steps * batch // (count // batch * batch)))
    ]
    order = np.concatenate(epochs)[: steps * batch].reshape(steps, batch)
    splits = [(jnp.asarray(s.inputs), jnp.asarray(s.labels)) for s in (data.train, data.test)]
    found = _program(cell.network, cell.method, steps, schedule.every)(
        jax.tree_util.Partial(used.network.apply), used.network.init(key_init), masks, key_rule, order, *splits
    )
    return {k: v.item() for k, v in found.items()} | {"flops": per_step / dense_training(dense) * cell.length}


def _training_flops(cell: Cell, shapes: Any, places: dict[str, int], steps: int, every: int) -> float:
    densities = {name: 1.0 for name in shapes} if cell.method == "dense" else erk(shapes, cell.sparsity)
    dense, sparse = forward_flops(shapes, None, places), forward_flops(shapes, densities, places)
    if cell.method == "snfs":
        return snfs_training(dense, sparse)
    if cell.method.startswith("rigl"):
        return rigl_training(dense, sparse, every)
    if cell.method == "pruning":
        end, _, start = _pruning_times(steps, every)
        return gradual_pruning_training(
            lambda left: forward_flops(shapes, {k: d + left * (1 - d) for k, d in densities.items()}, places),
            pruned_share(steps, end, every, start),
        )
    return static_training(sparse)
