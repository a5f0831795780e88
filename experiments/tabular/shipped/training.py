"""Meta-training of the shipped weights, in the folder of a run that survives a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.tabular.shipped.config import Parts, ShippedConfig, build, current_names
from metalearn.curves import curve_scorer, last_positions
from metalearn.gradients import backprop
from metalearn.learner import inner_loop
from metalearn.outer import OuterState
from metalearn.recipes.driving import MetaTraining, drive
from metalearn.runs.json_values import as_json
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models.learners import library

__all__ = ["train"]


def train(
    config: ShippedConfig,
    folder: Path,
    resume: bool = False,
    start: Path | None = None,
    progress: Progress | None = None,
) -> OuterState:
    """Meta-train in a run's folder; returns the state after the last step.

    Args:
        config: what to do.
        folder: of the run.
        resume: continue from the newest checkpoint.
        start: take the first weights from this run instead of drawing them. A resumed run needs it again.
        progress: what a person sees; None: a bar or lines on stderr.

    Raises:
        RunError: the folder cannot be used as asked.
        FloatingPointError: a number became NaN or infinite; names the step.
    """
    parts = build(config)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    scorers = {
        "digits": (curve_scorer(parts.learner, parts.digits, parts.digits.unseen), parts.test_data[0]),
        "mixture": (curve_scorer(parts.learner, parts.family, parts.family.unseen), parts.test_data),
    }

    def evaluate(theta: Any) -> dict[str, float]:
        return {name: last_positions(np.asarray(score(theta, data, key)))[0] for name, (score, data) in scorers.items()}

    _, state = drive(
        _meta_training(config, parts, start),
        folder,
        evaluate=evaluate,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        resume=resume,
        progress=progress,
    )
    return state


def _meta_training(config: ShippedConfig, parts: Parts, start: Path | None) -> MetaTraining:
    values, theta = as_json({"config": config})["config"], None
    if start is not None:
        before = library.load(start)
        theta = before.theta
        origin = {"config": before.card["config"], "steps": before.card["steps"], "theta_sha256": theta_sha256(theta)}
        values["start"] = origin
    key_theta, key_outer = jax.random.split(jax.random.key(config.seed))
    rate = optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup),
            optax.linear_schedule(config.learning_rate, 0.0, config.decay),
        ],
        [config.steps - config.decay],
    )

    def save_theta(path: Path, theta: Any, step: int) -> None:
        library.save(path, config.learner, parts.learner.signature, theta, {"config": values, "steps": step})

    return MetaTraining(
        config=values,
        free=("steps", "decay", "evaluate_every", "checkpoint_every"),
        theta=lambda: jax.jit(parts.learner.init)(key_theta) if theta is None else theta,
        key=key_outer,
        data=parts.data,
        estimator=backprop(inner_loop(parts.learner, parts.family), config.batch),
        optimizer=optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b2=config.b2)),
        steps=config.steps,
        steps_per_call=config.steps_per_call,
        upgrade=current_names,
        save_theta=save_theta,
    )
