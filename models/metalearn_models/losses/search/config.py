"""The settings of a search for losses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from metalearn.errors import unknown_name
from metalearn_models.losses.search.evolution import EvolutionConfig
from metalearn_models.losses.search.population import TrainingConfig

__all__ = ["SearchConfig"]

Average = Literal["arithmetic", "geometric"]


@dataclass(frozen=True)
class SearchConfig:
    """A search; with its tasks it determines every number of the result."""

    evolution: EvolutionConfig = dataclasses.field(default_factory=EvolutionConfig)
    """How formulas are bred."""
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """How networks are trained by them."""
    generations: int = 50
    """Populations judged, the first one included."""
    climbs: int = 0
    """How many of them, the last ones, are not bred but all formulas one change away from the best so far."""
    strategy: Literal["evolution", "random"] = "evolution"
    """random: each generation is an independent first population, without seeds after the first."""
    max_trained: int | None = None
    """Stop when so many distinct losses have been trained: equal budgets for two strategies. None: no limit."""
    finalists: int = 8
    """The best distinct losses, which are judged once more on fresh seeds; these decide."""
    final_rounds: int = 1
    """Times `training.seeds` fresh seeds."""
    average: Average = "arithmetic"
    """Mean over tasks that makes the fitness of their errors. In the "geometric" one each task counts by how many times
    its error shrinks, whatever its level; less than half an example's counts as that."""
    seed: int = 0
    """Of formulas, networks and batches."""

    def __post_init__(self) -> None:
        for name in ("generations", "finalists", "final_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.climbs < self.generations:
            raise ValueError(f"climbs are some of the {self.generations} generations, but not all, got {self.climbs}")
        if self.max_trained is not None and self.max_trained < 1:
            raise ValueError(f"max_trained must be at least 1 or None, got {self.max_trained}")
        if self.strategy not in ("evolution", "random"):
            raise unknown_name("strategy", self.strategy, ("evolution", "random"))
        if self.average not in get_args(Average):
            raise unknown_name("average", self.average, get_args(Average))
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
