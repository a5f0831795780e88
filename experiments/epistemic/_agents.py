"""The testbed's agents, of a size that two cores can train; and the epinet without its prior."""

from __future__ import annotations

from metalearn.learner import Signature
from metalearn_models import epistemic
from metalearn_models.epistemic import Agent

NO_PRIOR = "-no-prior"
AGENTS = (*epistemic.names(), "epinet" + NO_PRIOR)


def make_agent(name: str, inputs: int, members: int, shorter: int = 1) -> Agent:
    """An agent for two classes; its training may be some times shorter, for a try."""
    values = {}
    if name.endswith(NO_PRIOR):
        name, values["prior_scale"] = name.removesuffix(NO_PRIOR), 0.0
    if name.endswith("ensemble"):
        values["members"] = members
    agent = epistemic.make_agent(name, Signature(inputs, 2, 1), **values)
    return agent._replace(steps=max(1, agent.steps // shorter))
