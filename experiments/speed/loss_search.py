"""How much faster a population of losses trains as tables than one loss at a time, at equal work.

Equal work is 500 training steps of one network with one candidate: the fitness of EvoMAL (Raymond, Chen, Xue, Zhang
2023, arXiv 2209.08907). Network, batch and optimizer are the same on all sides:

- tables: a whole population in one function that is compiled once for every population;
- JAX, one tree at a time: the function is compiled anew for each tree, and seconds are reported with and without that;
- PyTorch, one tree at a time and not compiled, which is what EvoMAL's released code does.

The parts of EvoMAL's protocol that the tables do without are timed beside it and enter no ratio: the edge weights of
each new tree are trained by 250 gradients through one step of the network, and a tree is rejected by 1,000 steps on the
predictions of 100 examples. The search's own protocol, which trains sixteen networks per tree, is timed too.

Trees are random ones that pass the search's filters. Each time is the median over trees and repeats.

    python -m experiments loss_search_speed           # about two minutes on two cores
    python -m experiments loss_search_speed --torch-python other/bin/python     # PyTorch is in another environment
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.speed.peers.evomal import Work, one_at_a_time
from metalearn.runs.progress import Progress
from metalearn_models.losses.formulas import Const, Expr, Op
from metalearn_models.losses.search.evolution import EvolutionConfig, initial_population
from metalearn_models.losses.search.population import LossTask, TrainingConfig, trainer
from metalearn_models.losses.search.screening import fingerprint, reject
from metalearn_models.losses.search.table import screening_table

__all__ = [
    "PRESETS",
    "LossSearchSpeedConfig",
    "digits_task",
    "format_result",
    "run",
    "sound_trees",
    "together",
    "torch_seconds",
]


@dataclass(frozen=True)
class LossSearchSpeedConfig:
    """Measure the speed of evaluating candidate losses."""

    trees: int = 4
    """Candidates that are evaluated one at a time."""
    population: int = 25
    """Candidates that are trained together."""
    hidden: int = 64
    """Width of the network's hidden layer."""
    steps: int = 500
    """Steps of the fitness, EvoMAL's number."""
    refinements: int = 250
    """Gradients of the edge weights, EvoMAL's number."""
    filter_steps: int = 1000
    """Steps of the filter on predictions, EvoMAL's number."""
    batch: int = 128
    """Examples per step, EvoMAL's number."""
    repeats: int = 3
    """How often each time is taken."""
    torch_python: str = sys.executable
    """The Python that has torch."""
    seed: int = 0
    """Of trees, networks and batches."""


PRESETS = {"standard": LossSearchSpeedConfig()}


def digits_task(hidden: int) -> LossTask:
    """Digits, 1200 for training and 597 for validation; one hidden layer of ReLU."""
    from sklearn.datasets import load_digits

    xs, ys = load_digits(return_X_y=True)
    xs, ys = ((xs - xs[:1200].mean()) / xs[:1200].std()).astype(np.float32), ys.astype(np.int32)

    def init(key: Array) -> Any:
        first, second = jax.random.split(key)
        return {
            "w1": jax.random.normal(first, (64, hidden)) * 64**-0.5,
            "b1": jnp.zeros((1, hidden)),
            "w2": jax.random.normal(second, (hidden, 10)) * hidden**-0.5,
            "b2": jnp.zeros((1, 10)),
        }

    def apply(params: Any, xs: Array) -> Array:
        return jax.nn.relu(xs @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]

    return LossTask("digits", (xs[:1200], ys[:1200]), (xs[1200:], ys[1200:]), "classification", 10, init, apply)


def sound_trees(number: int, seed: int) -> list[Expr]:
    """Random trees that pass the filters of the search and have different fingerprints."""
    found: dict[str, Expr] = {}
    generation = 0
    while len(found) < number:
        for expr in initial_population(EvolutionConfig(population=100), seed, generation):
            table = screening_table(expr, "classification")
            if reject(table, "classification") is None:
                found.setdefault(fingerprint(table, "classification"), expr)
        generation += 1
    return list(found.values())[:number]


def together(
    task: LossTask, losses: list[Expr], training: TrainingConfig, repeats: int
) -> tuple[float, float, list[float]]:
    """Train a population by tables.

    Returns:
        Seconds of the first call, which compiles; the median over `repeats` of seconds per candidate; each of them.
    """
    train = trainer(task, training)
    keys = jax.random.split(jax.random.key(0), training.seeds)
    began = time.perf_counter()
    train.train(losses[: training.candidates], keys)
    first = time.perf_counter() - began
    each = []
    for _ in range(repeats):
        began = time.perf_counter()
        train.train(losses, keys)
        each.append((time.perf_counter() - began) / len(losses))
    return first, statistics.median(each), each


