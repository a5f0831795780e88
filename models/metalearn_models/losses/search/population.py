"""Training networks with many losses at once: one compiled function for all populations.

Losses enter as tables of numbers (`table.py`), so candidates, seeds and learning rates are three batch axes of one
program. It is compiled once per task and reused for all generations. Candidates are split over the local devices. The
measurements behind this design are in `experiments/speed/loss_search.py`. The protocol is EvoMAL's (Raymond et al.
2023, arXiv 2209.08907), with a grid of learning rates in addition; without it a loss can win by its scale alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key, PRNGKeyArray

from metalearn.errors import unknown_name
from metalearn.ranges import NonEmpty, Positive, Size, Steps, Within
from metalearn_models.losses.formulas import Expr
from metalearn_models.losses.search import table
from metalearn_models.losses.search.screening import scale
from metalearn_models.losses.search.table import KINDS, Kind, Targets

__all__ = ["LossTask", "Trainer", "TrainingConfig", "check_task", "trainer"]

AXIS = "candidates"
Examples = tuple[Any, Any]


class LossTask(NamedTuple):
    """A data set and a network, for comparing losses.

    Attributes:
        name: name in results and errors.
        train: `(x[N, ...], y[N])`; inputs float32. Labels are classes from 0, or real numbers (standardised: tables
            resolve residuals up to 32). Only these labels may be corrupted.
        valid: `(x[M, ...], y[M])`, never trained on; they judge a loss.
        kind: "classification" or "regression".
        outputs: C, the number of classes; 1 for regression.
        init: `(key) -> params`, a pytree of float arrays.
        apply: `(params, x[B, ...]) -> logits[B, C]`, in regression predictions `[B, 1]`.
    """

    name: str
    train: Examples
    valid: Examples
    kind: Kind
    outputs: int
    init: Callable[[PRNGKeyArray], Any]
    apply: Callable[[Any, Array], Array]


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained with a candidate loss, which is first divided by its mean absolute gradient."""

    steps: Steps = 300
    """Steps of the inner optimizer, without early stopping."""
    batch: Steps = 64
    """Examples per step, drawn with replacement; all of them if there are no more."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam, whose steps do not depend on the scale of a loss, or SGD with Nesterov momentum 0.9."""
    learning_rates: Annotated[tuple[Positive, ...], NonEmpty()] = (1e-3, 3e-3, 1e-2, 3e-2)
    """Learning rates to choose from, for each candidate separately."""
    seeds: Size = 4
    """Networks per candidate and learning rate; all candidates share their initial values and batches."""
    candidates: Size = 4
    """Losses trained at once. Changes speed and memory, not the results."""
    rows: Annotated[int, Within(2, 2**16)] = 256
    """Regression: number of targets in a table; between them it is linear in y."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "seeds", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rows < 2:
            raise ValueError(f"rows must be at least 2, got {self.rows}")
        if not self.learning_rates or not all(0 < rate < float("inf") for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be at least one positive number, got {self.learning_rates}")
        if self.optimizer not in ("adam", "sgd"):
            raise unknown_name("optimizer", self.optimizer, ("adam", "sgd"))


class Trainer(NamedTuple):
    """A compiled training of losses on one task.

    Attributes:
        train: `(losses, keys[S]) -> [losses, learning rates, S]`, float64: the error rate or the mean squared error on
            the validation examples after the last step. Predictions that are not finite give infinity in regression and
            count as wrong in classification. S is the configured number of seeds.
        compilations: `() -> number` of times that the training was traced: one for any number of losses.
        least: least error in ratios of errors: that of half a validation example in classification, 1e-4 in regression.
    """

    train: Callable[[Sequence[Expr], Key[Array, "S"]], Float[np.ndarray, "P L S"]]
    compilations: Callable[[], int]
    least: float


def trainer(task: LossTask, config: TrainingConfig, devices: Sequence[Any] | None = None) -> Trainer:
    """Prepare the training of any losses on a task.

    Args:
        task: a data set and a network; checked here.
        config: how to train.
        devices: candidates are split over them. None: all local devices.

    Raises:
        ValueError: nothing can be trained on the task, see `check_task`.
    """
    check_task(task)
    devices = jax.local_devices() if devices is None else list(devices)
    group = -(-config.candidates // len(devices)) * len(devices)
    traces = [0]
    if task.kind == "regression":
        nodes, targets = table.target_rows(np.asarray(task.train[1]), config.rows)
    else:
        nodes, targets = np.zeros(0), Targets(np.asarray(task.train[1], np.int32), np.zeros(0, np.float32))
    labels: Any = targets if task.kind == "regression" else targets.row
    arrays = [np.asarray(a, np.float32) for a in (task.train[0], task.train[1], task.valid[0], task.valid[1])]
    rates = np.asarray(config.learning_rates, np.float32)

    def train_group(cells: Array, keys: Key[Array, "S"], rates: Array, data: Any) -> Array:
        traces[0] += 1
        over_seeds = jax.vmap(lambda c, r, k: _train_one(task, config, c, r, k, data), (None, None, 0))
        over_rates = jax.vmap(over_seeds, (None, 0, None))
        return jax.vmap(over_rates, (0, None, None))(cells, rates, keys)

    run = train_group
    place, everywhere = devices[0], devices[0]
    if len(devices) > 1:
        mesh = Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))
        split, whole = PartitionSpec(AXIS), PartitionSpec()
        place, everywhere = NamedSharding(mesh, split), NamedSharding(mesh, whole)
        run = jax.shard_map(  # without the check of replication: nothing is summed over candidates
            train_group, mesh=mesh, in_specs=(split, whole, whole, whole), out_specs=split, check_vma=False
        )
    run = jax.jit(run)
    data = jax.device_put((*arrays, labels), cast(Any, everywhere))

    def tabulate(expr: Expr) -> np.ndarray:
        screened = table.screening_table(expr, task.kind)
        exact = screened if task.kind == "classification" else table.regression_table(expr, nodes)
        return table.gradient_cells(exact, task.kind, scale(screened, task.kind))

    def train(losses: Sequence[Expr], keys: Key[Array, "S"]) -> np.ndarray:
        if keys.shape != (config.seeds,):
            raise ValueError(f"keys must have the shape ({config.seeds},), one per seed, got {keys.shape}")
        keys, where = jax.device_put((keys, rates), cast(Any, everywhere))
        scores = []
        for first in range(0, len(losses), group):  # tables are made while earlier networks train
            cells = [tabulate(expr) for expr in losses[first : first + group]]
            cells += cells[:1] * (group - len(cells))
            scores.append(run(jax.device_put(np.stack(cells), cast(Any, place)), keys, where, data))
        done = [np.asarray(s, np.float64) for s in scores]
        shape = (0, len(rates), config.seeds)
        return np.concatenate(done)[: len(losses)] if done else np.zeros(shape)

    least = 0.5 / len(task.valid[1]) if task.kind == "classification" else 1e-4
    return Trainer(train, lambda: traces[0], least)


def _train_one(
    task: LossTask, config: TrainingConfig, cells: Array, rate: Array, key: PRNGKeyArray, data: Any
) -> Float[Array, ""]:
    """Train one network with one table, and return its validation error."""
    xs, ys, valid_xs, valid_ys, labels = data
    key_init, key_batches = jax.random.split(key)
    params = task.init(key_init)
    rule = optax.scale_by_adam() if config.optimizer == "adam" else optax.trace(0.9, nesterov=True)
    examples = xs.shape[0]

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        params, state = carry
        x, y, label = xs, ys, labels
        if config.batch < examples:
            chosen = jax.random.randint(jax.random.fold_in(key_batches, t), (config.batch,), 0, examples)
            x, y, label = jax.tree.map(lambda a: a[chosen], (xs, ys, labels))
        logits, pull = jax.vjp(lambda p: task.apply(p, x), params)
        if task.kind == "classification":
            cotangent = table.classification_cotangent(cells, logits, label)
        else:
            cotangent = table.regression_cotangent(cells, label, logits[:, 0] - y)[:, None]
        (gradient,) = pull((cotangent * (1 / x.shape[0])).astype(logits.dtype))
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            direction, state = rule.update(gradient, state, params)
        params = jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, params, direction)
        return (params, state), None

    with jax.numpy_dtype_promotion("standard"):
        state = rule.init(params)
    (params, _), _ = jax.lax.scan(step, (params, state), jnp.arange(config.steps, dtype=jnp.int32))
    return _validation_score(task, params, valid_xs, valid_ys)


def _validation_score(task: LossTask, params: Any, xs: Array, ys: Array) -> Float[Array, ""]:
    predicted = task.apply(params, xs).astype(jnp.float32)
    if task.kind == "classification":
        right = (jnp.argmax(predicted, -1) == ys.astype(jnp.int32)) & jnp.isfinite(predicted).all(-1)
        return 1 - right.astype(jnp.float32).mean()
    score = jnp.square(predicted[:, 0] - ys).mean()
    return jnp.where(jnp.isfinite(score), score, jnp.inf)


def check_task(task: LossTask) -> None:
    """Check that networks can be trained on a task.

    Raises:
        ValueError: unknown kind, wrong shapes, inputs or targets that are not finite, labels out of range, or a network
            whose output does not fit the task.
    """
    if task.kind not in KINDS:
        raise unknown_name("kind of task", task.kind, KINDS)
    if task.outputs < (2 if task.kind == "classification" else 1) or (task.kind == "regression" and task.outputs > 1):
        right = "at least 2 classes" if task.kind == "classification" else "1, one number per example"
        raise ValueError(f"task {task.name!r}: outputs of {task.kind} must be {right}, got {task.outputs}")
    for part, (xs, ys) in (("train", task.train), ("valid", task.valid)):
        where = f"task {task.name!r}, {part}"
        xs, ys = np.asarray(xs), np.asarray(ys)
        if xs.ndim < 2 or ys.ndim != 1 or xs.shape[0] != ys.shape[0] or not len(ys):
            raise ValueError(f"{where}: x must have the shape [N, ...] and y [N], N > 0, got {xs.shape} and {ys.shape}")
        if xs.shape[1:] != np.shape(task.train[0])[1:]:
            raise ValueError(
                f"{where}: inputs must have the shape {np.shape(task.train[0])[1:]} as in train, got {xs.shape[1:]}"
            )
        for name, values in (("inputs", xs), ("targets", ys)):
            bad = int((~np.isfinite(values)).sum())
            if bad:
                raise ValueError(f"{where}: {bad} of {values.size} {name} are not finite numbers; remove or fill them")
        if task.kind == "classification":
            if not np.issubdtype(ys.dtype, np.integer):
                raise ValueError(f"{where}: labels must be integers from 0 to {task.outputs - 1}, got {ys.dtype}")
            if ys.min() < 0 or ys.max() >= task.outputs:
                raise ValueError(f"{where}: labels must be from 0 to {task.outputs - 1}, got {ys.min()} to {ys.max()}")
    x = jax.ShapeDtypeStruct((2, *np.shape(task.train[0])[1:]), jnp.float32)
    out = jax.eval_shape(lambda key, x: task.apply(task.init(key), x), jax.random.key(0), x)
    if getattr(out, "shape", None) != (2, task.outputs):
        got = getattr(out, "shape", jax.tree.structure(out))
        raise ValueError(f"task {task.name!r}: apply(params, x[2, ...]) must give [2, {task.outputs}], got {got}")
