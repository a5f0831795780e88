"""Scoring the weights of a run and writing them into the package, with a JSON file that says what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.tabular import tabular
from experiments.tabular.shipped.config import ShippedConfig, current_names, read_config
from metalearn.curves import curve_scorer, summarise
from metalearn.learner import Learner
from metalearn.runs.environment import environment
from metalearn.runs.folder import open_run, write_result
from metalearn.runs.json_values import as_json
from metalearn.runs.weights import save_weights, theta_sha256
from metalearn_models.learners import library
from metalearn_models.learners.registry import LEARNERS, build_learner
from metalearn_tasks.datasets import load
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data

__all__ = ["EXAMPLES", "REFERENCES", "compare_learners", "export", "list_commands"]

REFERENCES = ("1nn", "centroid", "ridge", "logistic")
EXAMPLES = (10, 20, 40)
"""The numbers of examples seen at which the learners are compared."""


def compare_learners(
    learner: Learner, theta: Any, inputs: int = 16, tasks: int = 1024, sequences: int = 16, seed: int = 1
) -> dict[str, dict[str, list[float]]]:
    """Accuracy after 10, 20 and 40 examples on unseen projected-digits tasks of held-out images, and its interval.

    The tasks and the sequence length of 50 are those of the preset `digits`; every learner meets the same episodes.

    Args:
        learner: the meta-trained learner, with a context of at least 50.
        theta: its meta-parameters.
        inputs: number of principal components of the digits.
        tasks: number of tasks; the 95 % intervals are over tasks.
        sequences: sequences per task.
        seed: of the episodes.

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
    for name, (contestant, its_theta) in contestants.items():
        score = curve_scorer(contestant, family, family.unseen, tasks, sequences)
        curve = summarise(np.asarray(score(its_theta, data, key)))
        figures[name] = {
            str(n): [round(float(part[n]), 4) for part in (curve.mean, curve.low, curve.high)] for n in EXAMPLES
        }
    return figures


def list_commands(values: Mapping[str, Any], name: str = "RUN") -> list[str]:
    """The commands that repeat a run of the default learner, those of the runs it started from first.

    Args:
        values: the configuration of the run, JSON values.
        name: of the run's folder in the commands.
    """
    values = current_names(values)
    start = values.get("start")
    before = list_commands(start["config"], name + "_BEFORE") if start else []
    default = as_json({"config": ShippedConfig()})["config"]
    changed = [
        f"--config.{key.replace('_', '-')} {' '.join(map(str, value)) if isinstance(value, list) else value}".strip()
        for key, value in values.items()
        if key not in ("start", "learner") and value != default[key]
    ]
    # A run that was stopped early has fewer steps than it was asked for: the next one started from those.
    stopped = f"  # stopped at step {start['steps']}, before the next began" if start else ""
    origin = [f"--start {name}_BEFORE"] if start else []
    command = " ".join(["python -m experiments shipped train --run", name, *origin, *changed])
    return [*[line + stopped if line == before[-1] else line for line in before], command]


def export(folder: Path, target: Path, figures: bool = True) -> dict[str, Any]:
    """Write the newest weights of a run, and a JSON file beside them that says what they are.

    Args:
        folder: the run.
        target: the safetensors file; the JSON file has the same name and the suffix `.json`.
        figures: measure the figures, which takes minutes.

    Returns:
        The content of the JSON file.
    """
    run, trained = open_run(folder, current_names), library.load(folder)
    config = read_config(run.config)
    card = {
        "name": target.stem,
        "signature": trained.signature._asdict(),
        "learner": {"name": "transformer", **run.config["learner"]},
        "config": run.config,
        "seed": config.seed,
        "steps": trained.card["steps"],
        "commands": list_commands(run.config),
        "theta_sha256": theta_sha256(trained.theta),
        "figures": compare_learners(trained.learner, trained.theta, config.inputs) if figures else {},
        "figures_protocol": "accuracy [mean, low, high] after n examples on 1024 unseen projected-digits tasks, 16 "
        "sequences each of 50 held-out images, PCA 16; 95 % intervals over tasks",
        "metalearn": environment()["metalearn"],
        "licence": "Apache-2.0",
    }
    save_weights(target, trained.theta, card)
    if figures:
        card["tabular"] = tabular.compare(tabular.TabularConfig(weights=str(target)))
        card["tabular_protocol"] = "mean accuracy over 20 stratified splits, 50 training rows, held-out digits only"
        save_weights(target, trained.theta, card)
    target.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    write_result(run, card)
    return card
