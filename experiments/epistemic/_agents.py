"""The testbed's agents, of a size that two cores can train; some without their prior, all with tuned constants, too."""

from __future__ import annotations

from typing import Any

from metalearn.learner import Signature
from metalearn_models import epistemic
from metalearn_models.epistemic import Agent

NO_PRIOR = "-no-prior"
HAS_PRIOR_SCALE = ("hypermodel", "epinet")
"""Agents whose prior can be taken away. What "prior-ensemble" is without its prior is "ensemble"."""
PRIOR_PAIRS = (("prior-ensemble", "ensemble"), *((name, name + NO_PRIOR) for name in HAS_PRIOR_SCALE))
"""Agents with a prior, each with the same agent without it."""
TUNED: dict[str, dict[str, float]] = {
    "dropout": {"rate": 0.3},
    "bbb": {"prior_deviation": 1 / 3},
    "sgmcmc": {"prior_variance": 0.3},
    "epinet": {"prior_scale": 0.9},
}
"""Constants that `python -m experiments testbed_tuning` chose, where they differ from the released ones."""
TUNED_SUFFIX = "-tuned"
AGENTS = (
    *epistemic.names(),
    *(without for _, without in PRIOR_PAIRS if without.endswith(NO_PRIOR)),
    *(name + TUNED_SUFFIX for name in TUNED),
)


def make_agent(name: str, inputs: int, members: int, shorter: int = 1, **values: Any) -> Agent:
    """An agent for two classes.

    Args:
        name: one of `AGENTS`.
        inputs: D.
        members: of ensembles.
        shorter: divides the training steps, for a try.
        values: further fields of its configuration.
    """
    if name.endswith(TUNED_SUFFIX):
        name = name.removesuffix(TUNED_SUFFIX)
        values = TUNED[name] | values
    if name.endswith(NO_PRIOR):
        name, values["prior_scale"] = name.removesuffix(NO_PRIOR), 0.0
    if name.endswith("ensemble"):
        values["members"] = members
    agent = epistemic.make_agent(name, Signature(inputs, 2, 1), **values)
    return agent._replace(steps=max(1, agent.steps // shorter))
