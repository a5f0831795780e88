"""Accuracy against time: the paper's MNIST setting, meta-trained for as many seconds as there are."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from metalearn.curves import last_positions
from metalearn.errors import DataNotPreparedError, UnknownNameError
from metalearn.recipes.driving import compile_outer_loop, initial_state
from metalearn.recipes.in_context.build import load_data, prepare
from metalearn.recipes.in_context.config import DataConfig, TrainConfig
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.scoring import LAST, learner_scorers
from metalearn_models.learners import TransformerConfig
from metalearn_tasks.families.projected import ProjectedConfig

__all__ = ["learn", "paper_config", "toy_config"]


def paper_config(data: str, data_dir: str | None) -> tuple[TrainConfig, str]:
    """The paper's preset on MNIST, or on the bundled digits where MNIST is not at hand; with a note that says which."""
    config = PRESETS["paper"][1]
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=data, data_dir=data_dir))
    try:
        load_data(config)
    except (ImportError, DataNotPreparedError, UnknownNameError) as problem:
        if data != "mnist":
            raise
        reason = str(problem).splitlines()[0]
        return dataclasses.replace(config, data=DataConfig("digits")), f"digits in the place of MNIST ({reason})"
    return config, data


def toy_config() -> TrainConfig:
    """A Transformer of width 16 on digits, two outer steps per call."""
    return TrainConfig(
        family=ProjectedConfig(length=10),
        learner=TransformerConfig(width=16, layers=1, heads=2, key_size=8),
        batch=4,
        steps=4,
        steps_per_call=2,
        eval_tasks=16,
    )


def learn(config: TrainConfig, seconds: float, note: Callable[[str], None]) -> dict[str, Any]:
    """Meta-train until the time is over or the steps are done.

    Evaluations come at doubling times, and the time that they take is not counted. The state is not kept: a training
    that is stopped begins anew.

    Args:
        config: what to meta-train.
        seconds: of training, compilation included.
        note: is told every evaluation.

    Returns:
        `curve`, a list of `seconds`, `step`, `unseen` and `half` (accuracy at the last 10 positions on unseen tasks of
        held-out examples, and half its 95 % interval over tasks); `first`, seconds to the end of the first call;
        `rate`, sequences per second after it.
    """
    recipe = prepare(config)
    loop, per_call = compile_outer_loop(recipe.training, config.steps)
    score = learner_scorers(recipe)["unseen"]
    state = initial_state(recipe.training, loop)
    curve: list[dict[str, float]] = []
    done, spent, first, due = 0, 0.0, 0.0, 0.0
    while done < config.steps and spent < seconds:
        began = time.perf_counter()
        state, metrics = jax.block_until_ready(loop.step(state, recipe.data))
        spent, done = spent + time.perf_counter() - began, done + per_call
        first = first or spent
        if not np.isfinite(np.asarray(metrics["loss"])).all():
            raise FloatingPointError(f"the loss is not finite before outer step {done}")
        if spent >= due or done >= config.steps or spent >= seconds:
            mean, half = last_positions(score(state.theta), LAST)
            curve.append({"seconds": spent, "step": done, "unseen": mean, "half": half})
            note(f"outer step {done:,}, {spent:.0f} s: {mean:.3f} ± {half:.3f} on unseen tasks")
            due = max(2 * spent, 5.0)
    steps_after = done - per_call
    rate = steps_after * config.batch * config.sequences / (spent - first) if steps_after else float("nan")
    return {"curve": curve, "first": first, "rate": rate}
