"""Memory, compute and performance of learned optimizers (Metz et al. 2022, 2203.11860).

The siblings that the paper compares, and STAR, are meta-trained alike by noise-reuse evolution strategies on a
multilayer perceptron on 8x8 digits. Their final losses over that of Adam, tuned on the very runs that are compared,
are set against what they cost: the memory of their state, and the time of an update. This shows trade-offs at one small
budget, the same outer steps for all and by default one meta-training, and not what each could come to.

    python -m experiments optimizer_pareto                  # a table and a picture; --steps 1000: longer meta-training
    python -m experiments optimizer_pareto --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro

from experiments.learned_optimizers._training import final_interval, meta_train, tuned_baselines
from experiments.learned_optimizers.cost import costs
from experiments.suite.intervals import interval, shown
from experiments.suite.results import write_result
from metalearn.errors import unknown_name
from metalearn.gradients import nres
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.optimizers import (
    LearnedOptimizer,
    learnable_adam,
    mlp_optimizer,
    nn_adam,
    rnn_mlp,
    small_fc,
    star,
)
from metalearn_tasks.objectives import capped, final_losses, loss_curves, named_objective, training_loop

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
"""With larger step sizes than the papers' 0.001, which suit shorter meta-training; our choice."""


@dataclass(frozen=True)
class OptimizerParetoConfig:
    """Learned optimizers: what they cost and what they are worth."""

    optimizers: tuple[str, ...] = tuple(name for name in SIBLINGS if name != "small-fc 32")
    """Which. "small-fc 32" is left out for its time: minutes of compilation, then some ten times that of "mlp"."""
    objective: str = "mlp-digits"
    """Where they are meta-trained and judged."""
    steps: int = 300
    """Outer steps."""
    length: int = 500
    """Steps of a training run."""
    pairs: int = 8
    """Antithetic pairs."""
    window: int = 50
    """Steps between two outer steps."""
    sigma: float = 0.01
    """Standard deviation of perturbations."""
    learning_rate: float = 3e-3
    """Of the outer Adam, at its peak; it falls along a cosine."""
    seeds: int = 1
    """Meta-trainings of each."""
    runs: int = 10
    """Training runs of each meta-trained optimizer."""
    width: int = 128
    """Of the two hidden layers of the network that updates are timed on, between 784 inputs and 10 outputs."""
    turns: int = 10
    """Turns of five timed updates of each; the fastest counts."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/optimizer-pareto")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def main(config: OptimizerParetoConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, run, time; writes and returns what result.json holds."""
    for name in config.optimizers:
        if name not in SIBLINGS:
            raise unknown_name("learned optimizer", name, SIBLINGS)
    began = time.monotonic()
    optimizers = {name: SIBLINGS[name]() for name in config.optimizers}
    _, cost = costs(optimizers, config.width, config.turns)
    objective, data, _ = named_objective(config.objective)
    key = jax.random.key(config.seed)
    runs = jax.random.split(jax.random.fold_in(key, config.seeds), config.runs)
    adam = tuned_baselines(("Adam",), objective, data, runs, config.length)["Adam"]
    reference = adam.final[adam.best]
    tx = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.01))
    rows: dict[str, Any] = {
        "adam": {**cost["adam"]._asdict(), "meta_parameters": 1, "final": reference, "ratios": np.ones(1)}
    }
    for name, optimizer in optimizers.items():
        loop = capped(training_loop(objective, optimizer, config.length), 20.0)
        estimator = nres(loop, config.sigma, config.pairs, config.window, stagger=True)
        keys, started = jax.random.split(key, config.seeds), time.monotonic()
        thetas = meta_train(name, optimizer, estimator, tx, data, config.steps, keys, progress)
        seconds = time.monotonic() - started
        finals = [final_losses(loss_curves(objective, optimizer, t, data, runs, config.length)) for t in thetas]
        rows[name] = {
            **cost[name]._asdict(),
            "meta_parameters": sum(np.size(x) for x in jax.tree.leaves(thetas[0])),
            "final": np.concatenate(finals),
            # Run by run: a run of Adam with the same key has the same start and batches.
            "ratios": np.concatenate([f / reference for f in finals]),
            "meta_training_seconds": round(seconds, 1),
        }
        if progress is not None:
            progress.note(_line(name, rows[name]))
    front = pareto({name: row for name, row in rows.items() if name != "adam"})
    draw(config, rows, front)
    print(f"tuned Adam: learning rate {adam.rate:.3g}{' (the last of those tried)' if adam.at_edge else ''}")
    print(table(rows))
    print(f"\nno other learned one is better in loss, memory and time at once: {', '.join(front)}")
    print(f"picture: {config.out / 'optimizer_pareto.png'}")
    result = {"rows": rows, "front": front, "adam_learning_rate": adam.rate, "adam_at_edge": adam.at_edge}
    return write_result(config.out, {**result, "seconds": round(time.monotonic() - began, 1)})


