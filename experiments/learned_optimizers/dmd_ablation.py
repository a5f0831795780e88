"""Whether dynamic mode decomposition helps a learned optimizer on new tasks (Simanek, Vasata, Kordik, 2211.16268).

Two LSTM optimizers are meta-trained by truncated backpropagation on small sigmoid networks on 8x8 digits. They differ
in one thing: one of them also reads predictions by dynamic mode decomposition. They then train networks with other
nonlinearities, deeper and wider networks, and a network on other data. Only the abstract of the paper (2022) was
available to us. What is decomposed is our own reading of it (see `metalearn_models.optimizers.learned.dmd`), so this is
an ablation of ours and not of the paper.

Seed i of both optimizers meets the same batches in meta-training, and the same starts and batches afterwards. The
measure is the difference of the logarithms of their final losses, averaged over the runs of a seed, with an interval
over seeds. 0 means no difference; -0.1 means that the final loss is 10 % smaller with the decomposition.

    python -m experiments dmd_ablation            # a table and a picture
    python -m experiments dmd_ablation quick      # the same with shorter meta-training
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.learned_optimizers._training import clipped_adam, final_interval, meta_train_seeds, tune_baselines
from experiments.suite.intervals import finite_interval
from experiments.suite.results import write_result
from experiments.suite.tables import read_number
from metalearn.gradients import truncated_backprop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import LearnedOptimizer, dmd_lstm, first_order, log_and_sign, lstm_optimizer
from metalearn_tasks.datasets import load
from metalearn_tasks.objectives import Objective, final_losses, loss_curves, mlp_classification, training_loop


@dataclass(frozen=True)
class DMDAblationConfig:
    """An LSTM optimizer with and without dynamic mode decomposition."""

    steps: int = 300
    """Outer steps."""
    batch: int = 2
    """Networks per outer step."""
    window: int = 20
    """Steps that are backpropagated through."""
    length: int = 100
    """Steps per training run, in meta-training and afterwards."""
    learning_rate: float = 3e-3
    """Peak learning rate of the outer Adam; it falls along a cosine."""
    seeds: int = 3
    """Meta-trainings per optimizer."""
    runs: int = 5
    """Training runs per meta-trained optimizer and task."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/dmd-ablation")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": DMDAblationConfig(),
    "quick": DMDAblationConfig(steps=50, length=40, seeds=2, runs=2, out=Path("runs/dmd-ablation-quick")),
}


def contenders() -> dict[str, LearnedOptimizer]:
    """The same network with and without predictions among its inputs."""
    return {
        "LSTM": first_order(lstm_optimizer(output_scale=0.01, preprocess=log_and_sign())),
        "LSTM + DMD": first_order(dmd_lstm(output_scale=0.01, preprocess=log_and_sign())),
    }


def comparison_tasks() -> dict[str, tuple[Objective, Any]]:
    """The tasks of the comparison, each with its data; the first is the task of meta-training."""
    digits, cancer = load("digits"), load("breast_cancer")
    data, other = (jax.tree.map(jnp.asarray, d.train) for d in (digits, cancer))

    def network(hidden: Any, activation: Any = jax.nn.sigmoid, dataset: Any = digits) -> Objective:
        return mlp_classification(dataset.inputs, hidden, dataset.classes, 128, activation, scale=0.1)

    return {
        "as meta-trained": (network(20), data),
        "ReLU": (network(20, jax.nn.relu), data),
        "tanh": (network(20, jnp.tanh), data),
        "two layers": (network((20, 20)), data),
        "80 units": (network(80), data),
        "breast cancer": (network(20, dataset=cancer), other),
    }


