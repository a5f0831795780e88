"""Agents by name, with the constants of the testbed."""

from __future__ import annotations

from collections.abc import Callable

from metalearn.learner import Signature
from metalearn_models.epistemic import (
    Agent,
    EnsembleConfig,
    EpinetConfig,
    PriorEnsembleConfig,
    ensemble,
    epinet,
    prior_ensemble,
    single,
)

AGENTS: dict[str, Callable[[Signature, int], Agent]] = {
    "mlp": lambda signature, members: single(signature),
    "ensemble": lambda signature, members: ensemble(signature, EnsembleConfig(members=members)),
    "prior-ensemble": lambda signature, members: prior_ensemble(signature, PriorEnsembleConfig(members=members)),
    "epinet": lambda signature, members: epinet(signature),
    "epinet-no-prior": lambda signature, members: epinet(signature, EpinetConfig(prior_scale=0.0)),
}
"""`(signature, members) -> agent`."""


def make_agent(name: str, inputs: int, members: int, shorter: int = 1) -> Agent:
    """An agent for two classes; its training may be some times shorter, for a try."""
    agent = AGENTS[name](Signature(inputs, 2, 1), members)
    return agent._replace(steps=max(1, agent.steps // shorter))