def pareto(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Those that no other equals or betters in final loss, state and time while bettering one of them.

    Differences count however small. One of whose runs any diverged has an infinite loss.
    """

    def of(row: Mapping[str, Any]) -> np.ndarray:
        final = np.asarray(row["final"], np.float64)
        loss = float(final_interval(final).mean) if np.isfinite(final).all() else np.inf
        return np.array([loss, row["state"], row["nanoseconds"]])

    points = {name: of(row) for name, row in rows.items()}
    return [
        name
        for name, p in points.items()
        if np.isfinite(p).all() and not any((q <= p).all() and (q < p).any() for q in points.values())
    ]


def _line(name: str, row: Mapping[str, Any]) -> str:
    ratio = shown(interval(row["ratios"], geometric=True))
    return (
        f"{name:<16} {row['meta_parameters']:>8,} {row['state']:>7.2f}x {row['nanoseconds']:>8.2f} "
        f"{row['ratio']:>7.1f}  {float(final_interval(row['final']).mean):>10.4g}  {ratio}"
    )


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Costs and final losses, a line each."""
    head = (
        f"{'':<16} {'theta':>8} {'state':>8} {'ns each':>8} {'x adam':>7}  {'final loss':>10}  "
        "over tuned Adam's, geometric mean [95 % over runs]"
    )
    return "\n".join([head, *(_line(name, row) for name, row in rows.items())])


def draw(config: OptimizerParetoConfig, rows: Mapping[str, Mapping[str, Any]], front: list[str]) -> None:
    """Final loss against memory, and against time; those on the front are filled."""
    figure, axes = new_figure(columns=2)
    labels = ("state over parameters", "nanoseconds a parameter, an update")
    for ax, (measure, label) in zip(axes, zip(("state", "nanoseconds"), labels, strict=True), strict=True):
        for number, (name, row) in enumerate(rows.items()):
            mean, low, high, _ = interval(row["ratios"], geometric=True)
            x, color = row[measure], f"C{number % 10}"
            if np.isfinite(high - low):
                ax.plot([x, x], [low, high], "-", color=color, linewidth=1)
            ax.plot(x, mean, "o", color=color, fillstyle="full" if name in (*front, "adam") else "none")
            ax.annotate(
                "tuned Adam" if name == "adam" else name,
                (x, float(mean)),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=7,
            )
        ax.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="final loss over tuned Adam's")
        low, high = ax.get_xlim()
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xticks([], minor=True)
    figure.suptitle(
        f"{config.objective}, {config.steps} outer steps; filled: no other learned one is better in all", fontsize=9
    )
    save(figure, config.out / "optimizer_pareto.png")


if __name__ == "__main__":
    command = tyro.cli(OptimizerParetoConfig, description=__doc__)
    written = main(command, default_progress("loss"))
    if command.json:
        print(json.dumps(written))
