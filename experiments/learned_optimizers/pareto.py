"""Memory, compute and performance of learned optimizers (Metz et al. 2022, 2203.11860).

The optimizers that the paper compares, and STAR, are meta-trained in the same way by noise-reuse evolution strategies,
on a multilayer perceptron on 8x8 digits. Their final losses are divided by that of Adam, tuned on the same runs, and
set against their cost: the memory of their state, and the time of an update. This shows trade-offs at one small budget,
with the same outer steps for all and by default one meta-training; it does not show the best that each could reach.

    python -m experiments optimizer_pareto                  # a table and a picture
    python -m experiments optimizer_pareto --steps 1000     # longer meta-training
    python -m experiments optimizer_pareto quick            # the same with shorter meta-training
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Float

from experiments.learned_optimizers._training import final_interval, meta_train_seeds, tune_baselines
from experiments.learned_optimizers.cost import measure_costs
from experiments.suite.intervals import finite_interval, format_interval
from experiments.suite.results import write_result
from experiments.suite.tables import read_numbers
from metalearn.errors import unknown_name
from metalearn.gradients import nres
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import (
    LearnedOptimizer,
    learnable_adam,
    mlp_optimizer,
    nn_adam,
    rnn_mlp,
    small_fc,
    star,
)
from metalearn_tasks import objectives
from metalearn_tasks.objectives import cap_losses, final_losses, loss_curves, training_loop

SIBLINGS: dict[str, Callable[[], LearnedOptimizer]] = {
    "learnable-adam": learnable_adam,
    "nn-adam": nn_adam,
    "small-fc 4": lambda: small_fc((4, 4), 5e-3, 0.1),
    "small-fc 16": lambda: small_fc((16, 16), 5e-3, 0.1),
    "small-fc 32": lambda: small_fc((32, 32), 5e-3, 0.1),
    "star": lambda: star(step_size=5e-3, nominal_step_size=5e-3, exponent=0.1),
    "mlp": lambda: mlp_optimizer(step_size=5e-3, exponent=0.1),
    "rnn-mlp": lambda: rnn_mlp(step_size=5e-3, exponent=0.1),
}
"""Learned optimizers by name. Step sizes are our choice: larger than 0.001 in the papers, for shorter meta-training."""


@dataclass(frozen=True)
class OptimizerParetoConfig:
    """Learned optimizers: cost and final loss."""

    optimizers: tuple[str, ...] = tuple(name for name in SIBLINGS if name != "small-fc 32")
    """Learned optimizers to run. "small-fc 32" is not a default: it compiles for minutes, then takes some ten times as
    long as "mlp"."""
    objective: str = "mlp-digits"
    """Objective of meta-training and comparison."""
    steps: int = 300
    """Outer steps."""
    length: int = 500
    """Steps per training run."""
    pairs: int = 8
    """Antithetic pairs."""
    window: int = 50
    """Steps between two outer steps."""
    sigma: float = 0.01
    """Standard deviation of perturbations."""
    learning_rate: float = 3e-3
    """Peak learning rate of the outer Adam; it falls along a cosine."""
    seeds: int = 1
    """Meta-trainings per optimizer."""
    runs: int = 10
    """Training runs per meta-trained optimizer."""
    width: int = 128
    """Width of the two hidden layers of the network that updates are timed on, between 784 inputs and 10 outputs."""
    turns: int = 10
    """Turns per optimizer, of five timed updates each; the fastest update counts."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/optimizer-pareto")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": OptimizerParetoConfig(),
    "quick": OptimizerParetoConfig(
        ("learnable-adam", "nn-adam", "small-fc 4"),
        steps=50,
        length=100,
        window=20,
        runs=4,
        out=Path("runs/optimizer-pareto-quick"),
    ),
}


