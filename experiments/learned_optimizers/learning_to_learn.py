"""Learning to learn by gradient descent by gradient descent, and where it fails (Andrychowicz et al. 2016, 1606.04474).

A coordinate-wise LSTM is meta-trained by truncated backpropagation in two parts. On random 10-dimensional quadratics it
is compared with hand-designed optimizers at their best learning rates, on 100 new problems. On small sigmoid networks
on 8x8 digits it is meta-trained and then taken to longer runs, wider and deeper networks, and ReLU.

    python -m experiments learning_to_learn            # a table and a picture
    python -m experiments learning_to_learn quick      # the same with shorter meta-training
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Key

from experiments.learned_optimizers._training import (
    clipped_adam,
    final_interval,
    format_losses,
    meta_train_seeds,
    over_adam,
    tune_baselines,
)
from experiments.suite.results import write_result
from experiments.suite.tables import read_interval, read_number
from metalearn.gradients import truncated_backprop
from metalearn.pictures import draw_loss_curves, new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import LearnedOptimizer, first_order, log_and_sign, lstm_optimizer
from metalearn_tasks.datasets import load
from metalearn_tasks.objectives import Objective, mlp_classification, quadratic, training_loop
from metalearn_tasks.objectives.evaluation import final_losses, loss_curves

Part = Literal["quadratics", "networks"]


@dataclass(frozen=True)
class LearningToLearnConfig:
    """Coordinate-wise LSTM optimizers against hand-designed ones."""

    parts: tuple[Part, ...] = ("quadratics", "networks")
    """Parts to run."""
    steps: int = 3000
    """Outer steps on quadratics."""
    network_steps: int = 500
    """Outer steps on networks."""
    batch: int = 64
    """Quadratics per outer step."""
    network_batch: int = 4
    """Networks per outer step."""
    window: int = 20
    """Steps that are backpropagated through."""
    length: int = 100
    """Steps per training run."""
    learning_rate: float = 3e-3
    """Peak learning rate of the outer Adam; it falls along a cosine."""
    problems: int = 100
    """New quadratics in the comparison."""
    seeds: int = 3
    """Meta-trainings per optimizer."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/learning-to-learn")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": LearningToLearnConfig(),
    "quick": LearningToLearnConfig(
        steps=300, network_steps=50, problems=20, seeds=1, out=Path("runs/learning-to-learn-quick")
    ),
}


