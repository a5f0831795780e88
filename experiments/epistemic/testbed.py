"""The neural testbed: which agents know what they do not know, by joint predictions.

Osband et al. 2021, "Epistemic neural networks" (arXiv 2107.08924), and 2022, "The neural testbed" (arXiv 2110.04629).
Agents are trained on n labels of a random network, and asked for tau labels at two places together, drawn afresh at
each visit. The score is the Kullback-Leibler divergence from the teacher, in nats summed over the tau labels; it is
averaged over all settings of a seed, and divided by that of one network ("mlp"), as the released code does.

The rule, written before the first run:

- at tau = 10 the ensemble with prior functions and the epinet have at most .6 of the KL of the single network. It holds
  if the mean over seeds is at most .6, and fails if the whole 95 % interval is above.
- at tau = 1 nothing separates: the mean of every agent of the claim lies between .75 and 1.25. It fails if a whole
  interval is outside.

"reproduced": both hold. "not reproduced": one fails. "open": otherwise. The claims are about the agents "ensemble",
"prior-ensemble" and "epinet"; all other rows are reported, among them the same agents with constants that
`testbed_tuning` chose, and what an agent is without its prior, with the difference over the same teachers. A divergence
that is infinite is counted, not clipped.

    python -m experiments testbed             # 2 inputs, 10 seeds
    python -m experiments testbed standard    # 2 and 10 inputs, all agents
    metalearn train testbed --run RUN         # a Transformer that reads examples, meta-trained on such tasks
    python -m experiments testbed --in-context RUN

What has ended is kept in `out/cells`; the same command continues.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.epistemic._agents import AGENTS, make_agent
from experiments.epistemic._in_context import score_by_chain_rule
from experiments.epistemic._problems import Problem, draw_problem, joint_of_indices
from experiments.epistemic._testbed_report import draw, format_summary, summarise
from experiments.suite.cells import remember, settings_of
from experiments.suite.results import write_result
from metalearn.errors import unknown_name
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256
from metalearn_models.epistemic import Agent, train
from metalearn_models.learners.library import load

SCORE = "KL"
__all__ = ["PRESETS", "SCORE", "TestbedExperimentConfig", "divergences", "format_result", "measure", "problems", "run"]
IN_CONTEXT = "in-context"


@dataclass(frozen=True)
class TestbedExperimentConfig:
    """Train agents on the neural testbed and score their joint predictions."""

    agents: tuple[str, ...] = ("mlp", "ensemble", "prior-ensemble", "epinet")
    """Agents by name; "mlp" is what all are divided by."""
    inputs: tuple[int, ...] = (2,)
    """Dimensions of the inputs."""
    ratios: tuple[int, ...] = (1, 10, 100)
    """Examples per dimension."""
    temperatures: tuple[float, ...] = (0.01, 0.1, 0.5)
    """Temperatures of the teachers."""
    taus: tuple[int, ...] = (1, 10)
    """Labels that are predicted together."""
    seeds: int = 10
    """Teachers per setting."""
    members: int = 30
    """Members of the ensembles; the testbed has 100."""
    polyads: int = 500
    """Pairs of places per teacher."""
    draws: int = 4
    """Draws of the labels per pair of places."""
    indices: int = 1000
    """Indices that the mean is over, where there are infinitely many."""
    shorter: int = 1
    """Divides the training steps, for a try."""
    in_context: Path | None = None
    """A run of `metalearn train testbed`: its learner, which reads the examples, is one more row. None: no such row."""
    in_context_polyads: int = 50
    """Pairs of places per teacher that this learner is asked about, with one draw of the labels."""
    out: Path = Path("runs/testbed")
    """Folder of the cells, the table and the picture."""


PRESETS = {
    "quick": TestbedExperimentConfig(),
    "standard": TestbedExperimentConfig(agents=AGENTS, inputs=(2, 10)),
}


def problems(config: TestbedExperimentConfig, inputs: int, ratio: int, first: int = 0) -> Problem:
    """All problems of one number of inputs and one ratio: axes temperatures and seeds (from `first`) lead."""
    number = 10_000 * inputs + ratio

    def one(place: jax.Array, temperature: jax.Array, seed: jax.Array) -> Problem:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(7), number), place), seed)
        return draw_problem(key, temperature, inputs, inputs * ratio, config.taus, config.polyads, config.draws)

    over_seeds = jax.vmap(one, (None, None, 0))
    places, temperatures = jnp.arange(len(config.temperatures)), jnp.array(config.temperatures, jnp.float32)
    return jax.jit(jax.vmap(over_seeds, (0, 0, None)))(places, temperatures, jnp.arange(first, first + config.seeds))


def divergences(agent: Agent, made: Problem, indices: int) -> tuple[jax.Array, jax.Array]:
    """Train an agent on every problem and score it, as one program.

    Args:
        agent: any agent.
        made: problems with two leading axes.
        indices: indices of the mean.

    Returns:
        KL divergences `[temperatures, seeds, taus]` without the infinite ones, and the number of those.
    """

    def trained(problem: Problem) -> Any:
        return train(agent, problem.xs, problem.ys, problem.knowledge, jax.random.fold_in(jax.random.key(1), 0))

    def scored(given: tuple[Problem, Any]) -> tuple[jax.Array, jax.Array]:
        problem, params = given
        drawn = agent.draw(jax.random.key(2), indices)
        means, infinite = [], []
        for polyads in problem.polyads:
            found = joint_of_indices(lambda xs, z: agent.apply(params, xs, z), drawn, polyads)
            gap = polyads.truth - found
            possible = jnp.isfinite(found)
            means.append(jnp.mean(gap, where=possible))
            infinite.append((~possible).sum())
        return jnp.stack(means), jnp.stack(infinite)

    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), made)
    params = jax.jit(jax.vmap(trained))(flat)
    kl, infinite = jax.jit(lambda flat, params: jax.lax.map(scored, (flat, params)))(flat, params)
    shape = made.knowledge.examples.shape
    return kl.reshape(*shape, -1), infinite.reshape(*shape, -1)


def measure(name: str, config: TestbedExperimentConfig, made: Problem) -> dict[str, Any]:
    """The divergences of one agent, or of the learner that reads examples, on all problems of a setting.

    Args:
        name: of an agent, or `IN_CONTEXT`.
        config: the experiment.
        made: problems with two leading axes.

    Raises:
        ValueError: the learner's context is too short, or it has other inputs.
    """
    if name != IN_CONTEXT:
        inputs = made.xs.shape[-1]
        kl, infinite = divergences(make_agent(name, inputs, config.members, config.shorter), made, config.indices)
        return {"kl": np.asarray(kl, np.float64).tolist(), "infinite": np.asarray(infinite).tolist()}
    assert config.in_context is not None
    trained = load(config.in_context)
    if trained.signature.inputs != made.xs.shape[-1]:
        raise ValueError(
            f"--in-context was meta-trained on {trained.signature.inputs} inputs, the problems have "
            f"{made.xs.shape[-1]}: take --inputs {trained.signature.inputs}"
        )
    found = score_by_chain_rule(trained.learner, trained.theta, made, config.in_context_polyads, 1)
    return {key: np.asarray(value, np.float64).tolist() for key, value in found._asdict().items()}


def run(config: TestbedExperimentConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train and score what is missing, summarise and draw.

    Raises:
        UnknownNameError: an agent has no such name.
        ValueError: "mlp" is not among the agents, or a number is out of its range.
    """
    for name in config.agents:
        if name not in AGENTS:
            raise unknown_name("agent", name, AGENTS)
    if "mlp" not in config.agents:
        raise ValueError(f"--agents must contain mlp, which all are divided by; got {', '.join(config.agents)}")
    sizes = (config.seeds, config.polyads, config.draws, config.shorter, *config.taus, *config.ratios, *config.inputs)
    if min(*sizes, config.in_context_polyads) < 1:
        raise ValueError(
            "--seeds, --polyads, --draws, --taus, --ratios, --inputs, --in-context-polyads and --shorter must be at "
            f"least 1; got {config.seeds}, {config.polyads}, {config.draws}, {config.taus}, {config.ratios}, "
            f"{config.inputs}, {config.in_context_polyads} and {config.shorter}"
        )
    if config.indices < 2:
        raise ValueError(f"--indices must be at least 2, got {config.indices}")
    if min(config.temperatures) <= 0:
        raise ValueError(f"--temperatures must be positive, got {config.temperatures}")
    start, rows = time.monotonic(), []
    for inputs in config.inputs:
        for ratio in config.ratios:
            made = functools.cache(functools.partial(problems, config, inputs, ratio))
            for name in (*config.agents, *([IN_CONTEXT] if config.in_context else [])):
                compute = functools.partial(_timed, name, config, made)
                found = remember(config.out, f"{name}-{inputs}-{ratio}", _settings(config, name), compute)
                rows.append({"agent": name, "inputs": inputs, "ratio": ratio, **found})
                if progress is not None:
                    means = ", ".join(f"{x:.3f}" for x in np.mean(found["kl"], (0, 1)))
                    progress.note(f"{name}, D = {inputs}, n = {inputs * ratio}: KL {means}, {found['seconds']:.0f} s")
    result = {
        **summarise(rows, config.taus, config.temperatures),
        "settings": {"taus": list(config.taus), "temperatures": list(config.temperatures), "seeds": config.seeds},
        "cell_seconds": round(sum(row["seconds"] for row in rows), 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "testbed.png"),
    }
    draw(result, config.out / "testbed.png")
    return write_result(config.out, result)


def format_result(result: Mapping[str, Any]) -> str:
    """The table, the claims and the verdict."""
    return format_summary(result)


def _timed(name: str, config: TestbedExperimentConfig, made: Callable[[], Problem]) -> dict[str, Any]:
    began = time.monotonic()
    return {**measure(name, config, made()), "seconds": time.monotonic() - began}


def _settings(config: TestbedExperimentConfig, name: str) -> dict[str, Any]:
    """What decides the numbers of a cell besides its agent and setting."""
    own = () if name == IN_CONTEXT else ("in_context", "in_context_polyads")
    settings = settings_of(config, ("agents", "inputs", "ratios", *own))
    if name == IN_CONTEXT:  # a run may have gone on since
        settings["weights"] = theta_sha256(load(str(config.in_context)).theta)
    return settings
