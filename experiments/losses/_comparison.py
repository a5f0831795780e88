"""Comparing loss functions fairly: each with its own learning rate, on splits and networks it has never seen.

A loss is trained at every learning rate of a grid; the rate is chosen by clean validation examples, for each loss and
task its own, and what is reported is the error on clean test examples. Adam, so that the scale of a loss cannot act as
a learning rate. `robust_regression.py`, `label_noise.py`, `loss_transfer.py` and `refinement.py` compare by it.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_tasks.datasets.corrupted import clean_splits, loss_task

Loss = Callable[[Array, Array], Array]
FRESH = 1000  # splits from this seed on are for comparing; searches use smaller ones


class Held(NamedTuple):
    """A task that is compared on: train and validation of `task`, and its clean test examples."""

    task: LossTask
    test: tuple[np.ndarray, np.ndarray]


class Scores(NamedTuple):
    """What training with one loss gave on one task.

    Attributes:
        test: error rate or mean squared error on test examples, of each fresh seed, at the chosen learning rate.
        valid: the same on validation examples.
        rate: the learning rate with the least mean validation error.
        by_rate: validation and test errors at every learning rate.
    """

    test: Float[np.ndarray, "S"]
    valid: Float[np.ndarray, "S"]
    rate: float
    by_rate: Float[np.ndarray, "2 L S"]


def held_out(name: str, noise: float, hidden: tuple[int, ...], seeds: int, first: int = FRESH) -> list[Held]:
    """A task with a split, and noise, of its own for each seed from `first` on."""
    return [
        Held(loss_task(name, noise, hidden, seed), clean_splits(name, seed).test)
        for seed in range(first, first + seeds)
    ]


def compare(
    losses: Mapping[str, Loss],
    tasks: Mapping[str, Sequence[Held]],
    config: TrainingConfig,
    at_once: int | None = None,
) -> dict[str, dict[str, Scores]]:
    """Train networks with each loss on each task.

    Args:
        losses: by name, `loss(logits, labels)` for each example.
        tasks: by name, one entry a seed; tasks of equal shapes and networks are trained together.
        config: of the training; its seeds are not used.
        at_once: networks trained side by side; None: all of a task, which suits small ones.

    Returns:
        By task, then by loss.
    """
    groups: dict[Any, list[str]] = {}
    for name, rows in tasks.items():
        network = str(jax.eval_shape(rows[0].task.init, jax.random.key(0)))
        groups.setdefault((len(rows), network, jax.tree.map(np.shape, _arrays(rows[0]))), []).append(name)
    results: dict[str, dict[str, Scores]] = {name: {} for name in tasks}
    for names in groups.values():
        seeds = len(tasks[names[0]])
        rows = [held for name in names for held in tasks[name]]
        data = jax.tree.map(lambda *a: jnp.asarray(np.stack(a)), *(_arrays(held) for held in rows))
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(FRESH), i))(jnp.arange(seeds))
        done: dict[Loss, Float[np.ndarray, "L N 2"]] = {}  # several searches may have found one loss
        for label, loss in losses.items():
            if loss not in done:
                all_keys = jnp.tile(keys, len(names))
                done[loss] = np.asarray(_trained(loss, rows[0].task, config, data, all_keys, at_once), np.float64)
            scores = done[loss]
            for i, name in enumerate(names):
                by_rate = scores[:, i * seeds : (i + 1) * seeds].transpose(2, 0, 1)
                results[name][label] = chosen(by_rate, config.learning_rates)
    return results


def chosen(by_rate: Float[np.ndarray, "2 L S"], rates: Sequence[float], least: float = 0.0) -> Scores:
    """The scores at the learning rate, of those that are not below `least`, that is best on validation examples."""
    means = np.where(np.asarray(rates) >= least, by_rate[0].mean(-1), np.inf)
    best = int(np.argmin(means))
    return Scores(by_rate[1, best], by_rate[0, best], rates[best], by_rate)


def _arrays(held: Held) -> tuple[Any, Any, Any]:
    return held.task.train, held.task.valid, held.test


def _trained(
    loss: Loss, task: LossTask, config: TrainingConfig, data: Any, keys: PRNGKeyArray, at_once: int | None
) -> Float[Array, "L N 2"]:
    """Validation and test error of a network for each learning rate and data set; infinity where it diverged."""
    rule = optax.scale_by_adam()

    def error(params: Any, examples: Any) -> Array:
        x, y = examples
        predicted = task.apply(params, x)
        if task.kind == "classification":
            right = (jnp.argmax(predicted, -1) == y) & jnp.isfinite(predicted).all(-1)
            return 1 - right.astype(jnp.float32).mean()
        score = jnp.square(predicted[:, 0] - y).mean()
        return jnp.where(jnp.isfinite(score), score, jnp.inf)

    def one(rate: Array, key: PRNGKeyArray, data: Any) -> Array:
        (xs, ys), valid, test = data
        key_init, key_batches = jax.random.split(key)
        params = task.init(key_init)

        def step(carry: Any, t: Array) -> tuple[Any, None]:
            params, state = carry
            chosen = jax.random.randint(jax.random.fold_in(key_batches, t), (config.batch,), 0, len(ys))
            gradient = jax.grad(lambda p: loss(task.apply(p, xs[chosen]), ys[chosen]).mean())(params)
            with jax.numpy_dtype_promotion("standard"):  # optax counts on it
                direction, state = rule.update(gradient, state, params)
            return (jax.tree.map(lambda p, d: p - rate * d, params, direction), state), None

        with jax.numpy_dtype_promotion("standard"):
            state = rule.init(params)
        (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(config.steps, dtype=jnp.int32))
        return jnp.stack([error(params, valid), error(params, test)])

    rates = jnp.asarray(config.learning_rates, jnp.float32)
    if at_once is None:
        return jax.jit(jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None)))(rates, keys, data)

    @jax.jit
    def some_at_once(rates: Array, keys: PRNGKeyArray, data: Any) -> Array:
        def numbered(i: Array) -> Array:
            rate, row = i // len(keys), i % len(keys)
            return one(rates[rate], keys[row], jax.tree.map(lambda a: a[row], data))

        scores = jax.lax.map(numbered, jnp.arange(len(rates) * len(keys)), batch_size=at_once)
        return scores.reshape(len(rates), len(keys), 2)

    return some_at_once(rates, keys, data)


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Programs of equal shapes are compiled once, though every search builds its own."""
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, option) for option in options]
    with tempfile.TemporaryDirectory() as folder:
        try:
            for option, value in zip(options, (folder, 0.3), strict=True):
                jax.config.update(option, value)
            yield
        finally:
            for option, value in zip(options, before, strict=True):
                jax.config.update(option, value)
            compilation_cache.reset_cache()  # JAX holds on to the folder otherwise


