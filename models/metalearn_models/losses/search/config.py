"""The settings of a search for losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from metalearn.errors import unknown_name
from metalearn_models.losses.search.enumeration import LARGEST
from metalearn_models.losses.search.evolution import EvolutionConfig
from metalearn_models.losses.search.population import TrainingConfig

__all__ = ["LISTED", "SearchConfig", "Strategy"]

Average = Literal["arithmetic", "geometric"]
Strategy = Literal["evolution", "random", "enumeration", "model"]
"""How candidates are made, see `SearchConfig.strategy`."""
LISTED: tuple[Strategy, ...] = ("enumeration", "model")
"""The strategies that choose from a list."""


@dataclass(frozen=True)
class SearchConfig:
    """The settings of a search; together with the tasks they determine every number of its result."""

    evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)
    """How formulas are bred."""
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """How networks are trained with a candidate."""
    generations: int = 50
    """Number of generations, the first one included."""
    climbs: int = 0
    """Number of last generations that hold all formulas one change away from the best, in place of bred ones."""
    strategy: Strategy = "evolution"
    """evolution: each generation is bred from the one before. random: each is a new first population, the seeds only in
    the first. enumeration: all small losses of one form are listed (`enumeration.py`), and each generation is drawn
    evenly from the list. model: a model of those trained so far chooses from the list."""
    largest: int = LARGEST
    """Nodes of the largest functions in that list."""
    max_trained: int | None = None
    """Distinct losses trained before the search stops, for equal budgets of two strategies. None: no limit."""
    finalists: int = 8
    """How many of the best distinct losses are judged again on fresh seeds; that judgement decides."""
    final_rounds: int = 1
    """Rounds of that judgement, each with `training.seeds` fresh seeds."""
    average: Average = "arithmetic"
    """Mean over the errors of the tasks. In the geometric mean a task counts by the factor of its improvement, whatever
    its level; errors below half an example are raised to half an example."""
    seed: int = 0
    """Seed of formulas, networks and batches."""

    def __post_init__(self) -> None:
        for name in ("generations", "finalists", "final_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.climbs < self.generations:
            raise ValueError(
                f"climbs must be from 0 to {self.generations - 1}, less than the generations, got {self.climbs}"
            )
        if self.max_trained is not None and self.max_trained < 1:
            raise ValueError(f"max_trained must be at least 1 or None, got {self.max_trained}")
        if self.strategy not in get_args(Strategy):
            raise unknown_name("strategy", self.strategy, get_args(Strategy))
        if self.largest < 1:
            raise ValueError(f"largest must be at least 1 node, got {self.largest}")
        if self.average not in get_args(Average):
            raise unknown_name("average", self.average, get_args(Average))
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
