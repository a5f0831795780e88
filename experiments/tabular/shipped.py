"""Meta-train the weights that `InContextClassifier` ships with, score them, and write them into the package.

One small Transformer (GPICL, Kirsch et al. 2022, arXiv 2212.04458, with the pair token) learns from a mixture of
projected digits, training images only, and synthetic classification tasks of 2 to 10 classes, in the spirit of TabPFN
(Hollmann et al. 2022, arXiv 2207.01848). A run is a folder that survives a kill:

    python -m experiments shipped train --run runs/shipped            meta-train
    python -m experiments shipped train --run runs/shipped --resume   go on after a kill
    python -m experiments shipped export --run runs/shipped           score, and write weights and their JSON

A run may start from the weights of another (`--start RUN`), as a second phase on another mixture.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
import tyro

import metalearn_models
from experiments.tabular import tabular
from metalearn.curves import curve_scorer, last_positions, summarise
from metalearn.gradients import backprop
from metalearn.learner import Family, Learner, inner_loop
from metalearn.outer import OuterLoop, OuterState, outer_loop
from metalearn.runs.checkpoints import checkpoint_steps, restore_checkpoint
from metalearn.runs.environment import environment
from metalearn.runs.folder import as_json, create_run, open_run, resume_run, write_result
from metalearn.runs.training import train as drive
from metalearn.runs.weights import save_weights, theta_sha256
from metalearn_models.learners.library import load as load_learner
from metalearn_models.learners.registry import LEARNERS, build_learner
from metalearn_models.learners.transformer import TransformerConfig, transformer
from metalearn_tasks.datasets import load
from metalearn_tasks.families.mixture import mixture, reproject
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data
from metalearn_tasks.families.synthetic import SyntheticConfig, synthetic

NAME = "digits-synthetic-16x10"
WEIGHTS = Path(metalearn_models.__file__).parent / "learners" / "weights"
REFERENCES = ("1nn", "centroid", "ridge", "logistic")
EXAMPLES = (10, 20, 40)
"""The numbers of examples seen at which the learners are compared."""


@dataclass(frozen=True)
class ShippedConfig:
    """Everything that decides the numbers of the shipped weights."""

    inputs: int = 16
    """D, the principal components of the digits and the width of the synthetic tasks."""
    length: int = 64
    """T, the examples in a sequence and the context of the classifier."""
    digits: float = 0.6
    """Probability that a task is made of projected digits; the others are synthetic."""
    narrow: tuple[int, ...] = (3, 6)
    """Half of the synthetic tasks have so few inputs before they are mapped to `inputs`; none: all have `inputs`."""
    learner: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=96, layers=3, heads=4, key_size=24, token="pair")
    )
    """The Transformer."""
    tasks: int = 32
    """Tasks an outer step, one sequence each."""
    learning_rate: float = 1.5e-3
    """Peak learning rate of Adam."""
    b2: float = 0.99
    """Decay of Adam's second moment."""
    warmup: int = 200
    """Outer steps of linear warm-up, after which the learning rate stays."""
    decay: int = 4000
    """Outer steps of linear decay to 0 at the end; until they begin, a resumed run may change this and `steps`."""
    clip: float = 1.0
    """Largest global gradient norm."""
    steps: int = 15_000
    """Outer steps."""
    steps_per_call: int = 25
    """Outer steps in one dispatch; must divide steps, results are equal up to rounding."""
    seed: int = 0
    """The seed of everything random."""
    evaluate_every: int = 1000
    """Outer steps between evaluations."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""


class Parts(NamedTuple):
    """What a configuration builds: the meta-training tasks, the digits alone, and the learner."""

    family: Family
    data: Any
    test_data: Any
    digits: Family
    learner: Learner
    loop: OuterLoop


def build(config: ShippedConfig) -> Parts:
    """Build what a configuration names. Errors are those of the parts."""
    dataset = load("digits", pca=config.inputs)
    digits = projected(dataset.inputs, dataset.classes, ProjectedConfig(length=config.length))
    tables = [
        reproject(synthetic(SyntheticConfig(features, dataset.classes, config.length)), config.inputs)
        for features in (config.inputs, *config.narrow)
    ]
    others = 1.0 - config.digits
    weights = [others / 2] + [others / 2 / len(config.narrow)] * len(config.narrow) if config.narrow else [others]
    family = mixture((digits, *tables), (config.digits, *weights))
    learner = transformer(family.signature, config.learner)
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup),
            optax.linear_schedule(config.learning_rate, 0.0, config.decay),
        ],
        [config.steps - config.decay],
    )
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b2=config.b2))
    loop = outer_loop(backprop(inner_loop(learner, family), config.tasks), optimizer, config.steps_per_call)
    none = ((),) * len(tables)
    data, test_data = (projected_data(*dataset.train), *none), (projected_data(*dataset.test), *none)
    return Parts(family, data, test_data, digits, learner, loop)


def initial_state(config: ShippedConfig, parts: Parts, theta: Any = None) -> OuterState:
    """The state before the first outer step, with fresh weights or with `theta`."""
    key_theta, key_outer = jax.random.split(jax.random.key(config.seed))
    theta = jax.jit(parts.learner.init)(key_theta) if theta is None else theta
    return parts.loop.init(theta, parts.data, key_outer)


def train(config: ShippedConfig, folder: Path, resume: bool = False, start: Path | None = None) -> OuterState:
    """Meta-train in a run's folder, from its newest checkpoint if asked to.

    Args:
        config: what to do.
        folder: of the run.
        resume: go on from the newest checkpoint.
        start: take the first weights from this run instead of drawing them; needed again to resume.

    Raises:
        RunError: the folder cannot be used as asked.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    parts, values, theta = build(config), as_json({"config": config})["config"], None
    if start is not None:
        before = load_learner(start)
        theta = before.theta
        origin = {"config": before.card["config"], "steps": before.card["steps"], "theta_sha256": theta_sha256(theta)}
        values["start"] = origin
    free = ("steps", "decay", "evaluate_every", "checkpoint_every")
    run = resume_run(folder, values, free=free) if resume else create_run(folder, values, free=free)
    state = initial_state(config, parts, theta)
    if resume and checkpoint_steps(run):
        state = restore_checkpoint(run, state)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    scorers = {
        "digits": (curve_scorer(parts.learner, parts.digits, parts.digits.unseen), parts.test_data[0]),
        "mixture": (curve_scorer(parts.learner, parts.family, parts.family.unseen), parts.test_data),
    }

    def evaluate(theta: Any) -> dict[str, float]:
        return {name: last_positions(np.asarray(score(theta, data, key)))[0] for name, (score, data) in scorers.items()}

    return drive(
        parts.loop.step,
        state,
        parts.data,
        run,
        steps=config.steps,
        steps_per_call=config.steps_per_call,
        log_every=50,
        checkpoint_every=config.checkpoint_every,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
    )


