"""Learning to learn by gradient descent by gradient descent, and where it ends (Andrychowicz et al. 2016, 1606.04474).

A coordinate-wise LSTM is meta-trained by truncated backpropagation: on random 10-dimensional quadratics, where it is
compared with hand-designed optimizers at their best learning rates on 100 problems none of them met; and on small
sigmoid networks on 8x8 digits, from where it is taken to longer runs, wider and deeper networks, and ReLU.

    python -m experiments learning_to_learn            # a table and a picture
    python -m experiments learning_to_learn --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
import tyro

from experiments.learned_optimizers._training import final_interval, loss_table, meta_train, tuned_baselines
from experiments.suite.results import write_result
from metalearn.gradients import truncated_backprop
from metalearn.pictures import draw_loss_curves, new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.optimizers import first_order, log_and_sign, lstm_optimizer
from metalearn_tasks.datasets.load import load
from metalearn_tasks.objectives import mlp_classification, quadratic, training_loop
from metalearn_tasks.objectives.evaluation import final_losses, loss_curves

Part = Literal["quadratics", "networks"]


@dataclass(frozen=True)
class LearningToLearnConfig:
    """Coordinate-wise LSTM optimizers against hand-designed ones."""

    parts: tuple[Part, ...] = ("quadratics", "networks")
    """What to run."""
    steps: int = 3000
    """Outer steps on quadratics."""
    network_steps: int = 500
    """Outer steps on networks."""
    batch: int = 64
    """Quadratics an outer step."""
    network_batch: int = 4
    """Networks an outer step."""
    window: int = 20
    """Steps backpropagated through."""
    length: int = 100
    """Steps of a training run."""
    learning_rate: float = 3e-3
    """Of the outer Adam, at its peak; it falls along a cosine."""
    problems: int = 100
    """Fresh problems of the comparison."""
    seeds: int = 3
    """Meta-trainings of each optimizer."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/learning-to-learn")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def on_quadratics(config: LearningToLearnConfig, progress: Progress | None) -> dict[str, Any]:
    """Final losses after `length` updates and curves, by optimizer."""
    objective, optimizer, length = quadratic(10), first_order(lstm_optimizer()), config.length
    keys = jax.random.split(jax.random.key(config.seed), config.seeds + 1)
    loop = training_loop(objective, optimizer, length)
    estimator = truncated_backprop(loop, config.batch, config.window, length, stagger=True)
    thetas = meta_train(
        "LSTM on quadratics", optimizer, estimator, _outer(config, config.steps), (), config.steps, keys[1:], progress
    )
    problems = jax.random.split(keys[0], config.problems)
    # The loss of a step is that before its update: the step after the last shows what `length` updates came to.
    baselines = tuned_baselines(
        ("SGD", "momentum", "Nesterov", "RMSProp", "Adam"), objective, (), problems, length + 1, 1
    )
    curves = {"LSTM": _curves(objective, optimizer, thetas, (), problems, length + 1)}
    found: dict[str, Any] = {
        "LSTM": {"final": _over_seeds(final_losses(curves["LSTM"], 1), config.seeds), "remark": "mean of seeds"}
    }
    for name, t in baselines.items():
        found[name] = {"final": t.final[t.best], "remark": f"learning rate {t.rate:.3g}{_edge(t)}"}
        curves[f"reference: {name}"] = t.curves
    return {"rows": found, "curves": curves}


def on_networks(config: LearningToLearnConfig, progress: Progress | None) -> dict[str, Any]:
    """Final losses of an LSTM meta-trained on sigmoid networks, where it was and where it was not meta-trained."""
    digits, length = load("digits"), config.length
    data = jax.tree.map(jax.numpy.asarray, digits.train)

    def network(hidden: Any, activation: Any) -> Any:
        return mlp_classification(digits.inputs, hidden, digits.classes, 128, activation, scale=0.1)

    met = network(20, jax.nn.sigmoid)
    optimizer = first_order(lstm_optimizer(output_scale=0.01, preprocess=log_and_sign()))
    keys = jax.random.split(jax.random.key(config.seed + 1), config.seeds + 1)
    estimator = truncated_backprop(
        training_loop(met, optimizer, length), config.network_batch, config.window, length, stagger=True
    )
    tx = _outer(config, config.network_steps)
    thetas = meta_train("LSTM on networks", optimizer, estimator, tx, data, config.network_steps, keys[1:], progress)
    elsewhere = {
        "as meta-trained": (met, length),
        "twice as long": (met, 2 * length),
        "ten times as long": (met, 10 * length),
        "40 units": (network(40, jax.nn.sigmoid), length),
        "two layers": (network((20, 20), jax.nn.sigmoid), length),
        "ReLU": (network(20, jax.nn.relu), length),
    }
    runs = jax.random.split(keys[0], 10)
    found = {}
    for name, (objective, steps) in elsewhere.items():
        curves = _curves(objective, optimizer, thetas, data, runs, steps)
        adam = tuned_baselines(("Adam",), objective, data, runs, steps)["Adam"]
        found[name] = {
            "final": final_losses(curves),
            "Adam": adam.final[adam.best],
            "learning_rate": adam.rate,
            "at_edge": adam.at_edge,
        }
        if progress is not None:
            progress.note(f"{name}: {_ratio(found[name]):.2f} of tuned Adam's final loss")
    return found


