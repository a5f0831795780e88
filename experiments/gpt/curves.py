"""A generator of parameters on the learned optimizers' curves: jumps, then Adam, beside tuned Adam at equal cost.

`metalearn train-gpt mlp-regression` learns from the checkpoints of networks 64-16-10 on digits; without noise, since a
jump of the other methods evaluates the generator tens of times. Fresh networks then jump to the lowest loss that was
seen, once or three times (recursive prompting, Peebles et al. 2022, arXiv 2209.12892), and go on with Adam, whose
learning rate is tuned after the jumps as it is tuned without them. A jump counts as so many steps of Adam as have its
operations: two per weight and token against six per parameter and example. small-fc stands beside them. What the
checkpoints cost is not counted, which favours the generator. So two starts that need no generator stand beside it, at
no cost of their own: the mean of the aligned stored ends, and the stored checkpoint of the lowest loss.

The rule, written before the run: the generator is the better optimizer at a budget if the interval of the mean log
ratio of its loss to tuned Adam's, over fresh networks at equal operations, lies below zero; the worse if above; else
open. A loss is the mean of the last ten steps before the budget, the budgets are 30, 100 and all steps. The two starts
without a generator were added after a first run, which had found the jumps to be better than Adam.

    python -m experiments gpt_curves --run-folder RUN   # RUN of train-gpt mlp-regression; a minute
    python -m experiments gpt_curves             # trains one first, minutes
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

import metalearn_models.optimizers as optimizers
from experiments.suite.results import write_result
from metalearn.intervals import mean_interval
from metalearn.pictures import draw_loss_curves, new_figure, save
from metalearn.recipes.gpt.config import PRESETS as GENERATORS
from metalearn.recipes.gpt.run import train_gpt
from metalearn.runs.folder import open_run
from metalearn.runs.progress import Progress
from metalearn.zoo import open_zoo
from metalearn_models.networks import mlp
from metalearn_models.optimizers import library
from metalearn_models.optimizers.gpt import GeneratorConfig, hidden_unit_tokens
from metalearn_models.optimizers.gpt.codes import align_runs, fit_codec
from metalearn_tasks import datasets
from metalearn_tasks.datasets import Split
from metalearn_tasks.objectives import (
    Objective,
    baseline,
    learning_rates,
    loss_curves,
    mlp_classification,
    tune_learning_rate,
)

RATES = learning_rates(1e-4, 1.0, per_decade=2)
BATCH = 100


@dataclass(frozen=True)
class CurvesConfig:
    """Compare jumps of a generator, and Adam after them, with Adam and with small-fc."""

    run_folder: Path | None = None
    """Folder of a finished run of `metalearn train-gpt` with tokens of hidden units on digits; None: train one."""
    jumps: tuple[int, ...] = (1, 3)
    """Numbers of jumps."""
    steps: int = 300
    """Steps of training."""
    networks: int = 16
    """Fresh networks."""
    out: Path = Path("runs/gpt_curves")
    """Folder for the picture and the table, and for the generator."""


PRESETS = {"standard": CurvesConfig()}
SCORE = "alignment"


def after_jumps(objective: Objective, data: Split, run: Path, jumps: int) -> Objective:
    """The same objective, whose training starts where a generator has jumped to.

    Args:
        objective: with one problem.
        data: what the generator's checkpoints were measured on.
        run: of the generator.
        jumps: at least one.
    """
    transform = optimizers.load(run, jumps=jumps)

    def init(problem: Any, key: Any) -> Any:
        params = objective.init(problem, key)
        state, still = transform.init(params), jax.tree.map(jnp.zeros_like, params)
        for _ in range(jumps):
            moved, state = transform.update(still, state, params, value=objective.loss(problem, params, data))
            params = jax.tree.map(jnp.add, params, moved)
        return params

    return objective._replace(init=init)


def stored_starts(run: Path, params: Any) -> dict[str, Any]:
    """Parameters to start from that need no generator: the mean of the aligned ends, and the stored ones of least loss.

    Args:
        run: of the generator.
        params: of the network, or their shapes.
    """
    kept = open_run(run).config["zoo"]
    zoo = open_zoo(run.with_name(f"{run.name}-checkpoints") if kept is None else kept)
    seen, tokeniser, unflatten = zoo.seen(), hidden_unit_tokens(params), zoo.unflatten(params)
    losses, outputs = zoo.loss(seen, "train"), jax.tree.leaves(params)[-2].size  # the bias of the last layer
    codec, _ = fit_codec(tokeniser, np.asarray(seen.params[:512, -3:]), outputs, 2)
    mean = align_runs(tokeniser, codec, np.asarray(seen.params[:512, -1]), outputs).mean(0)
    best = np.asarray(seen.params)[np.unravel_index(losses.argmin(), losses.shape)]
    return {"aligned mean": unflatten(jnp.asarray(mean)), "best stored": unflatten(jnp.asarray(best))}


def cost_in_steps(run: Path) -> float:
    """The operations of one jump over those of a step of Adam."""
    trained = library.read(run)
    if trained.name != "gpt":
        raise ValueError(
            f"--run-folder must be the folder of a run of metalearn train-gpt, got one of the optimizer {trained.name}"
        )
    settings = trained.card["optimizer"]["settings"]
    inputs, *hidden, outputs = settings["widths"]
    if settings["tokens"] != "units" or len(hidden) != 1:
        raise ValueError(
            f"--run-folder must hold a generator with --tokens units and one hidden layer; {run} has --tokens "
            f"{settings['tokens']} and {len(hidden)} hidden layers"
        )
    weights = sum(int(np.size(x)) for x in jax.tree.leaves(trained.theta["network"]))
    sampler = settings["generator"]
    predictions = GeneratorConfig(sampler["method"], steps=sampler["steps"]).predictions
    size = (inputs + 1) * hidden[0] + (hidden[0] + 1) * outputs
    return 2 * weights * (hidden[0] + 1) * predictions / (6 * size * BATCH)


def run(config: CurvesConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train a generator if there is none, compare and draw."""
    began = time.monotonic()
    folder = config.run_folder
    if folder is None:
        folder = config.out / "generator"
        if not (folder / "result.json").exists():
            train_gpt(
                GENERATORS["mlp-regression"][0], folder, resume=(folder / "config.json").exists(), progress=progress
            )
    digits = datasets.load("digits")
    count = len(digits.train.labels) * 4 // 5
    data = Split(jnp.asarray(digits.train.inputs[:count]), jnp.asarray(digits.train.labels[:count]))
    objective = mlp_classification(64, 16, 10, BATCH)
    keys = jax.random.split(jax.random.key(20), config.networks)
    adam = baseline("adam")
    curves: dict[str, np.ndarray] = {}
    rates, jump = {}, cost_in_steps(folder)
    for jumps in config.jumps:
        name = f"{jumps} jump{'s' * (jumps > 1)}, then Adam"
        start = after_jumps(objective, data, folder, jumps)
        tuned = tune_learning_rate(start, adam, RATES, data, keys, config.steps)
        curves[name], rates[name] = np.asarray(tuned.curves), tuned.rate
    like = jax.eval_shape(mlp(64, (16,), 10).init, keys[0])
    for name, params in stored_starts(folder, like).items():
        start = objective._replace(init=lambda problem, key, params=params: params)
        tuned = tune_learning_rate(start, adam, RATES, data, keys, config.steps)
        curves[f"{name}, then Adam"], rates[name] = np.asarray(tuned.curves), tuned.rate
    small = library.read("small-fc-digits-500")
    curves["small-fc"] = np.asarray(loss_curves(objective, small.optimizer, small.theta, data, keys, config.steps))
    tuned = tune_learning_rate(objective, adam, RATES, data, keys, config.steps)
    curves["reference: Adam"], rates["Adam"] = np.asarray(tuned.curves), tuned.rate
    budgets = [n for n in (30, 100, config.steps) if n <= config.steps]
    rows = {}
    for name, losses in curves.items():
        jumps = int(name.split()[0]) if "jump" in name else 0
        rows[name.removeprefix("reference: ")] = {
            str(n): compare(losses, curves["reference: Adam"], n, round(jumps * jump)) for n in budgets
        }
    figure, (ax,) = new_figure(columns=1)
    draw_loss_curves(ax, curves)
    ax.set_title(f"networks 64-16-10 on digits; a jump costs {jump:.1f} steps, not drawn", fontsize=9)
    save(figure, config.out / "curves.png")
    result = {
        "rows": rows,
        "rates": rates,
        "steps_per_jump": jump,
        "first_losses": {name: float(losses[:, 0].mean()) for name, losses in curves.items()},
        "picture": str(config.out / "curves.png"),
        "seconds": round(time.monotonic() - began, 1),
    }
    return write_result(config.out, result)


