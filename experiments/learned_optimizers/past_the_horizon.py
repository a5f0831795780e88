"""Learned optimizers far past what they were meta-trained on: longer runs, other networks (Harrison et al. 2022).

small_fc and STAR (arXiv 2209.11208) are meta-trained several times each, with weight decay of theta where it is part of
the method, on a multilayer perceptron on 8x8 digits, then run for 40 times as many steps, and on networks they never
met. A run has diverged when its loss is not finite or its last losses are above those of an untrained network. Adam's
learning rate is tuned for each network and length. The paper compares both on larger networks and images; this is the
smallest setting in which the question can be asked.

    python -m experiments past_the_horizon            # a table and a picture
    python -m experiments past_the_horizon --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Float

from experiments.learned_optimizers._training import final_interval, meta_train, tuned_baselines
from experiments.suite.results import write_result
from metalearn.gradients import nres
from metalearn.pictures import draw_loss_curves, new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.optimizers import LearnedOptimizer, small_fc, star
from metalearn_tasks.datasets.load import load
from metalearn_tasks.objectives import (
    capped,
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
    """small_fc and STAR beyond their meta-training."""

    steps: int = 1500
    """Outer steps."""
    length: int = 500
    """Steps of a training run in meta-training."""
    far: int = 20_000
    """Steps of the long run."""
    elsewhere: int = 2000
    """Steps on other networks."""
    networks: tuple[Network, ...] = get_args(Network)
    """Other networks."""
    seeds: int = 3
    """Meta-trainings of each."""
    runs: int = 4
    """Training runs of each meta-trained optimizer."""
    pairs: int = 8
    """Antithetic pairs."""
    window: int = 50
    """Steps between two outer steps."""
    sigma: float = 0.01
    """Standard deviation of perturbations."""
    learning_rate: float = 3e-3
    """Of the outer optimizer, at its peak; it falls along a cosine."""
    weight_decay: float = 0.1
    """Of theta, in STAR's meta-training (the paper tried 0.1, 0.5 and 1)."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/past-the-horizon")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


CONTENDERS: dict[str, LearnedOptimizer] = {
    "small_fc": small_fc(step_size=5e-3, exponent=0.1),
    "STAR": star(step_size=1e-3, nominal_step_size=1e-2, exponent=0.1),
}
"""Step sizes and exponents are larger than the papers' 0.001, which suits shorter meta-training; our choice."""


FLOOR = 1e-6
"""Training losses below it count as it: on data that can be separated they go to 0, and ratios to nothing."""


def diverged(curves: Float[np.ndarray, "S T"]) -> np.ndarray:
    """Whether each run ended above the loss it began with, or anywhere not finite."""
    final = final_losses(curves)
    return ~np.isfinite(final) | (final > curves[:, :1].mean(-1))