def run(config: OptimizerParetoConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, compare and time; returns what result.json holds.

    Raises:
        UnknownNameError: `SIBLINGS` lacks one of the optimizers.
    """
    for name in config.optimizers:
        if name not in SIBLINGS:
            raise unknown_name("learned optimizer", name, SIBLINGS)
    start = time.monotonic()
    optimizers = {name: SIBLINGS[name]() for name in config.optimizers}
    _, costs = measure_costs(optimizers, config.width, config.turns)
    objective, data, _ = objectives.load(config.objective)
    key = jax.random.key(config.seed)
    runs = jax.random.split(jax.random.fold_in(key, config.seeds), config.runs)
    adam = tune_baselines(("Adam",), objective, data, runs, config.length)["Adam"]
    reference = adam.final[adam.best]
    outer_adam = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.01))
    rows: dict[str, Any] = {
        "adam": {**costs["adam"]._asdict(), "meta_parameters": 1, "final": reference, "ratios": np.ones(1)}
    }
    for name, optimizer in optimizers.items():
        loop = cap_losses(training_loop(objective, optimizer, config.length), 20.0)
        estimator = nres(loop, config.sigma, config.pairs, config.window, stagger=True)
        keys, start_of_training = jax.random.split(key, config.seeds), time.monotonic()
        thetas = meta_train_seeds(name, optimizer, estimator, outer_adam, data, config.steps, keys, progress)
        seconds = time.monotonic() - start_of_training
        finals = [final_losses(loss_curves(objective, optimizer, t, data, runs, config.length)) for t in thetas]
        rows[name] = {
            **costs[name]._asdict(),
            "meta_parameters": sum(np.size(x) for x in jax.tree.leaves(thetas[0])),
            "final": np.concatenate(finals),
            # Run by run: a run of Adam with the same key has the same start and the same batches.
            "ratios": np.concatenate([f / reference for f in finals]),
            "meta_training_seconds": round(seconds, 1),
        }
        if progress is not None:
            progress.note(_format_row(name, rows[name]))
    front = pareto_front({name: row for name, row in rows.items() if name != "adam"})
    picture = config.out / "optimizer_pareto.png"
    draw(rows, front, f"{config.objective}, {config.steps} outer steps", picture)
    result = {"rows": rows, "front": front, "adam_learning_rate": adam.rate, "adam_at_edge": adam.at_edge}
    return write_result(config.out, {**result, "seconds": round(time.monotonic() - start, 1), "picture": str(picture)})


def pareto_front(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The optimizers that no other dominates: as good in final loss, state and time, and better in one of them.

    Differences count however small. The loss of an optimizer is infinite if any of its runs diverged.
    """

    def as_point(row: Mapping[str, Any]) -> Float[np.ndarray, "3"]:
        final = np.asarray(row["final"], np.float64)
        loss = float(final_interval(final).mean) if np.isfinite(final).all() else np.inf
        return np.array([loss, row["state"], row["nanoseconds"]])

    points = {name: as_point(row) for name, row in rows.items()}
    return [
        name
        for name, p in points.items()
        if np.isfinite(p).all() and not any((q <= p).all() and (q < p).any() for q in points.values())
    ]


def _format_row(name: str, row: Mapping[str, Any]) -> str:
    ratio = format_interval(finite_interval(read_numbers(row["ratios"]), geometric=True))
    return (
        f"{name:<16} {row['meta_parameters']:>8,} {row['state']:>7.2f}x {row['nanoseconds']:>8.2f} "
        f"{row['ratio']:>7.1f}  {float(final_interval(read_numbers(row['final'])).mean):>10.4g}  {ratio}"
    )


def draw(rows: Mapping[str, Mapping[str, Any]], front: Sequence[str], title: str, path: Path) -> None:
    """Draw final loss against memory and against time; the optimizers on the front are filled."""
    figure, axes = new_figure(columns=2)
    labels = ("state over parameters", "nanoseconds per parameter and update")
    for ax, (measure, label) in zip(axes, zip(("state", "nanoseconds"), labels, strict=True), strict=True):
        for number, (name, row) in enumerate(rows.items()):
            mean, low, high, _ = finite_interval(row["ratios"], geometric=True)
            x, color = row[measure], f"C{number % 10}"
            if np.isfinite(high - low):
                ax.plot([x, x], [low, high], "-", color=color, linewidth=1)
            ax.plot(x, mean, "o", color=color, fillstyle="full" if name in (*front, "adam") else "none")
            text = "tuned Adam" if name == "adam" else name
            # The most costly one is near the edge; neighbours in the order of the table may have the same cost.
            right = x < max(float(r[measure]) for r in rows.values())
            style: Any = {"textcoords": "offset points", "ha": "left" if right else "right", "fontsize": 7}
            ax.annotate(text, (x, float(mean)), xytext=(5 if right else -5, -10 if number % 2 else 4), **style)
        ax.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="final loss over tuned Adam's")
        low, high = ax.get_xlim()
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xticks([], minor=True)
    figure.suptitle(f"{title}; filled: no other learned one is better in all", fontsize=9)
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of costs and final losses, one line per optimizer, and the front."""
    edge = " (the last of those tried)" if result["adam_at_edge"] else ""
    head = (
        f"{'':<16} {'theta':>8} {'state':>8} {'ns each':>8} {'x adam':>7}  {'final loss':>10}  "
        "over tuned Adam's, geometric mean [95 % over runs]"
    )
    return "\n".join(
        [
            f"tuned Adam: learning rate {result['adam_learning_rate']:.3g}{edge}",
            head,
            *(_format_row(name, row) for name, row in result["rows"].items()),
            f"\nno other learned one is better in loss, memory and time at once: {', '.join(result['front'])}",
            f"picture: {result['picture']} ({result['seconds']} s)",
        ]
    )
