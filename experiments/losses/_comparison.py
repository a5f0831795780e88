"""Comparing loss functions fairly: each with its own learning rate, on splits and networks it has never seen.

A network is trained with each loss at every learning rate of a grid. For each loss and task, the clean validation
examples choose the rate, and the error on the clean test examples is reported. The optimizer is Adam, so the scale of a
loss cannot act as a learning rate. All experiments in this folder but `downstream.py` compare in this way.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Array, Float, Key, PRNGKeyArray

from experiments.suite.tables import read_number, read_numbers
from metalearn.intervals import half_width
from metalearn_models.losses.search.population import LossTask, TrainingConfig
from metalearn_tasks.datasets.corrupted import clean_splits, loss_task

Loss = Callable[[Array, Array], Array]
FRESH = 1000
"""The first split for comparisons; searches use smaller ones."""


class HeldOut(NamedTuple):
    """A task to compare on: the training and validation examples of `task`, and its clean test examples."""

    task: LossTask
    test: tuple[np.ndarray, np.ndarray]


class Scores(NamedTuple):
    """Errors after training with one loss on one task.

    Attributes:
        test: error rate or mean squared error on the test examples at the chosen learning rate, per seed.
        valid: the same on the validation examples.
        rate: the learning rate with the least mean validation error.
        by_rate: validation and test errors at every learning rate.
    """

    test: Float[np.ndarray, "S"]
    valid: Float[np.ndarray, "S"]
    rate: float
    by_rate: Float[np.ndarray, "2 L S"]


def held_out_tasks(name: str, noise: float, hidden: tuple[int, ...], seeds: int, first: int = FRESH) -> list[HeldOut]:
    """The same task once per seed from `first` on, each with its own split and noise."""
    return [
        HeldOut(loss_task(name, noise, hidden, seed), clean_splits(name, seed).test)
        for seed in range(first, first + seeds)
    ]


def compare(
    losses: Mapping[str, Loss],
    tasks: Mapping[str, Sequence[HeldOut]],
    config: TrainingConfig,
    at_once: int | None = None,
) -> dict[str, dict[str, Scores]]:
    """Train networks with each loss on each task.

    Args:
        losses: by name, `loss(logits, labels)`, one value per example.
        tasks: by name, one entry per seed. Tasks whose shapes and networks are equal are trained together.
        config: how to train; its seeds are not used.
        at_once: networks trained side by side. None: all of a task, which suits small networks.

    Returns:
        Scores by task, then by loss.
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
        different = list(dict.fromkeys(losses.values()))  # several searches may have found the same loss
        train = _compile_training(different, rows[0].task, config, at_once)
        all_keys = jnp.tile(keys, len(names))
        done = {loss: np.asarray(train(which, data, all_keys), np.float64) for which, loss in enumerate(different)}
        for label, loss in losses.items():
            by_task = rearrange(done[loss], "rate (task seed) part -> task part rate seed", seed=seeds)
            for name, by_rate in zip(names, by_task, strict=True):
                results[name][label] = choose_rate(by_rate, config.learning_rates)
    return results


def choose_rate(by_rate: Float[np.ndarray, "2 L S"], rates: Sequence[float], least: float = 0.0) -> Scores:
    """The scores at the learning rate, among those of at least `least`, with the least mean validation error."""
    means = np.where(np.asarray(rates) >= least, by_rate[0].mean(-1), np.inf)
    best = int(np.argmin(means))
    return Scores(by_rate[1, best], by_rate[0, best], rates[best], by_rate)


def _arrays(held: HeldOut) -> tuple[Any, Any, Any]:
    return held.task.train, held.task.valid, held.test


