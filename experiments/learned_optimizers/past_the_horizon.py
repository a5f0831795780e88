"""Learned optimizers far past their meta-training: longer runs and other networks (Harrison et al. 2022).

small_fc and STAR (arXiv 2209.11208) are meta-trained several times each on a multilayer perceptron on 8x8 digits; theta
of STAR is meta-trained with weight decay, which is part of the method. They then run for 40 times as many steps, and on
new networks. A run has diverged if its loss is not finite or its last losses are above those of an untrained network.
The learning rate of Adam is tuned for each network and length. The paper compares both on larger networks and images;
this is the smallest setting in which the question can be asked.

    python -m experiments past_the_horizon            # a table and a picture
    python -m experiments past_the_horizon quick      # the same with shorter meta-training and runs
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key

from experiments.learned_optimizers._training import final_interval, meta_train_seeds, tune_baselines
from experiments.suite.results import write_result
from metalearn.gradients import nres
from metalearn.pictures import draw_loss_curves, new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import LearnedOptimizer, small_fc, star
from metalearn_tasks.datasets import Dataset, load
from metalearn_tasks.objectives import (
    Objective,
    cap_losses,
    conv_classification,
    final_losses,
    layer_norm_classification,
    loss_curves,
    mlp_classification,
    training_loop,
)

Network = Literal["four times wider", "three layers", "tanh", "layer normalisation", "convolutions"]


@dataclass(frozen=True)
class PastTheHorizonConfig:
    """small_fc and STAR past their meta-training."""

    steps: int = 1500
    """Outer steps."""
    length: int = 500
    """Steps per training run in meta-training."""
    far: int = 20_000
    """Steps per long run."""
    elsewhere: int = 2000
    """Steps per run on other networks."""
    networks: tuple[Network, ...] = get_args(Network)
    """Other networks to train."""
    seeds: int = 3
    """Meta-trainings per optimizer."""
    runs: int = 4
    """Training runs per meta-trained optimizer."""
    pairs: int = 8
    """Antithetic pairs."""
    window: int = 50
    """Steps between two outer steps."""
    sigma: float = 0.01
    """Standard deviation of perturbations."""
    learning_rate: float = 3e-3
    """Peak learning rate of the outer optimizer; it falls along a cosine."""
    weight_decay: float = 0.1
    """Weight decay of theta in the meta-training of STAR; the paper tried 0.1, 0.5 and 1."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/past-the-horizon")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": PastTheHorizonConfig(),
    "quick": PastTheHorizonConfig(
        steps=100,
        length=100,
        far=1000,
        elsewhere=200,
        networks=("tanh",),
        seeds=1,
        window=20,
        out=Path("runs/past-the-horizon-quick"),
    ),
}


CONTENDERS: dict[str, LearnedOptimizer] = {
    "small_fc": small_fc(step_size=5e-3, exponent=0.1),
    "STAR": star(step_size=1e-3, nominal_step_size=1e-2, exponent=0.1),
}
"""Learned optimizers by name. Step sizes and exponents are our choice: larger than 0.001 in the papers, for shorter
meta-training."""
FLOOR = 1e-6
"""Final losses below it are replaced by it. On separable data they go to 0, which would make ratios meaningless."""


def find_diverged(curves: Float[np.ndarray, "S T"]) -> Bool[np.ndarray, "S"]:
    """Whether each run ended above its first loss, or had a loss that is not finite."""
    final = final_losses(curves)
    return ~np.isfinite(final) | (final > curves[:, :1].mean(-1))


