"""What does curvature cost? Steps of FOOF, KFAC and MAC against those of SGD, in one run.

The network of Benzing (ICML 2022, arXiv 2201.12250): 784-1000-1000-1000-10 with ReLU and without biases, batches of
100, float32. Each system is one compiled program of as many steps as an inverse is used for, so that a turn has one
update of all inverses; the systems take turns. "foof" and "kfac" measure `collect` batches per inverse, and "kfac"
draws labels for these alone; "foof-all" and "kfac-all" measure every batch, as the paper does with networks of dense
layers. "Statistics" is the value, the gradients and all inputs and output gradients of the layers, against
`jax.value_and_grad`, in programs that return everything.

Ratios are those of the turns, each to SGD's (or to `value_and_grad`'s) of the same round, of the clock and of CPU
seconds; the median is printed.

    python -m experiments curvature_cost
    python -m experiments curvature_cost --period 10     # inverses ten times as often
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from metalearn.runs.progress import Progress
from metalearn_models.optimizers.curvature import (
    foof,
    kfac,
    mac,
    mark_logits,
    reads_statistics,
    value_grad_and_sampled_statistics_if,
    value_grad_and_statistics,
)

__all__ = ["PRESETS", "CurvatureCostConfig", "format_result", "run"]


System = Literal["sgd", "momentum", "adam", "mac", "foof", "foof-all", "kfac", "kfac-all"]


@dataclass(frozen=True)
class CurvatureCostConfig:
    """What to time."""

    systems: tuple[System, ...] = get_args(System)
    """Optimizers to time, compared with the first of them."""
    widths: tuple[int, ...] = (784, 1000, 1000, 1000, 10)
    """Of the layers, from the inputs on."""
    batch: int = 100
    """Examples per step."""
    period: int = 100
    """Steps per inverse, and per turn."""
    collect: int = 10
    """Steps per inverse whose statistics are measured, in the systems that do not measure all."""
    rounds: int = 3
    """Turns of each system."""


Compute = Callable[[Any, Any, Any, Any, Any], tuple[Any, dict[str, Any]]]
"""`(state, key, params, x, y) -> (gradients, extra arguments of update)`."""


class Turn(NamedTuple):
    """Seconds per step: of the clock, and of all cores together, on which other jobs have less influence."""

    wall: float
    cpu: float


PRESETS = {"standard": CurvatureCostConfig()}


def run(config: CurvatureCostConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Time every system in turn.

    Args:
        config: what to time.
        progress: gets a note for each round.

    Returns:
        `steps` and `passes`: by system, `ms` per step in its fastest turn, and the median `ratio` and `cpu_ratio` to
        the first system.

    Raises:
        ValueError: a number is not positive, or `collect` is larger than `period`.
    """
    if min(*config.widths, config.batch, config.period, config.collect, config.rounds) < 1:
        raise ValueError(f"widths, batch, period, collect and rounds must be at least 1, got {config}")
    if config.collect > config.period:
        raise ValueError(f"collect must be at most the period of {config.period} steps, got {config.collect}")
    period, collect = config.period, config.collect
    tx: dict[System, tuple[Any, Compute]] = {
        "sgd": (optax.sgd(1e-3), _gradient),
        "momentum": (optax.sgd(1e-3, 0.9), _gradient),
        "adam": (optax.adam(1e-3), _gradient),
        "mac": (mac(1e-3, period=period, collect=collect), _statistics),
        "foof": (foof(1e-3, period=period, collect=collect), _statistics),
        "foof-all": (foof(1e-3, period=period), _statistics),
        "kfac": (kfac(1e-3, period=period, collect=collect), _sampled),
        "kfac-all": (kfac(1e-3, period=period), _sampled),
    }
    keys = jax.random.split(jax.random.key(0), len(config.widths) + 2)
    shapes = list(pairwise(config.widths))
    params = tuple(jax.random.normal(k, s) * math.sqrt(2 / s[0]) for k, s in zip(keys, shapes, strict=False))
    x = jax.random.uniform(keys[-1], (config.batch, config.widths[0]))
    y = jax.random.randint(keys[-2], (config.batch,), 0, config.widths[-1])
    cases: dict[str, Any] = {name: _steps(*tx[name], params, x, y, period) for name in config.systems}
    passes = _passes(params, x, y, max(1, period // 4))
    times: dict[str, list[Turn]] = {name: [] for name in (*cases, *passes)}
    for i in range(config.rounds):
        for name, advance in (cases | passes).items():
            wall, cpu = time.perf_counter(), time.process_time()
            count = advance()
            times[name].append(Turn((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
        if progress is not None:
            progress.note(f"round {i + 1} of {config.rounds} is done")
    return {"steps": _rows(times, list(cases)), "passes": _rows(times, list(passes))}


def _loss(params: Any, x: Any, y: Any) -> Any:
    for w in params[:-1]:
        x = jax.nn.relu(x @ w)
    return optax.softmax_cross_entropy_with_integer_labels(mark_logits(x @ params[-1]), y).mean()


def _gradient(state: Any, key: Any, params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    del state, key
    return jax.grad(_loss)(params, x, y), {}


def _statistics(state: Any, key: Any, params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    del state, key
    _, grads, found = value_grad_and_statistics(_loss)(params, x, y)
    return grads, {"statistics": found}


def _sampled(state: Any, key: Any, params: Any, x: Any, y: Any) -> tuple[Any, dict[str, Any]]:
    compute = value_grad_and_sampled_statistics_if(_loss)
    _, grads, found = compute(reads_statistics(state), key, params, x, y)
    return grads, {"statistics": found}


def _steps(tx: Any, compute: Compute, params: Any, x: Any, y: Any, count: int) -> Callable[[], int]:
    """A function that makes `count` steps; it has been called once, so that everything is compiled and measured."""
    tx = optax.with_extra_args_support(tx)

    def step(t: Any, carry: Any) -> Any:
        params, state, x, y, key = carry  # what is closed over is a constant, and what is made of it is computed once
        grads, extra = compute(state, jax.random.fold_in(key, t), params, x, y)
        updates, state = tx.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state, x, y, key

    program = jax.jit(lambda carry: jax.lax.fori_loop(0, count, step, carry), donate_argnums=0)
    start = (jax.tree.map(jnp.copy, params), tx.init(params), jnp.copy(x), jnp.copy(y), jax.random.key(1))
    held = [program(start)]

    def advance() -> int:
        held[0] = jax.block_until_ready(program(held[0]))
        return count

    jax.block_until_ready(held[0])
    return advance


def _passes(params: Any, x: Any, y: Any, count: int) -> dict[str, Callable[[], int]]:
    """Functions that make `count` forward and backward passes, without and with the statistics."""
    made: dict[str, Callable[[], int]] = {}
    for name, compute in {
        "value_and_grad": jax.value_and_grad(_loss),
        "statistics": value_grad_and_statistics(_loss),
    }.items():
        program = jax.jit(compute)
        jax.block_until_ready(program(params, x, y))

        def advance(program: Any = program) -> int:
            for _ in range(count):
                jax.block_until_ready(program(params, x, y))
            return count

        made[name] = advance
    return made


def _rows(times: dict[str, list[Turn]], names: list[str]) -> dict[str, dict[str, float]]:
    first = times[names[0]]
    return {
        name: {
            "ms": 1e3 * min(turn.wall for turn in times[name]),
            "ratio": statistics.median(t.wall / o.wall for t, o in zip(times[name], first, strict=True)),
            "cpu_ratio": statistics.median(t.cpu / o.cpu for t, o in zip(times[name], first, strict=True)),
        }
        for name in names
    }


def format_result(result: dict[str, Any]) -> str:
    """Two text tables."""
    lines = []
    for title, rows in (("step", result["steps"]), ("forward and backward pass", result["passes"])):
        lines.append(f"{title:<30} {'ms':>8} {'ratio':>6} {'of CPU':>6}")
        lines += [
            f"    {name:<26} {row['ms']:>8.1f} {row['ratio']:>6.2f} {row['cpu_ratio']:>6.2f}"
            for name, row in rows.items()
        ]
    return "\n".join(lines)