def compare(losses: np.ndarray, adam: np.ndarray, budget: int, spent: int) -> dict[str, Any]:
    """The loss at a budget of steps of Adam, and the log ratio to Adam's.

    Args:
        losses: [networks, steps].
        adam: the same of tuned Adam.
        budget: steps.
        spent: steps of the budget that the jumps took.
    """
    if spent + 10 > budget:
        return {"loss": None, "ratio": None, "interval": None, "verdict": "a jump costs more than this budget"}
    end = budget - spent
    ours, theirs = losses[:, end - 10 : end].mean(1), adam[:, budget - 10 : budget].mean(1)
    found = mean_interval(np.log(ours / theirs))
    verdict = "better" if found.high < 0 else "worse" if found.low > 0 else "open"
    interval = [float(np.exp(found.low)), float(np.exp(found.high))]
    return {"loss": float(ours.mean()), "ratio": float(np.exp(found.mean)), "interval": interval, "verdict": verdict}


def format_result(result: Mapping[str, Any]) -> str:
    """The table: loss, and its ratio to tuned Adam's at equal operations."""
    budgets = list(next(iter(result["rows"].values())))
    lines = [f"{'at equal operations, in steps of Adam':<38}" + "".join(f"{n:>30}" for n in budgets)]
    for name, row in result["rows"].items():
        cells = [
            f"{'-':>30}"
            if x["loss"] is None
            else f"{x['loss']:>8.4f} {x['ratio']:>6.2f} [{x['interval'][0]:.2f}, {x['interval'][1]:.2f}]".rjust(30)
            for x in row.values()
        ]
        lines.append(f"{name:<38}{''.join(cells)}")
    lines.append(f"a jump costs {result['steps_per_jump']:.1f} steps of Adam on batches of {BATCH}")
    lines.append(f"picture: {result['picture']} ({result['seconds']} s)")
    return "\n".join(lines)