def merged(scores: Mapping[str, Scores], labels: Sequence[str]) -> dict[str, Any]:
    """Means over fresh seeds of several losses, as JSON: one number each, their mean and extremes."""
    means = [float(scores[label].test.mean()) for label in labels]
    return {"mean": float(np.mean(means)), "best": min(means), "worst": max(means), "each": means}


def summary(scores: Scores) -> dict[str, Any]:
    """Mean and standard error over fresh seeds, as JSON."""
    spread = float(scores.test.std(ddof=1) / math.sqrt(len(scores.test))) if len(scores.test) > 1 else 0.0
    return {"mean": float(scores.test.mean()), "sem": spread, "rate": scores.rate, "each": scores.test.tolist()}


def text_table(rows: Sequence[str], columns: Mapping[str, Sequence[str]], corner: str = "") -> str:
    """Aligned columns of text under their names."""
    left = max(len(corner), *(len(row) for row in rows))
    widths = {name: max(len(name), *(len(cell) for cell in cells)) for name, cells in columns.items()}
    lines = [corner.ljust(left) + "".join(f"  {name:>{width}}" for name, width in widths.items())]
    for i, row in enumerate(rows):
        lines.append(row.ljust(left) + "".join(f"  {columns[name][i]:>{width}}" for name, width in widths.items()))
    return "\n".join(lines)


def draw_errors(ax: Any, points: Mapping[str, Sequence[float]], label: str, log: bool) -> None:
    """A column of dots for each loss, and a bar at their mean."""
    for x, values in enumerate(points.values()):
        jitter = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        color = f"C{x % 10}"
        ax.plot(x + jitter, np.sort(values), "o", markersize=3, color=color, alpha=0.7)
        ax.plot([x - 0.3, x + 0.3], [np.mean(values)] * 2, color=color, linewidth=2)
    ax.set_xticks(range(len(points)), list(points), rotation=35, ha="right")
    ax.set_ylabel(label)
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(0)