def main(config: PastTheHorizonConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, run; writes and returns what result.json holds."""
    began = time.monotonic()
    digits = load("digits")
    data = jax.tree.map(jnp.asarray, digits.train)
    d, c = digits.inputs, digits.classes
    met = mlp_classification(d, 32, c)
    networks = {
        "four times wider": mlp_classification(d, 128, c),
        "three layers": mlp_classification(d, (32, 32, 32), c),
        "tanh": mlp_classification(d, 32, c, activation=jnp.tanh),
        "layer normalisation": layer_norm_classification(d, (32, 32), c),
        "convolutions": conv_classification(digits.shape, (8, 16), c),
    }
    far = f"{config.far:,} steps"
    places = {
        f"as meta-trained, {config.length} steps": (met, config.length),
        far: (met, config.far),
        **{name: (networks[name], config.elsewhere) for name in config.networks},
    }
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.steps, 0.01)
    outers = {"small_fc": optax.adam(schedule), "STAR": optax.adamw(schedule, weight_decay=config.weight_decay)}
    meta_key, run_key = jax.random.split(jax.random.key(config.seed))
    thetas = {}
    for name, optimizer in CONTENDERS.items():
        loop = capped(training_loop(met, optimizer, config.length), 20.0)
        estimator = nres(loop, config.sigma, config.pairs, config.window, stagger=True)
        keys = jax.random.split(meta_key, config.seeds)
        thetas[name] = meta_train(name, optimizer, estimator, outers[name], data, config.steps, keys, progress)
    found: dict[str, Any] = {}
    kept: dict[str, np.ndarray] = {}
    runs = jax.random.split(run_key, config.runs)
    for place, (objective, steps) in places.items():
        adam = tuned_baselines(("Adam",), objective, data, runs, steps)["Adam"]
        floor = float(final_interval(np.maximum(adam.final[adam.best], FLOOR)).mean)
        found[place] = {"Adam": {"final_loss": floor, "learning_rate": adam.rate, "at_edge": adam.at_edge}}
        for name, optimizer in CONTENDERS.items():
            curves = [np.asarray(loss_curves(objective, optimizer, t, data, runs, steps)) for t in thetas[name]]
            losses = np.concatenate(curves)
            final, lost = np.maximum(final_losses(losses), FLOOR), diverged(losses)
            found[place][name] = {
                "diverged": float(lost.mean()),
                "final_loss": float(final_interval(final[~lost]).mean) if not lost.all() else None,
                "ratio": float(final_interval(final[~lost]).mean) / floor if not lost.all() else None,
                "by_seed": [[float(x) for x in np.maximum(final_losses(c), FLOOR)] for c in curves],
            }
            if place == far:
                kept[name] = losses
        if place == far:
            kept["reference: Adam, tuned"] = adam.curves
        if progress is not None:
            progress.note(_line(place, found[place]))
    _draw(config, found, kept)
    print(table(found))
    print(f"\npicture: {config.out / 'past_the_horizon.png'}")
    return write_result(config.out, {"places": found, "seconds": round(time.monotonic() - began, 1)})


def _line(place: str, row: dict[str, Any]) -> str:
    cells = [f"{place:<32}", f"{row['Adam']['final_loss']:>10.3g}"]
    for name in CONTENDERS:
        loss, share = row[name]["final_loss"], row[name]["diverged"]
        cells.append(f"{'-' if loss is None else f'{loss:.3g}':>10} ({share:.0%} diverged)")
    return " ".join(cells)


def table(found: dict[str, Any]) -> str:
    """Final losses: tuned Adam's, and those of the runs that did not diverge."""
    head = " ".join([f"{'final loss, geometric mean':<32}", f"{'Adam':>10}", *(f"{n:>24}" for n in CONTENDERS)])
    return "\n".join([head, *(_line(place, row) for place, row in found.items())])


def _draw(config: PastTheHorizonConfig, found: dict[str, Any], curves: dict[str, np.ndarray]) -> None:
    figure, (left, right) = new_figure(columns=2)
    draw_loss_curves(left, curves)
    left.axvline(config.length, color="0.5", linewidth=0.8, linestyle=":")
    left.set_title(f"meta-trained for {config.length} steps (dotted)", fontsize=9)
    for number, name in enumerate(CONTENDERS):
        for i, row in enumerate(found.values()):
            finals = np.asarray(row[name]["by_seed"], np.float64).ravel() / row["Adam"]["final_loss"]
            finite = np.isfinite(finals)
            x = i + 0.3 * (number - 0.5) + np.linspace(-0.08, 0.08, finals.size)
            right.plot(x[finite], finals[finite], ".", color=f"C{number}", label=name if i == 0 else None)
            if not finite.all():
                text = f"{(~finite).sum()} not finite"
                at = (i + 0.3 * (number - 0.5), 0.9 + 0.05 * number)
                right.text(
                    *at, text, fontsize=6, color=f"C{number}", ha="center", transform=right.get_xaxis_transform()
                )
    right.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
    right.set_xticks(range(len(found)), found, rotation=25, ha="right", fontsize=7)
    right.set(yscale="log", ylabel="final loss over tuned Adam's")
    right.legend()
    save(figure, config.out / "past_the_horizon.png")


if __name__ == "__main__":
    command = tyro.cli(PastTheHorizonConfig, description=__doc__)
    written = main(command, default_progress("loss"))
    if command.json:
        print(json.dumps(written))
