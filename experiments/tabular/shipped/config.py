"""What decides the numbers of the shipped weights: their configuration and the tasks and the learner that it builds.

One small Transformer (GPICL, Kirsch et al. 2022, arXiv 2212.04458, with the pair token) learns from a mixture of
projected digits, training images only, and synthetic classification tasks of 2 to 10 classes, in the spirit of TabPFN
(Hollmann et al. 2022, arXiv 2207.01848).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from metalearn.learner import Family, Learner
from metalearn_models.learners.transformer import TransformerConfig, transformer
from metalearn_tasks.datasets import load
from metalearn_tasks.families.mixture import mixture, reproject
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data
from metalearn_tasks.families.synthetic import SyntheticConfig, synthetic

__all__ = ["Parts", "ShippedConfig", "build", "current_names", "read_config"]


@dataclass(frozen=True)
class ShippedConfig:
    """Everything that decides the numbers of the shipped weights."""

    inputs: int = 16
    """D, the principal components of the digits and the width of the synthetic tasks."""
    length: int = 64
    """T, the examples per sequence and the context of the classifier."""
    digits: float = 0.6
    """Probability that a task is made of projected digits; the others are synthetic."""
    narrow: tuple[int, ...] = (3, 6)
    """Half of the synthetic tasks have one of these numbers of inputs and are mapped to `inputs`. Empty: all have
    `inputs`."""
    learner: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=96, layers=3, heads=4, key_size=24, token="pair")
    )
    """The Transformer."""
    batch: int = 32
    """Tasks per outer step, one sequence each."""
    learning_rate: float = 1.5e-3
    """Peak learning rate of Adam."""
    b2: float = 0.99
    """Decay of Adam's second moment."""
    warmup: int = 200
    """Outer steps of linear warm-up; after them the learning rate is constant."""
    decay: int = 4000
    """Outer steps of linear decay to 0 at the end. Before it begins, a resumed run may change this and `steps`."""
    clip: float = 1.0
    """Largest global gradient norm."""
    steps: int = 15_000
    """Outer steps."""
    steps_per_call: int = 25
    """At most this many outer steps in one dispatch; results are equal up to rounding."""
    seed: int = 0
    """The seed of everything random."""
    evaluate_every: int = 1000
    """Outer steps between evaluations."""
    checkpoint_every: int = 500
    """Outer steps between checkpoints."""


def read_config(values: Mapping[str, Any]) -> ShippedConfig:
    """The configuration of a run from the JSON values in its folder, also from those of an earlier version."""
    values = current_names(values)
    values.pop("start", None)
    learner = TransformerConfig(**values.pop("learner"))
    return ShippedConfig(**{**values, "narrow": tuple(values["narrow"]), "learner": learner})


def current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON values of a run as this version writes them.

    The first runs have `tasks` for `batch`, no field `narrow` and fewer fields of the learner.
    """
    renamed = {"batch" if name == "tasks" else name: value for name, value in values.items()}
    return {"narrow": [], **renamed, "learner": dataclasses.asdict(TransformerConfig(**values["learner"]))}


class Parts(NamedTuple):
    """What a configuration builds.

    Attributes:
        family: the meta-training tasks.
        data: training data of `family`.
        test_data: held-out data of `family`.
        digits: the tasks of projected digits alone.
        learner: the Transformer.
    """

    family: Family
    data: Any
    test_data: Any
    digits: Family
    learner: Learner


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
    none = ((),) * len(tables)
    data, test_data = (projected_data(*dataset.train), *none), (projected_data(*dataset.test), *none)
    return Parts(family, data, test_data, digits, transformer(family.signature, config.learner))
