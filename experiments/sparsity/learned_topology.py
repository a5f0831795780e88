"""A rule of topology that evolution strategies trained on digits, against RigL and SET on other data.

The rule is `learned_rule`: weights of five features in the scores to keep and to grow, alpha, Delta T and the end. NRES
trains it from RigL's values, on the mean log loss of sparse networks (ERK, 90 %) that learn the digits. RigL has the
same effort: a grid over alpha, Delta T and the end, chosen on the digits. Both, and SET with RigL's numbers, then train
networks on data that neither has seen, from the same initial weights, masks and batches.

The rule, written before the first run: per held-out set, the mean difference of log final training losses, learned
minus tuned RigL, over networks, each the mean over meta-trainings. "ahead" if its 95 % interval is below 0 on every
set, "behind" if it is above 0 on every set, "level" otherwise.

    python -m experiments learned_topology            # two meta-trainings, minutes
    python -m experiments learned_topology standard   # five, with more outer steps

A meta-training that has ended is kept in `out`; the same command continues.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learned_optimizers._training import clipped_adam, meta_train_seeds
from experiments.suite.cells import remember
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.gradients import nres
from metalearn.intervals import mean_interval
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_models.sparsity import Rule, erk, sparse
from metalearn_models.sparsity.rules import Topology, learned_topology, rigl_theta, set_theta
from metalearn_models.sparsity.rules.learned_rule import FEATURES, USUAL_EVERY
from metalearn_tasks import datasets
from metalearn_tasks.objectives import log_transform_losses, mlp_classification, training_loop

FLOOR = 1e-4
"""Losses far below this count as equal in meta-training."""
GRID = {"alpha": (0.1, 0.3, 0.6), "every": (5, 10, 25), "end": (0.5, 0.75, 1.0)}
"""What RigL is tuned over."""


@dataclass(frozen=True)
class LearnedTopologyConfig:
    """Meta-train a rule of topology and compare it with RigL."""

    held_out: tuple[str, ...] = ("wine", "breast_cancer")
    """Data sets of the comparison, of which the meta-training sees none."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers."""
    sparsity: float = 0.9
    """Share of the weights that is off."""
    steps: int = 200
    """Steps per training."""
    rate: float = 0.1
    """Learning rate of SGD with momentum .9 at the start of its cosine."""
    pairs: int = 8
    """Antithetic pairs of NRES."""
    window: int = 50
    """Steps per outer step."""
    sigma: float = 0.1
    """Standard deviation of the perturbations."""
    outer_rate: float = 0.03
    """Learning rate of the outer Adam."""
    outer_steps: int = 100
    """Outer steps."""
    seeds: int = 2
    """Meta-trainings."""
    networks: int = 16
    """Networks per data set that are compared."""
    out: Path = Path("runs/learned_topology")
    """Folder of the table and the picture."""


PRESETS = {
    "quick": LearnedTopologyConfig(),
    "standard": LearnedTopologyConfig(pairs=16, outer_steps=400, seeds=5, networks=32),
}


def optimizer_of(config: LearnedTopologyConfig) -> LearnedOptimizer:
    """SGD whose topology is theta; its random masks follow from the initial weights."""

    def inner(num_steps: Any) -> optax.GradientTransformation:
        return optax.sgd(optax.cosine_decay_schedule(config.rate, num_steps), momentum=0.9)

    def wrap(tx: optax.GradientTransformation, rule: Rule) -> optax.GradientTransformationExtraArgs:
        def init(params: Any) -> Any:
            bits = jax.lax.bitcast_convert_type(params[0]["weight"].sum(), jnp.uint32)
            key = jax.random.fold_in(jax.random.key(0), bits)
            return sparse(tx, rule, erk, config.sparsity, key=key).init(params)

        return optax.GradientTransformationExtraArgs(init, sparse(tx, rule, erk, config.sparsity).update)

    learned = learned_topology(inner, wrap)
    start = with_every(rigl_theta(), 10)
    return learned._replace(init=lambda key: jax.tree.map(jnp.array, start))


def with_every(theta: Topology, every: float) -> Topology:
    """The same rule with this number of steps between two changes."""
    return theta._replace(every=jnp.log2(jnp.float32(every / USUAL_EVERY)))