def _outer(config: LearningToLearnConfig, steps: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(config.learning_rate, steps, 0.01)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def _curves(objective: Any, optimizer: Any, thetas: list[Any], data: Any, keys: Any, steps: int) -> np.ndarray:
    """Of every problem and seed [K S, T]."""
    return np.concatenate([np.asarray(loss_curves(objective, optimizer, t, data, keys, steps)) for t in thetas])


def _over_seeds(final: np.ndarray, seeds: int) -> np.ndarray:
    """The geometric mean over meta-trainings for each problem: problems are what an interval is over."""
    return np.exp(np.log(np.maximum(final, np.finfo(np.float64).tiny)).reshape(seeds, -1).mean(0))


def _edge(t: Any) -> str:
    return " (the last of those tried)" if t.at_edge else ""


def _ratio(row: dict[str, Any]) -> float:
    return float(final_interval(row["final"]).mean / final_interval(row["Adam"]).mean)


def draw(found: dict[str, Any], path: Path) -> None:
    """Loss curves on quadratics, and on networks the final loss over that of Adam, a dot a run."""
    figure, axes = new_figure(columns=len(found))
    panels = iter(axes)
    if "quadratics" in found:
        ax = next(panels)
        draw_loss_curves(ax, found["quadratics"]["curves"])
        ax.set_title("random quadratics, none met before", fontsize=9)
    if "networks" in found:
        ax = next(panels)
        for i, row in enumerate(found["networks"].values()):
            ratios = row["final"] / final_interval(row["Adam"]).mean
            finite = np.isfinite(ratios)
            ax.plot(np.full(finite.sum(), i) + np.linspace(-0.2, 0.2, finite.sum()), ratios[finite], ".", color="C0")
            if not finite.all():
                ax.text(
                    i, 0.97, f"{(~finite).sum()} diverged", ha="center", transform=ax.get_xaxis_transform(), fontsize=7
                )
        ax.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        ax.set_xticks(range(len(found["networks"])), found["networks"], fontsize=7, rotation=20, ha="right")
        ax.set_yscale("log")
        ax.set_ylabel("final loss over tuned Adam's")
        ax.set_title("an LSTM meta-trained on sigmoid networks of 20 units", fontsize=9)
    save(figure, path)


def main(config: LearningToLearnConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run the parts; writes and returns what result.json holds."""
    began = time.monotonic()
    parts = {"quadratics": on_quadratics, "networks": on_networks}
    found = {part: parts[part](config, progress) for part in config.parts}
    config.out.mkdir(parents=True, exist_ok=True)
    draw(found, config.out / "learning_to_learn.png")
    result: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    if "quadratics" in found:
        rows = found["quadratics"]["rows"]
        print(
            loss_table(
                {n: (r["final"], f"mean {r['final'].mean():.3g}, {r['remark']}") for n, r in rows.items()},
                f"loss after {config.length} updates",
            )
        )
        means = {n: final_interval(r["final"]) for n, r in rows.items()}
        best = min((n for n in rows if n != "LSTM"), key=lambda n: means[n].mean)
        result["quadratics"] = {n: {**m._asdict(), "arithmetic": rows[n]["final"].mean()} for n, m in means.items()}
        result["ratio"] = float(means["LSTM"].mean / means[best].mean)
        apart = bool(means["LSTM"].high < means[best].low)
        result["apart"] = apart
        arithmetic = {n: row["arithmetic"] for n, row in result["quadratics"].items()}
        result["ratio_of_means"] = arithmetic["LSTM"] / min(x for n, x in arithmetic.items() if n != "LSTM")
        verdict = f"{result['ratio']:.2f} (intervals {'apart' if apart else 'overlap'})"
        print(f"\nLSTM over the best of them: {verdict}; in the mean {result['ratio_of_means']:.2f}\n")
    if "networks" in found:
        rows = {}
        for name, row in found["networks"].items():
            edge = ", the last of those tried" if row["at_edge"] else ""
            adam = f"tuned Adam {final_interval(row['Adam']).mean:.3g} ({row['learning_rate']:.3g}{edge})"
            rows[name] = (row["final"], f"{adam}, ratio {_ratio(row):.2f}")
        print(loss_table(rows))
        result["networks"] = {
            n: {**final_interval(r["final"])._asdict(), "adam": final_interval(r["Adam"]).mean, "ratio": _ratio(r)}
            for n, r in found["networks"].items()
        }
    print(f"\npicture: {config.out / 'learning_to_learn.png'} ({result['seconds']} s)")
    return write_result(config.out, result)


if __name__ == "__main__":
    command = tyro.cli(LearningToLearnConfig, description=__doc__)
    written = main(command, default_progress("loss"))
    if command.json:
        print(json.dumps(written))
