"""Two settings of the experiments: a small one that shows the paper's phenomena within minutes, and the paper's own.

The small setting, `small_config`: two-layer Transformers on sequences of 50 projected 8x8 digits, of which 16 principal
components are kept. The paper's own, `published_config`: MNIST at 14x14, width 256, four layers, 100 examples, batches
of 16 tasks x 32 sequences, Adam with eps_root 1e-8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from metalearn.recipes.in_context.config import DataConfig, TrainConfig
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.in_context.scoring import LAST
from metalearn.recipes.outer_optimizer import OptimizerConfig
from metalearn_models.learners.transformer import TransformerConfig
from metalearn_tasks.families.projected import ProjectedConfig

__all__ = ["CHANCE", "format_tasks", "measure_ends", "published_config", "small_config"]

CHANCE = 0.1
"""Accuracy of guessing among ten classes."""


def small_config(seed: int, steps: int, width: int = 64, num_tasks: int | None = None, **changes: Any) -> TrainConfig:
    """The meta-training of a small Transformer with pair tokens; each seed has tasks of its own.

    Args:
        seed: of everything.
        steps: outer steps.
        width: of the Transformer, 4 heads in each of 2 layers.
        num_tasks: tasks in meta-training. None: every task is new.
        **changes: other fields of `TrainConfig`.
    """
    config = TrainConfig(
        data=DataConfig("digits", pca=16),
        family=ProjectedConfig(length=50, num_tasks=num_tasks, seed=seed),
        learner=TransformerConfig(width=width, layers=2, heads=4, key_size=max(4, width // 4), token="pair"),
        outer_optimizer=OptimizerConfig(3e-3, warmup=min(100, steps // 5), schedule="cosine", clip=1.0, b2=0.99),
        steps=steps,
        steps_per_call=50,
        seed=seed,
        evaluate_every=max(1, steps // 5),
        checkpoint_every=max(1, steps // 5),
        eval_tasks=32,
        eval_sequences=64,
        references=(),
    )
    return dataclasses.replace(config, **changes)


def published_config(
    seed: int, steps: int, width: int = 256, num_tasks: int | None = None, **changes: Any
) -> TrainConfig:
    """The paper's own setting, for an accelerator. The arguments are those of `small_config`."""
    paper = PRESETS["paper"][1]
    assert isinstance(paper.learner, TransformerConfig)
    config = dataclasses.replace(
        paper,
        family=dataclasses.replace(paper.family, num_tasks=num_tasks, seed=seed),
        learner=dataclasses.replace(paper.learner, width=width),
        steps=steps,
        seed=seed,
        evaluate_every=max(1, steps // 10),
        checkpoint_every=max(1, steps // 50),
        eval_tasks=32,
        eval_sequences=128,
        references=(),
    )
    return dataclasses.replace(config, **changes)


def measure_ends(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """First and last accuracy within the sequence, and their difference, on seen and on unseen tasks.

    "Last" is the mean over the last 10 positions. The paper takes the last position alone, which has more noise and
    differs by what is still learned over the last ten.

    Args:
        scores: [tasks, T] for "seen" and "unseen"; other kinds are ignored.
    """
    ends = {}
    for kind in ("seen", "unseen"):
        if kind in scores:
            curve = np.asarray(scores[kind], np.float64).mean(0)
            ends[f"{kind}_first"], ends[f"{kind}_last"] = float(curve[0]), float(curve[-LAST:].mean())
            ends[f"{kind}_improvement"] = ends[f"{kind}_last"] - ends[f"{kind}_first"]
    return ends


def format_tasks(interval: Sequence[float]) -> str:
    """A number of tasks from its logarithm to base 2, with its interval: `2^7.1 tasks [2^6.6, 2^7.4]`.

    Args:
        interval: [place, low, high]. The place is -inf if the fewest tasks are enough, and inf if no number is.
    """
    place, low, high = interval
    if place == float("-inf"):
        return "the fewest tasks"
    if not np.isfinite(place):
        return "no number of tasks"
    if not np.isfinite([low, high]).any():
        return f"2^{place:.1f} tasks"
    return f"2^{place:.1f} tasks [{', '.join(f'2^{v:.1f}' if np.isfinite(v) else '?' for v in (low, high))}]"