def run(config: PastTheHorizonConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train and compare; returns what result.json holds."""
    start = time.monotonic()
    digits = load("digits")
    data = jax.tree.map(jnp.asarray, digits.train)
    tasks = comparison_tasks(config, digits)
    meta_key, run_key = jax.random.split(jax.random.key(config.seed))
    keys = jax.random.split(meta_key, config.seeds)
    thetas = meta_train_all(config, next(iter(tasks.values()))[0], data, keys, progress)
    rows: dict[str, Any] = {}
    long_runs: dict[str, np.ndarray] = {}
    runs = jax.random.split(run_key, config.runs)
    for task, (objective, steps) in tasks.items():
        adam = tune_baselines(("Adam",), objective, data, runs, steps)["Adam"]
        reference = float(final_interval(np.maximum(adam.final[adam.best], FLOOR)).mean)
        rows[task] = {"Adam": {"final_loss": reference, "learning_rate": adam.rate, "at_edge": adam.at_edge}}
        curves = {
            name: [np.asarray(loss_curves(objective, optimizer, t, data, runs, steps)) for t in thetas[name]]
            for name, optimizer in CONTENDERS.items()
        }
        rows[task] |= {name: summarise_runs(curves_by_seed, reference) for name, curves_by_seed in curves.items()}
        if task == _long_run(config):
            long_runs = {name: np.concatenate(curves_by_seed) for name, curves_by_seed in curves.items()}
            long_runs["reference: Adam, tuned"] = adam.curves
        if progress is not None:
            progress.note(_format_row(task, rows[task]))
    picture = config.out / "past_the_horizon.png"
    draw(rows, long_runs, config.length, picture)
    result = {"tasks": rows, "seconds": round(time.monotonic() - start, 1), "picture": str(picture)}
    return write_result(config.out, result)


def comparison_tasks(config: PastTheHorizonConfig, digits: Dataset) -> dict[str, tuple[Objective, int]]:
    """The objectives of the comparison and their steps; the first is the objective of meta-training."""
    d, c = digits.inputs, digits.classes
    met = mlp_classification(d, 32, c)
    networks = {
        "four times wider": mlp_classification(d, 128, c),
        "three layers": mlp_classification(d, (32, 32, 32), c),
        "tanh": mlp_classification(d, 32, c, activation=jnp.tanh),
        "layer normalisation": layer_norm_classification(d, (32, 32), c),
        "convolutions": conv_classification(digits.shape, (8, 16), c),
    }
    return {
        f"as meta-trained, {config.length} steps": (met, config.length),
        _long_run(config): (met, config.far),
        **{name: (networks[name], config.elsewhere) for name in config.networks},
    }


def _long_run(config: PastTheHorizonConfig) -> str:
    return f"{config.far:,} steps"


def meta_train_all(
    config: PastTheHorizonConfig, objective: Objective, data: Any, keys: Key[Array, "S"], progress: Progress | None
) -> dict[str, list[Any]]:
    """Theta of both optimizers for every key."""
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.01)
    outer = {"small_fc": optax.adam(schedule), "STAR": optax.adamw(schedule, weight_decay=config.weight_decay)}
    thetas = {}
    for name, optimizer in CONTENDERS.items():
        loop = cap_losses(training_loop(objective, optimizer, config.length), 20.0)
        estimator = nres(loop, config.sigma, config.pairs, config.window, stagger=True)
        thetas[name] = meta_train_seeds(name, optimizer, estimator, outer[name], data, config.steps, keys, progress)
    return thetas


def summarise_runs(curves_by_seed: Sequence[Float[np.ndarray, "K T"]], reference: float) -> dict[str, Any]:
    """Share of diverged runs, and final loss of the others, alone and over `reference`; None: all diverged."""
    curves = np.concatenate(curves_by_seed)
    final, lost = np.maximum(final_losses(curves), FLOOR), find_diverged(curves)
    mean = None if lost.all() else float(final_interval(final[~lost]).mean)
    return {
        "diverged": float(lost.mean()),
        "final_loss": mean,
        "ratio": None if mean is None else mean / reference,
        "by_seed": [[float(x) for x in np.maximum(final_losses(c), FLOOR)] for c in curves_by_seed],
    }


def draw(rows: Mapping[str, Any], long_runs: Mapping[str, np.ndarray], length: int, path: Path) -> None:
    """Draw the loss curves of the long runs, and all final losses over tuned Adam's."""
    figure, (left, right) = new_figure(columns=2)
    draw_loss_curves(left, long_runs)
    left.axvline(length, color="0.5", linewidth=0.8, linestyle=":")
    left.set_title(f"meta-trained for {length} steps (dotted)", fontsize=9)
    for number, name in enumerate(CONTENDERS):
        for i, row in enumerate(rows.values()):
            finals = np.asarray(row[name]["by_seed"], np.float64).ravel() / row["Adam"]["final_loss"]
            finite = np.isfinite(finals)
            x = i + 0.3 * (number - 0.5) + np.linspace(-0.08, 0.08, finals.size)
            right.plot(x[finite], finals[finite], ".", color=f"C{number}", label=name if i == 0 else None)
            if not finite.all():
                at = (i + 0.3 * (number - 0.5), 0.9 + 0.05 * number)
                style: Any = {"fontsize": 6, "ha": "center", "transform": right.get_xaxis_transform()}
                right.text(*at, f"{(~finite).sum()} not finite", color=f"C{number}", **style)
    right.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    right.set_xticks(range(len(rows)), rows, rotation=25, ha="right", fontsize=7)
    right.set(yscale="log", ylabel="final loss over tuned Adam's")
    right.legend()
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of final losses: tuned Adam's, and those of the runs that did not diverge."""
    head = " ".join([f"{'final loss, geometric mean':<32}", f"{'Adam':>10}", *(f"{n:>24}" for n in CONTENDERS)])
    lines = [_format_row(task, row) for task, row in result["tasks"].items()]
    return "\n".join([head, *lines, f"\npicture: {result['picture']} ({result['seconds']} s)"])


def _format_row(task: str, row: Mapping[str, Any]) -> str:
    cells = [f"{task:<32}", f"{row['Adam']['final_loss']:>10.3g}"]
    for name in CONTENDERS:
        loss, share = row[name]["final_loss"], row[name]["diverged"]
        cells.append(f"{'-' if loss is None else f'{loss:.3g}':>10} ({share:.0%} diverged)")
    return " ".join(cells)