def run(config: LearningToLearnConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the parts; returns what result.json holds."""
    start = time.monotonic()
    result: dict[str, Any] = {"length": config.length}
    panels: dict[str, Any] = {}
    if "quadratics" in config.parts:
        summary, panels["quadratics"] = compare_on_quadratics(config, progress)
        result |= summary
    if "networks" in config.parts:
        result["networks"] = compare_on_networks(config, progress)
        panels["networks"] = result["networks"]
    picture = config.out / "learning_to_learn.png"
    draw(panels, picture)
    return write_result(config.out, {**result, "seconds": round(time.monotonic() - start, 1), "picture": str(picture)})


def compare_on_quadratics(
    config: LearningToLearnConfig, progress: Progress | None
) -> tuple[dict[str, Any], dict[str, Float[np.ndarray, "S T"]]]:
    """Compare final losses on quadratics; returns a part of the result, and the loss curves by optimizer."""
    objective, optimizer, length = quadratic(10), first_order(lstm_optimizer()), config.length
    keys = jax.random.split(jax.random.key(config.seed), config.seeds + 1)
    loop = training_loop(objective, optimizer, length)
    estimator = truncated_backprop(loop, config.batch, config.window, length, stagger=True)
    adam = clipped_adam(config.learning_rate, config.steps)
    thetas = meta_train_seeds("LSTM on quadratics", optimizer, estimator, adam, (), config.steps, keys[1:], progress)
    problems = jax.random.split(keys[0], config.problems)
    # The loss of a step is that before its update: the extra step shows the loss after `length` updates.
    names = ("SGD", "momentum", "Nesterov", "RMSProp", "Adam")
    baselines = tune_baselines(names, objective, (), problems, length + 1, 1)
    lstm = _loss_curves_of_seeds(objective, optimizer, thetas, (), problems, length + 1)
    final = {"LSTM": _mean_over_seeds(final_losses(lstm, 1), config.seeds)}
    final |= {name: tuned.final[tuned.best] for name, tuned in baselines.items()}
    remarks = {"LSTM": "mean of seeds"}
    for name, tuned in baselines.items():
        remarks[name] = f"learning rate {tuned.rate:.3g}" + (" (the last of those tried)" if tuned.at_edge else "")
    means = {name: final_interval(x) for name, x in final.items()}
    best = min(names, key=lambda name: means[name].mean)
    arithmetic = {name: x.mean() for name, x in final.items()}
    summary = {
        "quadratics": {
            name: {**mean._asdict(), "arithmetic": arithmetic[name], "remark": remarks[name]}
            for name, mean in means.items()
        },
        "ratio": float(means["LSTM"].mean / means[best].mean),
        "apart": bool(means["LSTM"].high < means[best].low),
        "ratio_of_means": arithmetic["LSTM"] / min(arithmetic[name] for name in names),
    }
    return summary, {"LSTM": lstm, **{f"reference: {name}": tuned.curves for name, tuned in baselines.items()}}


def compare_on_networks(config: LearningToLearnConfig, progress: Progress | None) -> dict[str, Any]:
    """Final losses of an LSTM meta-trained on sigmoid networks, on the same networks and on others."""
    digits, length = load("digits"), config.length
    data = jax.tree.map(jnp.asarray, digits.train)

    def network(hidden: Any, activation: Any) -> Objective:
        return mlp_classification(digits.inputs, hidden, digits.classes, 128, activation, scale=0.1)

    met = network(20, jax.nn.sigmoid)
    optimizer = first_order(lstm_optimizer(output_scale=0.01, preprocess=log_and_sign()))
    keys = jax.random.split(jax.random.key(config.seed + 1), config.seeds + 1)
    loop, steps = training_loop(met, optimizer, length), config.network_steps
    estimator = truncated_backprop(loop, config.network_batch, config.window, length, stagger=True)
    outer_adam = clipped_adam(config.learning_rate, steps)
    thetas = meta_train_seeds("LSTM on networks", optimizer, estimator, outer_adam, data, steps, keys[1:], progress)
    tasks = {
        "as meta-trained": (met, length),
        "twice as long": (met, 2 * length),
        "ten times as long": (met, 10 * length),
        "40 units": (network(40, jax.nn.sigmoid), length),
        "two layers": (network((20, 20), jax.nn.sigmoid), length),
        "ReLU": (network(20, jax.nn.relu), length),
    }
    runs = jax.random.split(keys[0], 10)
    rows = {}
    for name, (objective, steps) in tasks.items():
        final = final_losses(_loss_curves_of_seeds(objective, optimizer, thetas, data, runs, steps))
        adam = tune_baselines(("Adam",), objective, data, runs, steps)["Adam"]
        adam_final = adam.final[adam.best]
        rows[name] = {
            **final_interval(final)._asdict(),
            "adam": final_interval(adam_final).mean,
            "ratio": over_adam(final, adam_final),
            "learning_rate": adam.rate,
            "at_edge": adam.at_edge,
            "final": final,
        }
        if progress is not None:
            progress.note(f"{name}: {rows[name]['ratio']:.2f} of tuned Adam's final loss")
    return rows


def _loss_curves_of_seeds(
    objective: Objective, optimizer: LearnedOptimizer, thetas: list[Any], data: Any, keys: Key[Array, "K"], steps: int
) -> Float[np.ndarray, "SK T"]:
    """Loss curves of every seed on every problem, the problems of the first seed first."""
    return np.concatenate([np.asarray(loss_curves(objective, optimizer, t, data, keys, steps)) for t in thetas])


def _mean_over_seeds(final: Float[np.ndarray, "SK"], seeds: int) -> Float[np.ndarray, "K"]:
    """Geometric mean over meta-trainings for each problem, because intervals are over problems."""
    logs = np.log(np.maximum(final, np.finfo(np.float64).tiny))
    return np.exp(rearrange(logs, "(seeds problems) -> seeds problems", seeds=seeds).mean(0))


def draw(panels: Mapping[str, Any], path: Path) -> None:
    """Draw loss curves on quadratics; and on networks the final loss over tuned Adam's, one dot per run."""
    figure, axes = new_figure(columns=len(panels))
    for ax, (part, content) in zip(axes, panels.items(), strict=True):
        if part == "quadratics":
            draw_loss_curves(ax, content)
            ax.set_title("random quadratics, none met before", fontsize=9)
        else:
            _draw_networks(ax, content)
    save(figure, path)


def _draw_networks(ax: Any, rows: Mapping[str, Any]) -> None:
    for i, row in enumerate(rows.values()):
        ratios = row["final"] / row["adam"]
        finite = np.isfinite(ratios)
        ax.plot(np.full(finite.sum(), i) + np.linspace(-0.2, 0.2, finite.sum()), ratios[finite], ".", color="C0")
        if not finite.all():
            text = f"{(~finite).sum()} diverged"
            ax.text(i, 0.97, text, ha="center", transform=ax.get_xaxis_transform(), fontsize=7)
    ax.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(rows)), rows, fontsize=7, rotation=20, ha="right")
    ax.set_yscale("log")
    ax.set_ylabel("final loss over tuned Adam's")
    ax.set_title("an LSTM meta-trained on sigmoid networks of 20 units", fontsize=9)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of final losses for each part, and the verdict on quadratics."""
    parts = []
    if "quadratics" in result:
        rows = {
            name: (read_interval(row), f"mean {read_number(row['arithmetic'], np.inf):.3g}, {row['remark']}")
            for name, row in result["quadratics"].items()
        }
        verdict = "apart" if result["apart"] else "overlap"
        ratio, of_means = (read_number(result[key]) for key in ("ratio", "ratio_of_means"))
        parts += [
            format_losses(rows, f"loss after {result['length']} updates"),
            f"\nLSTM over the best of them: {ratio:.2f} (intervals {verdict}); of arithmetic means {of_means:.2f}\n",
        ]
    if "networks" in result:
        rows = {}
        for name, row in result["networks"].items():
            edge = ", the last of those tried" if row["at_edge"] else ""
            adam = f"tuned Adam {read_number(row['adam']):.3g} ({row['learning_rate']:.3g}{edge})"
            rows[name] = (read_interval(row), f"{adam}, ratio {read_number(row['ratio']):.2f}")
        parts.append(format_losses(rows))
    return "\n".join([*parts, f"\npicture: {result['picture']} ({result['seconds']} s)"])
