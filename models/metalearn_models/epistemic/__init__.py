"""Agents that know what they do not know: networks with an index, and how they are trained."""

from metalearn_models.epistemic.ensemble import EnsembleConfig as EnsembleConfig
from metalearn_models.epistemic.ensemble import PriorEnsembleConfig as PriorEnsembleConfig
from metalearn_models.epistemic.ensemble import SingleConfig as SingleConfig
from metalearn_models.epistemic.ensemble import ensemble as ensemble
from metalearn_models.epistemic.ensemble import prior_ensemble as prior_ensemble
from metalearn_models.epistemic.ensemble import single as single
from metalearn_models.epistemic.epinet import EpinetConfig as EpinetConfig
from metalearn_models.epistemic.epinet import epinet as epinet
from metalearn_models.epistemic.index import Agent as Agent
from metalearn_models.epistemic.index import Knowledge as Knowledge
from metalearn_models.epistemic.index import Params as Params
from metalearn_models.epistemic.index import joint as joint
from metalearn_models.epistemic.index import marginal_logits as marginal_logits
from metalearn_models.epistemic.training import train as train

__all__ = [
    "Agent",
    "EnsembleConfig",
    "EpinetConfig",
    "Knowledge",
    "Params",
    "PriorEnsembleConfig",
    "SingleConfig",
    "ensemble",
    "epinet",
    "joint",
    "marginal_logits",
    "prior_ensemble",
    "single",
    "train",
]


def __dir__() -> list[str]:
    return __all__