def torch_seconds(task: LossTask, losses: list[Expr], config: LossSearchSpeedConfig) -> dict[str, Any]:
    """Train one network per loss in a process of PyTorch.

    Returns:
        `seconds` and `errors` per loss and repeat, and `version`; or `missing`, the module that is not installed.

    Raises:
        OSError: the process failed; its own message is above.
    """
    xs, ys = task.train
    data = {
        "xs": xs,
        "ys": np.eye(task.outputs, dtype=np.float32)[ys],
        "valid_xs": task.valid[0],
        "valid_ys": task.valid[1],
    }
    request = {
        "data": {name: np.asarray(values).tolist() for name, values in data.items()},
        "trees": [_as_lists(expr) for expr in losses] * config.repeats,
        "hidden": config.hidden,
        "steps": config.steps,
        "batch": config.batch,
        "seed": config.seed,
    }
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [config.torch_python, "-m", "experiments.speed.peers._loss_search_torch"]
    done = subprocess.run(
        command, input=json.dumps(request), stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    if done.returncode != 0:
        raise OSError(f"the process of PyTorch ended with status {done.returncode}: its own message is above")
    return json.loads(done.stdout)


def _as_lists(expr: Expr) -> Any:
    """A tree as `peers._loss_search_torch.evaluate` reads it, with all coefficients 1."""
    if isinstance(expr, Op):
        return [expr.name, *(part for arg in expr.args for part in (1.0, _as_lists(arg)))]
    return expr.value if isinstance(expr, Const) else expr.name


def run(config: LossSearchSpeedConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure.

    Returns:
        `seconds` per candidate by what was done; `ratios`, seconds of one at a time over seconds by tables, for equal
        work; `spread`, the smallest and largest of the repeats by tables; `first`, the seconds of compiling the tables;
        and `torch`, the version, or None where it is not installed.
    """
    task = digits_task(config.hidden)
    losses = sound_trees(max(config.population, config.trees), config.seed)
    work = Work(config.steps, config.refinements, config.filter_steps, config.batch, config.repeats, config.seed)
    parts = []
    for number, expr in enumerate(losses[: config.trees]):
        parts.append(one_at_a_time(task, expr, work)[0])
        if progress is not None:
            progress.note(f"{number + 1} of {config.trees} trees one at a time")
    median = {name: statistics.median(part[name] for part in parts) for name in parts[0]}
    eager = torch_seconds(task, losses[: config.trees], config)
    if progress is not None and "missing" in eager:
        progress.note(f"no {eager['missing']} here: pip install 'metalearn[bench]'")

    alike = TrainingConfig(config.steps, config.batch, "sgd", (0.01,), 1, config.population)
    first, each, spread = together(task, losses[: config.population], alike, config.repeats)
    _, own, _ = together(task, losses[: config.population], TrainingConfig(), config.repeats)
    seconds = {
        f"tables, {config.population} trees together": each,
        "JAX, one tree at a time": median["train"],
        "JAX, one tree at a time, with compiling": median["compile train"] + median["train"],
    }
    if "seconds" in eager:
        seconds["PyTorch, one tree at a time, not compiled"] = statistics.median(eager["seconds"])
    return {
        "task": f"digits, network 64-{config.hidden}-10, {config.steps} steps of {config.batch} examples",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "seconds": seconds,
        "spread": [min(spread), max(spread)],
        "other": {
            f"EvoMAL's {config.refinements} refinements in JAX": median["refine"],
            f"EvoMAL's filter of {config.filter_steps} steps in JAX": median["filter"],
            "compiling both": median["compile refine"] + median["compile filter"],
            "the search's own protocol: 16 networks of 300 steps": own,
        },
        "first": first - each * config.population,
        "ratios": {name: value / each for name, value in seconds.items() if value is not each},
        "torch": eager.get("version"),
    }


def format_result(result: dict[str, Any]) -> str:
    """Seconds and ratios as text tables."""
    low, high = result["spread"]
    lines = [
        f"{result['task']}; {result['cores']} cores, XLA_FLAGS={result['xla_flags']!r}, torch {result['torch']}",
        "",
        f"{'equal work, seconds per candidate':60s}   seconds   ratio",
    ]
    for name, value in result["seconds"].items():
        ratio = result["ratios"].get(name)
        lines.append(f"{name:60s} {value:9.4f}" + (f" {ratio:7.1f}x" if ratio is not None else ""))
    lines.append(f"the tables took {low:.4f} to {high:.4f}; they were compiled in {result['first']:.1f} s, once")
    lines += ["", "what is not compared, seconds per candidate"]
    lines += [f"{name:60s} {value:9.4f}" for name, value in result["other"].items()]
    return "\n".join(lines)