def _compile_training(
    losses: Sequence[Loss], task: LossTask, config: TrainingConfig, at_once: int | None
) -> Callable[[int, Any, Key[Array, "S"]], Float[Array, "L N 2"]]:
    """`(which loss, data, keys) -> errors`: validation and test error of a network per learning rate and data set.

    They are infinite if it diverged. The network is compiled once for all losses.
    """
    rule = optax.scale_by_adam()

    def measure_error(params: Any, examples: Any) -> Array:
        x, y = examples
        predicted = task.apply(params, x)
        if task.kind == "classification":
            wrong = (jnp.argmax(predicted, -1) != y) | ~jnp.isfinite(predicted).all(-1)
            return wrong.astype(jnp.float32).mean()
        score = jnp.square(predicted[:, 0] - y).mean()
        return jnp.where(jnp.isfinite(score), score, jnp.inf)

    def slope_of(loss: Loss) -> Callable[[Array, Array], Array]:
        return jax.grad(lambda logits, labels: loss(logits, labels).mean())

    slopes = [slope_of(loss) for loss in losses]

    def train_one(which: Array, rate: Array, key: PRNGKeyArray, data: Any) -> Array:
        (xs, ys), valid, test = data
        key_init, key_batches = jax.random.split(key)
        params = task.init(key_init)

        def step(carry: Any, t: Array) -> tuple[Any, None]:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(key_batches, t), (config.batch,), 0, len(ys))
            logits, pull = jax.vjp(lambda p: task.apply(p, xs[rows]), params)
            (gradient,) = pull(jax.lax.switch(which, slopes, logits, ys[rows]))
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                direction, state = rule.update(gradient, state, params)
            return (jax.tree.map(lambda p, d: p - rate * d, params, direction), state), None

        with jax.numpy_dtype_promotion("standard"):
            state = rule.init(params)
        (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(config.steps, dtype=jnp.int32))
        return jnp.stack([measure_error(params, valid), measure_error(params, test)])

    rates = jnp.asarray(config.learning_rates, jnp.float32)
    over_rates = jax.vmap(jax.vmap(train_one, (None, None, 0, 0)), (None, 0, None, None))

    @jax.jit
    def train_at_once(which: Array, data: Any, keys: Key[Array, "S"]) -> Array:
        return over_rates(which, rates, keys, data)

    @jax.jit
    def train_some_at_once(which: Array, data: Any, keys: Key[Array, "S"]) -> Array:
        def train_number(i: Array) -> Array:
            rate, row = i // len(keys), i % len(keys)
            return train_one(which, rates[rate], keys[row], jax.tree.map(lambda a: a[row], data))

        scores = jax.lax.map(train_number, jnp.arange(len(rates) * len(keys)), batch_size=at_once)
        return rearrange(scores, "(rate seed) part -> rate seed part", seed=len(keys))

    return train_at_once if at_once is None else train_some_at_once


@contextlib.contextmanager
def share_compilations() -> Iterator[None]:
    """Keep compiled programs on disk meanwhile, so that all searches share one compilation per shape.

    A compilation cache that is already configured is used as it is.
    """
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [getattr(jax.config, option) for option in options]
    if before[0]:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            for option, value in zip(options, (folder, 0.3), strict=True):
                jax.config.update(option, value)
            yield
        finally:
            for option, value in zip(options, before, strict=True):
                jax.config.update(option, value)
            compilation_cache.reset_cache()  # JAX would keep using the folder


def summarise_losses(scores: Mapping[str, Scores], labels: Sequence[str]) -> dict[str, Any]:
    """The mean test errors of several losses as JSON values: each of them, their mean and extremes."""
    means = [float(scores[label].test.mean()) for label in labels]
    return {"mean": float(np.mean(means)), "best": min(means), "worst": max(means), "each": means}


def summarise_seeds(scores: Scores) -> dict[str, Any]:
    """The test errors of one loss as JSON values: their mean over seeds with half its 95 % interval, and each."""
    mean, half = float(scores.test.mean()), float(half_width(scores.test))
    return {"mean": mean, "half_width": half, "rate": scores.rate, "each": scores.test.tolist()}


def format_mean(row: Mapping[str, Any], digits: int, unit: float = 1.0) -> str:
    """The mean of a result.json with its 95 % interval, or with the worst of several losses: `0.123 ± 0.004`.

    Args:
        row: what `summarise_seeds` or `summarise_losses` returned, perhaps with null for numbers that are not finite.
        digits: decimal places.
        unit: what the numbers are multiplied by, such as 100 for per cent.
    """
    if not np.isfinite(mean := read_number(row["mean"])):
        return "diverged"
    text = f"{unit * mean:.{digits}f}"
    if "worst" in row:
        return f"{text} ({unit * read_number(row['worst']):.{digits}f})"
    half = read_number(row["half_width"])
    return f"{text} ± {unit * half:.{digits}f}" if np.isfinite(half) else text


def draw_errors(ax: Any, points: Mapping[str, Sequence[float | None]], label: str, log: bool) -> None:
    """Draw a column of dots per loss, and a bar at their mean; errors that are not finite are left out."""
    for x, row in enumerate(points.values()):
        values = read_numbers(row)
        values = np.sort(values[np.isfinite(values)])
        jitter = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(len(values))
        color = f"C{x % 10}"
        ax.plot(x + jitter, values, "o", markersize=3, color=color, alpha=0.7)
        if len(values):
            ax.plot([x - 0.3, x + 0.3], [values.mean()] * 2, color=color, linewidth=2)
    ax.set_xticks(range(len(points)), list(points), rotation=35, ha="right")
    ax.set_ylabel(label)
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(0)


def label_log_axis(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers: 0.2, 0.5, 1, or all digits if it spans less than a factor of 3.

    Args:
        axis: `ax.xaxis` or `ax.yaxis`, with its data drawn.
    """
    low, high = sorted(axis.get_view_interval())
    digits = "125" if high > 3 * low else "123456789"

    def format_tick(value: float, _: int | None) -> str:
        return f"{value:g}" if f"{value:e}"[0] in digits else ""

    axis.set_major_formatter(format_tick)
    axis.set_minor_formatter(format_tick)
