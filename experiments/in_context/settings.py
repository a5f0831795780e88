"""The small setting in which phenomena of the paper show within minutes.

Two-layer Transformers on sequences of 50 projected 8x8 digits, 16 principal components of them. The paper's own
setting (MNIST at 14x14, width 256, four layers, 100 examples, batches of 16 tasks x 32 sequences, Adam with eps_root
1e-8) is `published`.
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

CHANCE = 0.1
"""Accuracy of guessing among ten classes."""


def small(seed: int, steps: int, width: int = 64, num_tasks: int | None = None, **changes: Any) -> TrainConfig:
    """Meta-training of a small Transformer with pair tokens; each seed has tasks of its own.

    Args:
        seed: of everything.
        steps: outer steps.
        width: of the Transformer, 4 heads in each of 2 layers.
        num_tasks: in meta-training; None: a new one every time.
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


def published(seed: int, steps: int, width: int = 256, num_tasks: int | None = None, **changes: Any) -> TrainConfig:
    """The paper's own setting, for an accelerator. Arguments as `small`."""
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


def ends(scores: dict[str, np.ndarray]) -> dict[str, float]:
    """First and last accuracy within the sequence, and their difference, on seen and unseen tasks.

    "Last" is the mean over the last 10 positions, where the paper takes the last one alone: the same to within what is
    still learned there, with a tenth of the noise.
    """
    found = {}
    for kind in ("seen", "unseen"):
        if kind in scores:
            curve = np.asarray(scores[kind], np.float64).mean(0)
            found[f"{kind}_first"], found[f"{kind}_last"] = float(curve[0]), float(curve[-LAST:].mean())
            found[f"{kind}_improvement"] = found[f"{kind}_last"] - found[f"{kind}_first"]
    return found


def tasks_in_words(interval: Sequence[float]) -> str:
    """A number of tasks from its logarithm to base 2, with its interval: `2^7.1 tasks [2^6.6, 2^7.4]`.

    Args:
        interval: [place, low, high]; a place may be infinite, where the fewest tasks or none are enough.
    """
    place, low, high = interval
    if place == float("-inf"):
        return "the fewest tasks"
    if not np.isfinite(place):
        return "no number of tasks"
    if not np.isfinite([low, high]).any():
        return f"2^{place:.1f} tasks"
    return f"2^{place:.1f} tasks [{', '.join(f'2^{v:.1f}' if np.isfinite(v) else '?' for v in (low, high))}]"
