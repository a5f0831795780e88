"""Does dynamic mode decomposition help a learned optimizer elsewhere (Simanek, Vasata and Kordik 2022, 2211.16268)?

Two LSTM optimizers, alike but for the predictions that one of them reads, are meta-trained alike by truncated
backpropagation on small sigmoid networks on 8x8 digits, then train networks with other nonlinearities, deeper and
wider ones, and one on other data. Of the paper only the abstract was within our reach; what is decomposed is our own
reading of it (see `metalearn_models.optimizers.learned.dmd`), so that this is an ablation of ours and not of the paper.

Seed i of one meets the batches of seed i of the other in meta-training and runs from the same starts on the same
batches afterwards. What counts is the difference of the logarithms of their final losses, averaged over the runs of a
seed; the interval is over seeds, 0 is no difference, -0.1 is a final loss 10 % smaller with the decomposition.

    python -m experiments dmd_ablation            # a table and a picture
    python -m experiments dmd_ablation --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Float

from experiments.learned_optimizers._training import final_interval, meta_train, tuned_baselines
from experiments.suite.intervals import interval
from experiments.suite.results import write_result
from metalearn.gradients import truncated_backprop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.optimizers import LearnedOptimizer, dmd_lstm, first_order, log_and_sign, lstm_optimizer
from metalearn_tasks.datasets.load import load
from metalearn_tasks.objectives import Objective, final_losses, loss_curves, mlp_classification, training_loop


@dataclass(frozen=True)
class DMDAblationConfig:
    """An LSTM optimizer with and without dynamic mode decomposition."""

    steps: int = 300
    """Outer steps."""
    batch: int = 2
    """Networks an outer step."""
    window: int = 20
    """Steps backpropagated through."""
    length: int = 100
    """Steps of a training run, in meta-training and after it."""
    learning_rate: float = 3e-3
    """Of the outer Adam, at its peak; it falls along a cosine."""
    seeds: int = 3
    """Meta-trainings of each."""
    runs: int = 5
    """Training runs of each meta-trained optimizer, a place."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/dmd-ablation")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def contenders() -> dict[str, LearnedOptimizer]:
    """The same network, with and without predictions among its inputs."""
    return {
        "LSTM": first_order(lstm_optimizer(output_scale=0.01, preprocess=log_and_sign())),
        "LSTM + DMD": first_order(dmd_lstm(output_scale=0.01, preprocess=log_and_sign())),
    }


def places() -> dict[str, tuple[Objective, Any]]:
    """Where they run, with the data; the first is where they are meta-trained."""
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


def log_gap(ours: Float[np.ndarray, "S R"], others: Float[np.ndarray, "S R"]) -> Float[np.ndarray, "S"]:
    """Of each seed the mean of log(ours / others) over its runs in which neither diverged; NaN where there is none."""
    kept = np.isfinite(ours) & np.isfinite(others)
    difference = np.log(np.where(kept, ours, 1.0)) - np.log(np.where(kept, others, 1.0))
    return np.where(kept.any(1), difference.sum(1) / np.maximum(kept.sum(1), 1), np.nan)