@cache
def trainer(config: LearnedTopologyConfig, inputs: int, classes: int) -> Any:
    """`(thetas, keys, train, test) -> final losses, test accuracies`, both [theta, key], as one program."""
    objective = mlp_classification(inputs, config.hidden, classes)
    loop = training_loop(objective, optimizer_of(config), config.steps)
    last = max(1, config.steps // 10)

    def one(theta: Any, key: Any, train: Any, test: Any) -> tuple[Any, Any]:
        def step(state: Any, t: Any) -> tuple[Any, Any]:
            state, loss, _ = loop.step(theta, state, t, jax.random.fold_in(key, t + 1), train)
            return state, loss

        state, losses = jax.lax.scan(step, loop.init(theta, train, key), jnp.arange(config.steps))
        x = test.inputs
        for layer in state.params[:-1]:
            x = jax.nn.relu(x @ layer["weight"] + layer["bias"][None, :])
        x = x @ state.params[-1]["weight"] + state.params[-1]["bias"][None, :]
        return losses[-last:].mean(), (x.argmax(-1) == test.labels).mean()

    over_keys = jax.vmap(one, (None, 0, None, None))
    return jax.jit(lambda thetas, keys, train, test: jax.lax.map(lambda t: over_keys(t, keys, train, test), thetas))


def train_all(config: LearnedTopologyConfig, name: str, thetas: Any, keys: Any) -> tuple[np.ndarray, np.ndarray]:
    """Final losses and test accuracies [theta, key] on a data set."""
    data = datasets.load(name)
    splits = [jax.tree.map(jnp.asarray, split) for split in (data.train, data.test)]
    losses, accuracies = trainer(config, data.inputs, data.classes)(thetas, keys, *splits)
    return np.asarray(losses, np.float64), np.asarray(accuracies, np.float64)


def run(config: LearnedTopologyConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, tune RigL, compare and draw."""
    start = time.monotonic()
    digits = datasets.load("digits")
    loop = training_loop(
        mlp_classification(digits.inputs, config.hidden, digits.classes), optimizer_of(config), config.steps
    )
    estimator = nres(log_transform_losses(loop, FLOOR), config.sigma, config.pairs, config.window)
    adam = clipped_adam(config.outer_rate, config.outer_steps)
    train = jax.tree.map(jnp.asarray, digits.train)
    keys = jax.random.split(jax.random.key(1), config.seeds)
    thetas = []
    other = ("held_out", "networks", "seeds", "out")
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in other}
    for seed in range(config.seeds):

        def compute(seed: int = seed) -> Any:
            (theta,) = meta_train_seeds(
                f"the rule, seed {seed}",
                optimizer_of(config),
                estimator,
                adam,
                train,
                config.outer_steps,
                keys[seed : seed + 1],
                progress,
                per_call=10,
            )
            return [x.tolist() for x in theta]

        found = remember(config.out, f"theta-{seed}", settings, compute)
        thetas.append(Topology(*(jnp.asarray(x, jnp.float32) for x in found)))
    trained = time.monotonic()
    grid = [with_every(rigl_theta(alpha, end), every) for alpha, every, end in itertools.product(*GRID.values())]
    tuning = np.log(train_all(config, "digits", _stack(grid), jax.random.split(jax.random.key(2), config.networks))[0])
    best = int(tuning.mean(1).argmin())
    tuned = grid[best]
    rows = {"RigL, tuned": tuned, "RigL, alpha .3, every 10, end .75": with_every(rigl_theta(), 10)}
    rows["SET, RigL's numbers"] = set_theta()._replace(alpha=tuned.alpha, every=tuned.every, end=tuned.end)
    names = [*rows, *(f"learned, seed {seed}" for seed in range(config.seeds))]
    everything = _stack([*rows.values(), *thetas])
    table = {}
    for name in ("digits", *config.held_out):
        fresh = jax.random.split(jax.random.key(3), config.networks)
        losses, accuracies = train_all(config, name, everything, fresh)
        logs = np.log(losses)
        ours = logs[len(rows) :].mean(0)
        table[name] = {
            "log_loss": {label: list(mean_interval(x)) for label, x in zip(names, logs, strict=True)},
            "accuracy": {label: list(mean_interval(x)) for label, x in zip(names, accuracies, strict=True)},
            "learned - RigL": list(mean_interval(ours - logs[0])),
            "learned - SET": list(mean_interval(ours - logs[2])),
        }
    result = {
        "table": table,
        "tuned": dict(zip(GRID, list(itertools.product(*GRID.values()))[best], strict=True)),
        "thetas": [describe(theta, config.steps) for theta in thetas],
        "verdict": judge({name: table[name]["learned - RigL"] for name in config.held_out}),
        "meta_training_seconds": round(trained - start, 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "learned_topology.png"),
    }
    draw(result, config.out / "learned_topology.png")
    return write_result(config.out, result)


def _stack(thetas: list[Topology]) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x), *thetas)


def judge(differences: Mapping[str, Any]) -> str:
    """The verdict of the rule at the head of this module, from [mean, low, high] per held-out set."""
    if all(high < 0 for _, _, high in differences.values()):
        return "ahead"
    return "behind" if all(low > 0 for _, low, _ in differences.values()) else "level"


def describe(theta: Topology, steps: int) -> dict[str, Any]:
    """What a rule says, as numbers that can be read."""
    return {
        "keep": dict(zip(FEATURES, map(float, theta.keep), strict=True)),
        "grow": dict(zip(FEATURES, map(float, theta.grow), strict=True)),
        "alpha": float(np.clip(theta.alpha, 0, 1)),
        "every": float(max(1.0, np.round(USUAL_EVERY * 2.0 ** float(theta.every)))),
        "end": float(np.round(np.clip(theta.end, 0, 1) * steps)),
    }


def format_result(result: Mapping[str, Any]) -> str:
    """The tables, the rules found, and the verdict."""
    lines = []
    for kind, form in (("log_loss", ".3f"), ("accuracy", ".4f")):
        columns = {
            name: [format_estimate(x, form) for x in row[kind].values()] for name, row in result["table"].items()
        }
        lines += [format_columns(list(next(iter(result["table"].values()))[kind]), columns, kind.replace("_", " ")), ""]
    for name, row in result["table"].items():
        lines.append(
            f"{name}: learned - RigL {format_estimate(row['learned - RigL'])}, "
            f"learned - SET {format_estimate(row['learned - SET'])}"
        )
    for seed, found in enumerate(result["thetas"]):
        words = [f"{part} " + " ".join(f"{k} {v:+.2f}" for k, v in found[part].items()) for part in ("keep", "grow")]
        lines.append(
            f"seed {seed}: {'; '.join(words)}; alpha {found['alpha']:.2f}, every {found['every']:.0f}, "
            f"end {found['end']:.0f}"
        )
    lines.append(f"RigL, tuned on the digits: {result['tuned']}")
    lines.append(f"verdict: {result['verdict']}; picture: {result['picture']} ({result['seconds']} s)")
    return "\n".join(lines)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the log final losses on every data set, and the weights of the features."""
    names = list(result["table"])
    figure, axes = new_figure(columns=len(names) + 1, width=3.6, height=3.6)
    for ax, name in zip(axes, names, strict=False):
        rows = result["table"][name]["log_loss"]
        for i, (mean, low, high) in enumerate(rows.values()):
            ax.errorbar([mean], [-i], xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=f"C{min(i, 3)}")
        ax.set_yticks(
            [-i for i in range(len(rows))],
            [label.replace(", alpha", ",\nalpha") for label in rows] if name == names[0] else [""] * len(rows),
        )
        ax.set_xlabel("log final training loss")
        ax.set_title(name + (" (meta-training)" if name == "digits" else " (held out)"), fontsize=9)
    ax = axes[-1]
    for seed, found in enumerate(result["thetas"]):
        for part, mark in (("keep", "o-"), ("grow", "s--")):
            ax.plot(
                list(found[part]),
                list(found[part].values()),
                mark,
                color=f"C{seed}",
                markersize=4,
                linewidth=1,
                label=f"{part}, seed {seed}",
            )
    ax.set_title("weights of the features", fontsize=9)
    ax.tick_params(axis="x", labelrotation=30)
    ax.legend(fontsize=6, frameon=False)
    save(figure, path)
