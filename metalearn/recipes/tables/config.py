"""The configuration of the meta-training of a learner for tables."""

from __future__ import annotations

from dataclasses import dataclass, field

from metalearn.ranges import Count, Decay, Positive, Seed, Share, Size, Steps
from metalearn_models.tabular.transformer.config import TableTransformerConfig
from metalearn_tasks.families.tables import TablesConfig

__all__ = ["TableOptimizerConfig", "TrainTablesConfig"]


@dataclass(frozen=True)
class TableOptimizerConfig:
    """Muon (Jordan et al. 2024, optax.contrib) for matrices and Adam for the rest, with warm-up and linear decay."""

    learning_rate: Positive = 3e-3
    """Learning rate of both."""
    momentum: Decay = 0.95
    """Muon's Nesterov momentum."""
    warmup: Count = 100
    """Steps of linear warm-up from 0."""
    decay: Share = 0.6
    """Share of the steps, the last ones, over which the learning rate falls linearly to 0."""
    clip: Positive = 1.0
    """The global norm of the gradient is clipped to this."""
    average: Decay = 0.997
    """Decay of the moving average of the weights, which is what is evaluated and saved."""


@dataclass(frozen=True)
class TrainTablesConfig:
    """Everything that decides the numbers of a meta-training on tables."""

    learner: TableTransformerConfig = field(default_factory=TableTransformerConfig)
    """The learner."""
    prior: TablesConfig = field(default_factory=lambda: TablesConfig(classes=15))
    """The synthetic tables that it learns from."""
    optimizer: TableOptimizerConfig = field(default_factory=TableOptimizerConfig)
    """How it is trained."""
    steps: Steps = 6000
    """Steps, each on the tables of one shape."""
    size: Size = 12
    """Thousands of cells per step, about; decides the number of tables."""
    seed: Seed = 0
    """The seed of everything random."""
    evaluate_every: Count = 1000
    """Steps between evaluations on real tables."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