def run(config: DMDAblationConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train and compare; returns what result.json holds."""
    start = time.monotonic()
    thetas = meta_train_all(config, progress)
    key = jax.random.key(config.seed)
    keys = jax.random.split(jax.random.fold_in(key, config.seeds), config.runs)
    rows: dict[str, Any] = {}
    for name, (objective, data) in comparison_tasks().items():
        # The loss of a step is that before its update: the extra step shows the loss after `length` updates.
        finals = {
            n: np.stack([final_losses(loss_curves(objective, o, t, data, keys, config.length + 1)) for t in thetas[n]])
            for n, o in contenders().items()
        }
        adam = tune_baselines(("Adam",), objective, data, keys, config.length + 1)["Adam"]
        gaps = log_gap(finals["LSTM + DMD"], finals["LSTM"])
        rows[name] = {
            "final": {n: final_interval(x.ravel())._asdict() for n, x in finals.items()},
            "Adam": float(final_interval(adam.final[adam.best]).mean),
            "learning_rate": adam.rate,
            "gaps": gaps,
            "gap": finite_interval(gaps)._asdict(),
            "diverged": {n: int((~np.isfinite(x)).sum()) for n, x in finals.items()},
        }
        if progress is not None:
            progress.note(_format_row(name, rows[name]))
    picture = config.out / "dmd_ablation.png"
    draw(rows, picture)
    result = {"tasks": rows, "seconds": round(time.monotonic() - start, 1), "picture": str(picture)}
    return write_result(config.out, result)


def meta_train_all(config: DMDAblationConfig, progress: Progress | None) -> dict[str, list[Any]]:
    """Theta of every seed of both optimizers."""
    objective, data = comparison_tasks()["as meta-trained"]
    thetas = {}
    for name, optimizer in contenders().items():
        loop = training_loop(objective, optimizer, config.length)
        estimator = truncated_backprop(loop, config.batch, config.window, config.length, stagger=True)
        keys = jax.random.split(jax.random.key(config.seed), config.seeds)
        adam = clipped_adam(config.learning_rate, config.steps)
        thetas[name] = meta_train_seeds(name, optimizer, estimator, adam, data, config.steps, keys, progress)
    return thetas


def log_gap(ours: Float[np.ndarray, "S R"], others: Float[np.ndarray, "S R"]) -> Float[np.ndarray, "S"]:
    """Mean of log(ours / others) of each seed, over the runs in which neither diverged; NaN if there is none."""
    kept = np.isfinite(ours) & np.isfinite(others)
    difference = np.log(np.where(kept, ours, 1.0)) - np.log(np.where(kept, others, 1.0))
    return np.where(kept.any(1), difference.sum(1) / np.maximum(kept.sum(1), 1), np.nan)


def verdict(gap: Mapping[str, Any]) -> str:
    """What an interval of the gap says: "better", "worse", or "open" if it contains 0 or is unknown."""
    return "better" if read_number(gap["high"]) < 0 else "worse" if read_number(gap["low"]) > 0 else "open"


def draw(rows: Mapping[str, Any], path: Path) -> None:
    """Draw final losses over tuned Adam's; and the gap of every seed, with its interval."""
    figure, (left, right) = new_figure(columns=2)
    x = np.arange(len(rows))
    for number, name in enumerate(("LSTM", "LSTM + DMD")):
        finals = [row["final"][name] for row in rows.values()]
        adam = np.array([row["Adam"] for row in rows.values()])
        mean, low, high = (np.array([float(r[k]) for r in finals]) for k in ("mean", "low", "high"))
        left.errorbar(
            x + 0.2 * (number - 0.5), mean / adam, np.stack([mean - low, high - mean]) / adam, fmt="o", label=name
        )
    left.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    left.set(yscale="log", ylabel="final loss over tuned Adam's\n(95 % interval over all runs)")
    left.legend()
    for i, row in enumerate(rows.values()):
        gaps, gap = np.asarray(row["gaps"]), row["gap"]
        right.plot(np.full(gaps.size, i), gaps, ".", color="C0")
        if np.isfinite(gap["high"] - gap["low"]):
            right.plot([i + 0.15] * 2, [gap["low"], gap["high"]], "-", color="C1", linewidth=2)
        right.plot(i + 0.15, gap["mean"], "o", color="C1")
    right.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    right.set_ylabel("log final loss, with DMD minus without\n(one dot per seed, 95 % interval)")
    for ax in (left, right):
        ax.set_xticks(x, rows, rotation=20, ha="right", fontsize=7)
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of final losses, geometric means, and the gap of their logarithms."""
    head = f"{'final loss':<22} {'tuned Adam':>10} {'LSTM':>10} {'with DMD':>10}   {'log gap [95 %]':<26} DMD is"
    lines = [_format_row(name, row) for name, row in result["tasks"].items()]
    return "\n".join([head, *lines, "", f"picture: {result['picture']} ({result['seconds']} s)"])


def _format_row(name: str, row: Mapping[str, Any]) -> str:
    means = [f"{read_number(row['final'][n]['mean']):>10.4g}" for n in ("LSTM", "LSTM + DMD")]
    mean, low, high = (read_number(row["gap"][key]) for key in ("mean", "low", "high"))
    gap = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    lost = "".join(f" {n}: {count} diverged" for n, count in row["diverged"].items() if count)
    return f"{name:<22} {read_number(row['Adam']):>10.4g} {' '.join(means)}   {gap:<26} {verdict(row['gap'])}{lost}"
