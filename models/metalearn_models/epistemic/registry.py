"""All agents by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from metalearn.errors import unknown_name
from metalearn.learner import Learner, Signature
from metalearn.ranges import Named, Positive, Size, Steps, Within
from metalearn_models._settings import check_settings
from metalearn_models.epistemic.as_learner import as_learner
from metalearn_models.epistemic.bayes_by_backprop import BayesByBackpropConfig, bayes_by_backprop
from metalearn_models.epistemic.dropout import DropoutConfig, dropout
from metalearn_models.epistemic.ensemble import (
    EnsembleConfig,
    PriorEnsembleConfig,
    SingleConfig,
    ensemble,
    prior_ensemble,
    single,
)
from metalearn_models.epistemic.epinet import EpinetConfig, epinet
from metalearn_models.epistemic.hypermodel import HypermodelConfig, hypermodel
from metalearn_models.epistemic.index import Agent
from metalearn_models.epistemic.sgmcmc import SGMCMCConfig, sgmcmc

__all__ = ["AGENTS", "AgentEntry", "EpistemicConfig", "epistemic", "make_agent", "names"]


class AgentEntry(NamedTuple):
    """An agent that has a name.

    Attributes:
        config: the class of its configuration; the defaults are those of the neural testbed.
        build: `(signature, config) -> agent`.
        description: one line for people.
    """

    config: type
    build: Callable[[Signature, Any], Agent]
    description: str


AGENTS: dict[str, AgentEntry] = {
    "mlp": AgentEntry(SingleConfig, single, "one network, without an index"),
    "ensemble": AgentEntry(EnsembleConfig, ensemble, "networks from several initial weights (Lakshminarayanan et al.)"),
    "prior-ensemble": AgentEntry(
        PriorEnsembleConfig, prior_ensemble, "an ensemble with random prior functions (Osband et al. 2018)"
    ),
    "dropout": AgentEntry(DropoutConfig, dropout, "Monte Carlo dropout (Gal and Ghahramani 2016)"),
    "bbb": AgentEntry(BayesByBackpropConfig, bayes_by_backprop, "Bayes by backprop (Blundell et al. 2015)"),
    "hypermodel": AgentEntry(HypermodelConfig, hypermodel, "linear hypermodel (Dwaracherla et al. 2020)"),
    "sgmcmc": AgentEntry(SGMCMCConfig, sgmcmc, "Langevin dynamics with momentum (Chen et al. 2014)"),
    "epinet": AgentEntry(EpinetConfig, epinet, "epinet with a prior beside a base network (Osband et al. 2021)"),
}
"""All agents by name."""


def names() -> tuple[str, ...]:
    """The names of all agents."""
    return tuple(AGENTS)


def make_agent(name: str, signature: Signature, **values: Any) -> Agent:
    """An agent by name.

    Args:
        name: of the agent.
        signature: shapes of the task; its length is not read.
        values: fields of its configuration that differ from the defaults; those that it does not have are an error.

    Raises:
        UnknownNameError: no such agent; names the nearest ones.
        ValueError: a field is out of its range, or the task is regression.
        TypeError: the configuration has no such field.
    """
    if name not in AGENTS:
        raise unknown_name("agent", name, AGENTS)
    entry = AGENTS[name]
    return entry.build(signature, entry.config(**values))


@dataclass(frozen=True)
class EpistemicConfig:
    """An agent of the neural testbed, trained anew on all examples so far whenever one more is observed."""

    agent: Annotated[str, Named("agent", names)] = "epinet"
    """Its name."""
    steps: Steps = 200
    """Training steps per example; the testbed trains once, five times longer."""
    members: Annotated[int, Within(2, 2**16)] = 10
    """Members, of the agents that have any."""
    temperature: Positive = 0.1
    """What the agent is told for the temperature of its tasks: small if labels are nearly sure."""
    indices: Size = 100
    """Indices of a prediction, where there are infinitely many."""


def epistemic(signature: Signature, config: EpistemicConfig = EpistemicConfig()) -> Learner:
    """An agent as a learner without meta-parameters, see `as_learner`.

    Args:
        signature: shapes of the task; classification.
        config: which agent, and its training.

    Raises:
        UnknownNameError: no such agent; names the nearest ones.
        ValueError: a field is out of its range, or the task is regression.
    """
    check_settings(signature, config)
    if config.agent not in AGENTS:
        raise unknown_name("agent", config.agent, AGENTS)
    fields = {field.name for field in dataclasses.fields(AGENTS[config.agent].config)}
    values: dict[str, Any] = {"steps": config.steps}
    if "members" in fields:
        values["members"] = config.members
    if "samples" in fields:
        values["samples"] = max(2, min(100, config.steps // 2))

    def build(shapes: Signature) -> Agent:
        return make_agent(config.agent, shapes, **values)

    return as_learner(signature, build, config.temperature, config.indices)
