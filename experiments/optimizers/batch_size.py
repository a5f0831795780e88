"""Large batches against small ones: scaling rules for the learning rate, LARS, LAMB and SAM, at equal epochs and steps.

Linear scaling and warm-up: Goyal et al. 2017 (arXiv 1706.02677). LARS: You, Gitman, Ginsburg 2017 (arXiv 1708.03888).
LAMB: You et al. 2020 (arXiv 1904.00962). SAM: Foret et al. 2021 (arXiv 2010.01412), which takes two gradients per step.
The gap in generalisation: Keskar et al. 2017 (arXiv 1609.04836). A network learns 1,500 digits in batches of 50 to all
1,500, for as many epochs (a thirtieth of the steps at 1,500) or as many steps (thirty times the epochs). All rates rise
over the first quarter of a run and are constant afterwards. Every optimizer has
a grid of nine learning rates, a half-decade apart, per size and budget, and takes the one with the lowest training loss
over five seeds that the comparison does not use; losses below 1e-4 count as equal there, and the lowest rate wins. (In
a first run with two such seeds and no floor, the rates that were taken were too large for many of the others.) The
scaled rates are those of SGD with momentum at a batch of 50, times the ratio of the batches or its root.

Rule of the verdict, written before the first run; intervals are 95 %, Student's t over pairs of one seed. "Linear": at
equal epochs the training loss of the linearly scaled rate over that of the tuned rate, at the batch of 150 and of 500,
has an interval that lies below 1.1. "Layerwise": at equal epochs and the largest batch, LARS or LAMB has a lower
training loss than tuned SGD with momentum, the whole interval of the ratio below 1. "Gap": at equal steps, where both
train to the end, the test accuracy of SGD with momentum at the largest batch is lower than at 50, with the whole
interval below 0. Each part is reproduced if so, not reproduced if its interval lies wholly on the other side (for
"linear" above 1.1 at one of the sizes, for "layerwise" above 1 for both), and open otherwise. The verdict is
that of the parts if they agree, and "open" otherwise.

    python -m experiments batch_size            # minutes on two cores
    python -m experiments batch_size quick      # two sizes, fewer seeds
    python -m experiments batch_size --help
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import rearrange
from jaxtyping import Float

from experiments.optimizers._batch_size_picture import draw, format_table
from experiments.optimizers.neurons.tasks import Data, Task, draw_data, init, loss, predict
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.handmade.sam import loss_and_grad_fn, sam
from metalearn_models.optimizers.schedules import linear_scaling, sqrt_scaling, warm_up

__all__ = ["PRESETS", "BatchSizeConfig", "format_result", "judge", "run"]

TUNING_SEED, TIMES = 1000, 10
FLOOR, TUNING_FLOOR = 1e-9, 1e-4
"""Training losses below these count as these, in the comparison and on the grid."""
GRID = tuple(round(10 ** (k / 2), 5) for k in range(-4, 5))
"""Factors on the middle rate of a method, for which the grid is meant to have no best point at its edge."""


def _sgd(rate: Any) -> optax.GradientTransformation:
    return optax.sgd(rate, 0.9)


OPTIMIZERS: dict[str, tuple[float, Callable[[Any], optax.GradientTransformation]]] = {
    "SGD": (0.03, _sgd),
    "LARS": (10.0, lambda rate: optax.lars(rate, trust_coefficient=0.001)),
    "LAMB": (0.03, optax.lamb),
    "Adam": (0.01, optax.adam),
    "SAM": (0.03, lambda rate: sam(_sgd(rate), 0.05)),
}
"""The middle of the grid of rates, and `(schedule) -> transformation`. The other constants are those of optax and the
papers, and were not tuned."""
SCALED = {"SGD, linear": linear_scaling, "SGD, root": sqrt_scaling}


@dataclass(frozen=True)
class BatchSizeConfig:
    """Large batches against small ones."""

    batches: tuple[int, ...] = (50, 150, 500, 1500)
    """Examples per step, divisors of 1,500; the first is the one that rates are scaled from."""
    optimizers: tuple[str, ...] = tuple(OPTIMIZERS)
    """Optimizers whose rate is tuned at every size."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the network's hidden layers."""
    epochs: int = 20
    """Epochs of the smallest batch; its steps are those of all sizes at equal steps."""
    noise: float = 0.0
    """Share of the training labels that are drawn again. With it, a run that passes through the data thirty times as
    often memorises wrong labels, whatever its batch: a pilot of two seeds with 0.2 showed that, and no gap."""
    seeds: int = 10
    """Runs at the best learning rate."""
    tuning_seeds: int = 5
    """Runs per learning rate."""
    out: Path = Path("runs/batch_size")
    """Folder of the picture, the table and the runs that are kept."""