def main(config: DMDAblationConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, run, compare; writes and returns what result.json holds."""
    began = time.monotonic()
    where = places()
    met, data = where["as meta-trained"]
    key = jax.random.key(config.seed)
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.01)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    thetas = {}
    for name, optimizer in contenders().items():
        loop = training_loop(met, optimizer, config.length)
        estimator = truncated_backprop(loop, config.batch, config.window, config.length, stagger=True)
        keys = jax.random.split(key, config.seeds)
        thetas[name] = meta_train(name, optimizer, estimator, tx, data, config.steps, keys, progress)
    found: dict[str, Any] = {}
    runs = jax.random.split(jax.random.fold_in(key, config.seeds), config.runs)
    for place, (objective, data) in where.items():
        # The loss of a step is that before its update: one step more shows what `length` updates came to.
        finals = {
            name: np.stack(
                [final_losses(loss_curves(objective, o, t, data, runs, config.length + 1)) for t in thetas[name]]
            )
            for name, o in contenders().items()
        }
        adam = tuned_baselines(("Adam",), objective, data, runs, config.length + 1)["Adam"]
        gaps = log_gap(finals["LSTM + DMD"], finals["LSTM"])
        found[place] = {
            "final": {n: final_interval(x.ravel())._asdict() for n, x in finals.items()},
            "Adam": float(final_interval(adam.final[adam.best]).mean),
            "learning_rate": adam.rate,
            "gaps": gaps,
            "gap": interval(gaps)._asdict(),
            "diverged": {n: int((~np.isfinite(x)).sum()) for n, x in finals.items()},
        }
        if progress is not None:
            progress.note(_line(place, found[place]))
    draw(found, config.out / "dmd_ablation.png")
    print(table(found))
    print(f"\npicture: {config.out / 'dmd_ablation.png'}")
    return write_result(config.out, {"places": found, "seconds": round(time.monotonic() - began, 1)})


def _line(place: str, row: dict[str, Any]) -> str:
    means = [f"{float(row['final'][name]['mean']):>10.4g}" for name in ("LSTM", "LSTM + DMD")]
    gap = row["gap"]
    text = f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"
    lost = ", ".join(f"{n}: {k} diverged" for n, k in row["diverged"].items() if k)
    return f"{place:<22} {row['Adam']:>10.4g} {' '.join(means)}   {text:<26} {verdict(row)}{' ' + lost if lost else ''}"


def verdict(row: dict[str, Any]) -> str:
    """What the interval of the gap says."""
    gap = row["gap"]
    return "better" if gap["high"] < 0 else "worse" if gap["low"] > 0 else "open"


def table(found: dict[str, Any]) -> str:
    """Final losses, geometric means, and the gap of their logarithms."""
    head = f"{'final loss':<22} {'tuned Adam':>10} {'LSTM':>10} {'with DMD':>10}   {'log gap [95 %]':<26} DMD is"
    return "\n".join([head, *(_line(place, row) for place, row in found.items())])


def draw(found: dict[str, Any], path: Path) -> None:
    """Final losses over tuned Adam's, and the gap a seed and its interval."""
    figure, (left, right) = new_figure(columns=2)
    x = np.arange(len(found))
    for number, name in enumerate(("LSTM", "LSTM + DMD")):
        rows = [row["final"][name] for row in found.values()]
        adam = np.array([row["Adam"] for row in found.values()])
        mean, low, high = (np.array([float(r[k]) for r in rows]) for k in ("mean", "low", "high"))
        left.errorbar(
            x + 0.2 * (number - 0.5), mean / adam, np.stack([mean - low, high - mean]) / adam, fmt="o", label=name
        )
    left.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    left.set(yscale="log", ylabel="final loss over tuned Adam's\n(95 % interval over all runs)")
    left.legend()
    for i, row in enumerate(found.values()):
        gaps, gap = np.asarray(row["gaps"]), row["gap"]
        right.plot(np.full(gaps.size, i), gaps, ".", color="C0")
        if np.isfinite(gap["high"] - gap["low"]):
            right.plot([i + 0.15] * 2, [gap["low"], gap["high"]], "-", color="C1", linewidth=2)
        right.plot(i + 0.15, gap["mean"], "o", color="C1")
    right.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
    right.set_ylabel("log final loss, with DMD less without\n(a dot a seed, 95 % interval)")
    for ax in (left, right):
        ax.set_xticks(x, found, rotation=20, ha="right", fontsize=7)
    save(figure, path)


if __name__ == "__main__":
    command = tyro.cli(DMDAblationConfig, description=__doc__)
    written = main(command, default_progress("loss"))
    if command.json:
        print(json.dumps(written))
