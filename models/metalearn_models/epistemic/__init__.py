"""Epistemic agents: networks with an index, for joint predictions, and how they are trained."""

from metalearn_models.epistemic.as_learner import as_learner as as_learner
from metalearn_models.epistemic.bayes_by_backprop import BayesByBackpropConfig as BayesByBackpropConfig
from metalearn_models.epistemic.bayes_by_backprop import bayes_by_backprop as bayes_by_backprop
from metalearn_models.epistemic.dropout import DropoutConfig as DropoutConfig
from metalearn_models.epistemic.dropout import dropout as dropout
from metalearn_models.epistemic.ensemble import EnsembleConfig as EnsembleConfig
from metalearn_models.epistemic.ensemble import PriorEnsembleConfig as PriorEnsembleConfig
from metalearn_models.epistemic.ensemble import SingleConfig as SingleConfig
from metalearn_models.epistemic.ensemble import ensemble as ensemble
from metalearn_models.epistemic.ensemble import prior_ensemble as prior_ensemble
from metalearn_models.epistemic.ensemble import single as single
from metalearn_models.epistemic.epinet import EpinetConfig as EpinetConfig
from metalearn_models.epistemic.epinet import epinet as epinet
from metalearn_models.epistemic.hypermodel import HypermodelConfig as HypermodelConfig
from metalearn_models.epistemic.hypermodel import hypermodel as hypermodel
from metalearn_models.epistemic.index import Agent as Agent
from metalearn_models.epistemic.index import Examples as Examples
from metalearn_models.epistemic.index import Knowledge as Knowledge
from metalearn_models.epistemic.index import Params as Params
from metalearn_models.epistemic.index import joint as joint
from metalearn_models.epistemic.index import marginal_log_probs as marginal_log_probs
from metalearn_models.epistemic.registry import AGENTS as AGENTS
from metalearn_models.epistemic.registry import EpistemicConfig as EpistemicConfig
from metalearn_models.epistemic.registry import epistemic as epistemic
from metalearn_models.epistemic.registry import make_agent as make_agent
from metalearn_models.epistemic.registry import names as names
from metalearn_models.epistemic.sgmcmc import SGMCMCConfig as SGMCMCConfig
from metalearn_models.epistemic.sgmcmc import sgmcmc as sgmcmc
from metalearn_models.epistemic.training import train as train

__all__ = [
    "AGENTS",
    "Agent",
    "BayesByBackpropConfig",
    "DropoutConfig",
    "EnsembleConfig",
    "EpinetConfig",
    "EpistemicConfig",
    "Examples",
    "HypermodelConfig",
    "Knowledge",
    "Params",
    "PriorEnsembleConfig",
    "SGMCMCConfig",
    "SingleConfig",
    "as_learner",
    "bayes_by_backprop",
    "dropout",
    "ensemble",
    "epinet",
    "epistemic",
    "hypermodel",
    "joint",
    "make_agent",
    "marginal_log_probs",
    "names",
    "prior_ensemble",
    "sgmcmc",
    "single",
    "train",
]


def __dir__() -> list[str]:
    return __all__