PRESETS = {
    "standard": BatchSizeConfig(),
    "quick": BatchSizeConfig(
        (50, 1500), ("SGD", "LARS", "LAMB"), epochs=10, seeds=4, tuning_seeds=2, out=Path("runs/batch_size-quick")
    ),
}


def run(config: BatchSizeConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Tune, compare and draw; returns what result.json holds. What was run already is read from the folder."""
    begun, note = time.monotonic(), (lambda text: None) if progress is None else progress.note
    rows: list[dict[str, Any]] = []
    for batch in config.batches:
        per_epoch = 1500 // batch
        steps = {"epochs": config.epochs * per_epoch, "steps": config.epochs * 1500 // config.batches[0]}
        for budget in ("epochs", "steps") if batch != config.batches[0] else ("epochs",):
            tuned = [r["rate"] for r in rows if r["method"] == "SGD"]
            for name in config.optimizers:
                rows.append({"batch": batch, "budget": budget, "method": name, "steps": steps[budget],
                             **_measure(config, batch, steps[budget], name, None, note)})  # fmt: skip
            for name, scale in SCALED.items() if tuned and budget == "epochs" else ():
                rate = scale(tuned[0], config.batches[0], batch)
                rows.append({"batch": batch, "budget": budget, "method": name, "steps": steps[budget],
                             **_measure(config, batch, steps[budget], "SGD", rate, note)})  # fmt: skip
    result = {"rows": rows, "batches": config.batches, **judge(rows)}
    picture = draw(result, config.out / "batch_size.png")
    return write_result(config.out, result | {"picture": str(picture), "seconds": round(time.monotonic() - begun, 1)})


def _measure(config: BatchSizeConfig, batch: int, steps: int, name: str, rate: Any, note: Any) -> dict[str, Any]:
    """Learning rate and what it reaches: computed, or read; the rate is tuned unless it is given."""
    path = config.out / "cells" / f"{batch}-{steps}-{name}-{'tuned' if rate is None else f'{rate:g}'}.json"
    marks = {k: str(v) for k, v in vars(config).items() if k not in ("out", "optimizers", "batches")}
    if path.exists() and (kept := json.loads(path.read_text()))["config"] == marks:
        return kept["found"]
    start, found = time.monotonic(), {}
    train = functools.partial(train_many, config, batch, steps, name)
    if rate is None:
        rates = tuple(float(f"{OPTIMIZERS[name][0] * factor:.3g}") for factor in GRID)
        losses = train(range(TUNING_SEED, TUNING_SEED + config.tuning_seeds), rates)["train_loss"][..., -1]
        scores = np.exp(np.log(np.maximum(np.where(np.isfinite(losses), losses, np.inf), TUNING_FLOOR)).mean(1))
        rate = rates[int(scores.argmin())]
        found = {"edge": rate in (rates[0], rates[-1]), "tuning": scores.tolist()}
    curves = train(range(config.seeds), (rate,))
    found = {"edge": False, **found, "rate": rate, **{key: value[0].tolist() for key, value in curves.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": marks, "found": found}))
    final = np.mean(found["test_accuracy"], 0)[-1]
    note(f"{batch}, {steps} steps, {name} at {rate:g}: {final:.3f}, {time.monotonic() - start:.0f} s")
    return found


def train_many(
    config: BatchSizeConfig, batch: int, steps: int, name: str, seeds: Any, rates: tuple[float, ...]
) -> dict[str, Float[np.ndarray, "R S E"]]:
    """Training loss (all examples) and test accuracy of every rate and seed, at ten times of each run."""
    task = Task(config.hidden, None, config.noise, batch, steps)
    data = [draw_data(task, seed) for seed in seeds]
    examples = len(data[0].labels)
    rows = np.stack([_draw_rows(examples, batch, steps, seed) for seed in seeds])
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *data)
    keys = jax.vmap(jax.random.key)(jnp.asarray(list(seeds)))

    def one(rate: Any, data: Data, rows: Any, key: Any) -> dict[str, Any]:
        tx = optax.with_extra_args_support(OPTIMIZERS[name][1](warm_up(rate, steps // 4)))

        def step(carry: Any, row: Any) -> Any:
            params, state = carry
            compute = loss_and_grad_fn(lambda params: loss(params, data.inputs[row], data.labels[row]))
            _, grads, extra = compute(params, None)
            updates, state = tx.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        def part(carry: Any, rows: Any) -> Any:
            carry, _ = jax.lax.scan(step, carry, rows)
            right = predict(carry[0], data.test_inputs).argmax(1) == data.test_labels
            return carry, (loss(carry[0], data.inputs, data.labels), right.mean())

        params = init(task, data.inputs.shape[1], key)
        parts = rearrange(rows, "(e s) b -> e s b", e=TIMES)
        losses, accuracy = jax.lax.scan(part, (params, tx.init(params)), parts)[1]
        return {"train_loss": losses, "test_accuracy": accuracy}

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        over_rates = jax.vmap(jax.vmap(one, in_axes=(None, 0, 0, 0)), in_axes=(0, None, None, None))
        found = jax.jit(over_rates)(jnp.asarray(rates), stacked, rows, keys)
    return jax.tree.map(np.asarray, found)


def _draw_rows(examples: int, batch: int, steps: int, seed: int) -> Any:
    """The examples of each batch: every epoch goes through all of them, in an order of its own."""
    rng, per_epoch = np.random.default_rng(seed), examples // batch
    orders = [rng.permutation(examples)[: per_epoch * batch] for _ in range(-(-steps // per_epoch))]
    return np.stack(orders).reshape(-1, batch)[:steps]


def _last(row: Mapping[str, Any], key: str) -> Float[np.ndarray, " S"]:
    return np.array([np.nan if v[-1] is None else v[-1] for v in row[key]], np.float64)


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The verdict by the rule of this module: its three parts, with intervals, and words."""
    by = {(r["batch"], r["budget"], r["method"]): r for r in rows}
    small, large = rows[0]["batch"], rows[-1]["batch"]

    def ratio(a: Any, b: Any) -> list[float]:
        first, second = (np.log(np.maximum(_last(by[key], "train_loss"), FLOOR)) for key in (a, b))
        return [float(np.exp(x)) for x in list_interval(first - second)]

    sizes = [b for b in (150, 500) if (b, "epochs", "SGD, linear") in by]
    linear = {f"linear at {b}": ratio((b, "epochs", "SGD, linear"), (b, "epochs", "SGD")) for b in sizes}
    layerwise = {name: ratio((large, "epochs", name), (large, "epochs", "SGD"))
                 for name in ("LARS", "LAMB") if (large, "epochs", name) in by}  # fmt: skip
    gap = list_interval(
        _last(by[large, "steps", "SGD"], "test_accuracy") - _last(by[small, "epochs", "SGD"], "test_accuracy")
    )
    parts = {
        "linear": _part([h < 1.1 for *_, h in linear.values()], [v > 1.1 for _, v, _ in linear.values()], all, any),
        "layerwise": _part(
            [h < 1 for *_, h in layerwise.values()], [v > 1 for _, v, _ in layerwise.values()], any, all
        ),
        "gap": _part([gap[2] < 0], [gap[1] > 0], all, any),
    }
    verdict = next(iter(parts.values())) if len(set(parts.values())) == 1 else "open"
    texts = [
        f"{name} {v:.2f} [{low:.2f}, {high:.2f}] of the tuned rate's loss" for name, (v, low, high) in linear.items()
    ]
    texts += [
        f"{name} {v:.2f} [{low:.2f}, {high:.2f}] of SGD's at {large}" for name, (v, low, high) in layerwise.items()
    ]
    texts.append("gap at equal steps {:+.1f} [{:+.1f}, {:+.1f}] points".format(*(100 * x for x in gap)))
    words = f"{', '.join(f'{name}: {value}' for name, value in parts.items())}; {'; '.join(texts)}"
    return {"verdict": verdict, "words": words, "parts": parts, "linear": linear, "layerwise": layerwise, "gap": gap}


def _part(so: list[bool], not_so: list[bool], enough: Any, enough_against: Any) -> str:
    if so and enough(so):
        return "reproduced"
    return "not reproduced" if not_so and enough_against(not_so) else "open"


def format_result(result: Mapping[str, Any]) -> str:
    """The table, the verdict and the path of the picture."""
    lines = [format_table(result["rows"]), "", f"verdict: {result['verdict']}: {result['words']}"]
    return "\n".join([*lines, f"picture: {result['picture']}", f"time: {result['seconds']} s"])
