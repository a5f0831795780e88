"""The configuration of a search for a loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from metalearn.ranges import Named, NonEmpty, Seed, Share, Size, Steps
from metalearn_models.losses.refinement.refine import RefineConfig
from metalearn_models.losses.search.config import Strategy
from metalearn_models.losses.search.population import TrainingConfig
from metalearn_tasks.datasets.corrupted import Unit, names

__all__ = ["SearchLossConfig"]


_DataName = Annotated[str, Named("data set of losses", names)]


@dataclass(frozen=True)
class SearchLossConfig:
    """All settings of a search and of the refinement after it."""

    data: Annotated[tuple[_DataName, ...], NonEmpty()] = ("digits-low", "wine")
    """Data sets to train on, all of one kind. Classification: digits, digits-low (classes 0 to 4), digits-high, wine,
    breast_cancer, iris, and generated ones with 100 and 1,000 classes, mixture-100, template-100, template-1000.
    Regression: diabetes, friedman1, friedman2, friedman3."""
    noise: Share = 0.0
    """Share of training labels that are wrong, or of training targets that are shifted; validation stays clean."""
    unit: Unit = "clean"
    """Regression: the unit of the targets, in which the loss is later used too, as its `scale`. clean: the standard
    deviation without the shifted targets, which no user knows; deviation: that of the training targets as they are;
    robust: from their median and MAD."""
    hidden: tuple[Size, ...] = (32,)
    """Widths of the hidden layers of the networks."""
    strategy: Strategy = "random"
    """random: draw formulas; the default, since nothing was found that beats it at equal budget on other data. model:
    list all small losses of a form that is the same for any number of classes (regression: functions of the residual),
    and let a model of those trained so far choose the next. enumeration: draw from that list. evolution: breed
    formulas."""
    max_trained: Size | None = None
    """Distinct losses to train at most. None: no limit."""
    population: Size = 25
    """Formulas per generation."""
    generations: Steps = 50
    """Generations at most."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How networks are trained with a candidate."""
    refine: bool = True
    """Refine the coefficients of the best formula."""
    refinement: RefineConfig = field(default_factory=RefineConfig)
    """How coefficients are refined."""
    control: bool = False
    """Also run a random search that trains as many distinct losses; refused with strategy random, which is that."""
    seed: Seed = 0
    """The seed of everything random."""