def compare(
    learner: Learner, theta: Any, inputs: int = 16, tasks: int = 1024, sequences: int = 16, seed: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Accuracy after 10, 20 and 40 examples on unseen projected-digits tasks of held-out images, and its interval.

    The tasks and the sequence length of 50 are those of the preset `digits`; every learner meets the same episodes.

    Args:
        learner: the meta-trained learner, with a context of at least 50.
        theta: its meta-parameters.
        inputs: number of principal components of the digits.
        tasks: tasks, the unit of the 95 % intervals.
        sequences: sequences a task.
        seed: names the episodes.

    Returns:
        For "shipped" and each reference learner, n -> [accuracy, low, high].
    """
    dataset = load("digits", pca=inputs)
    family = projected(dataset.inputs, dataset.classes, ProjectedConfig(length=50))
    data, key = projected_data(*dataset.test), jax.random.key(seed)
    contestants = {"shipped": (learner, theta)}
    for name in REFERENCES:
        reference = build_learner(family.signature, LEARNERS[name].config())
        contestants[name] = (reference, reference.init(key))
    figures = {}
    for name, (one, its_theta) in contestants.items():
        score = curve_scorer(one, family, family.unseen, tasks, sequences)
        curve = summarise(np.asarray(score(its_theta, data, key)))
        figures[name] = {
            str(n): [round(float(part[n]), 4) for part in (curve.mean, curve.low, curve.high)] for n in EXAMPLES
        }
    return figures


def commands(values: dict[str, Any], name: str = "RUN") -> list[str]:
    """The commands that make a run with the default learner, and before it the run that it started from."""
    start = values.get("start")
    before = commands(start["config"], name + "_BEFORE") if start else []
    default = as_json({"config": ShippedConfig()})["config"]
    fixed = {"narrow": [], **values}  # the first of the shipped runs is older than that field
    changed = [
        f"--config.{key.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}".strip()
        for key, value in fixed.items()
        if key not in ("start", "learner") and value != default[key]
    ]
    # A run that was stopped early has fewer steps than it was asked for: those are what the next one started from.
    stopped = f"  # stopped at step {start['steps']}, before the next began" if start else ""
    origin = [f"--start {name}_BEFORE"] if start else []
    command = " ".join(["python -m experiments shipped train --run", name, *origin, *changed])
    return [*[line + stopped if line == before[-1] else line for line in before], command]


def export(folder: Path, target: Path, figures: bool = True) -> dict[str, Any]:
    """Write the newest weights of a run, and a JSON file beside them that says what they are.

    Args:
        folder: the run.
        target: the safetensors file; the JSON has the same name and the ending `.json`.
        figures: measure them; minutes.

    Returns:
        The content of the JSON file.
    """
    run = open_run(folder)
    values = {name: value for name, value in run.config.items() if name != "start"}
    learner = TransformerConfig(**values.pop("learner"))
    config = ShippedConfig(**{**values, "narrow": tuple(values["narrow"]), "learner": learner})
    parts = build(config)
    state = restore_checkpoint(run, initial_state(config, parts))
    card = {
        "name": target.stem,
        "signature": parts.learner.signature._asdict(),
        "learner": {"name": "transformer", **run.config["learner"]},
        "config": run.config,
        "seed": config.seed,
        "steps": int(state.step),
        "commands": commands(run.config),
        "theta_sha256": theta_sha256(state.theta),
        "figures": compare(parts.learner, state.theta, config.inputs) if figures else {},
        "figures_protocol": "accuracy [mean, low, high] after n examples on 1024 unseen projected-digits tasks, 16 "
        "sequences each of 50 held-out images, PCA 16; 95 % intervals over tasks",
        "metalearn": environment()["metalearn"],
        "licence": "Apache-2.0",
    }
    save_weights(target, state.theta, card)
    if figures:
        card["tabular"] = tabular.compare(tabular.TabularConfig(weights=str(target)))
        card["tabular_protocol"] = "mean accuracy over 20 stratified splits, 50 training rows, held-out digits only"
        save_weights(target, state.theta, card)
    target.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    write_result(run, card)
    return card


@dataclass(frozen=True)
class Command:
    """Meta-train the shipped weights, or write those of a run into the package."""

    action: tyro.conf.Positional[Literal["train", "export"]]
    """What to do."""
    run: Path
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint."""
    start: Path | None = None
    """Take the first weights from this run."""
    target: Path = WEIGHTS / f"{NAME}.safetensors"
    """Where `export` writes."""
    json: bool = False
    """Print one JSON object as the last line."""
    config: ShippedConfig = field(default_factory=ShippedConfig)
    """What to train."""


def main(command: Command) -> None:
    """Do what the command says."""
    began = time.monotonic()
    if command.action == "train":
        state = train(command.config, command.run, command.resume, command.start)
        found = {"run": str(command.run), "steps": int(state.step), "theta_sha256": theta_sha256(state.theta)}
    else:
        card = export(command.run, command.target)
        print(json.dumps(card["figures"], indent=2), f"\n{time.monotonic() - began:.0f} s")
        found = {"run": str(command.run), "target": str(command.target)}
        found |= {name: card[name] for name in ("steps", "theta_sha256", "figures", "tabular")}
    if command.json:
        print(json.dumps({**found, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main(tyro.cli(Command))
