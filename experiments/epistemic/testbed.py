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
"prior-ensemble" and "epinet"; all other rows are reported. A divergence that is infinite is counted, not clipped.

    python -m experiments testbed             # 2 inputs, 10 seeds
    python -m experiments testbed standard    # 2 and 10 inputs, all agents

What has ended is kept in `out/cells`; the same command continues.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.epistemic._agents import AGENTS, make_agent
from experiments.epistemic._problems import Problem, draw_problem, joint_of_indices
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.errors import unknown_name
from metalearn.intervals import mean_interval
from metalearn.pictures import new_figure, save
from metalearn.runs.files import write_atomically
from metalearn.runs.progress import Progress
from metalearn_models.epistemic import Agent, train

CLAIMED = ("ensemble", "prior-ensemble", "epinet")
SCORE = "KL"


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
    out: Path = Path("runs/testbed")
    """Folder of the cells, the table and the picture."""


PRESETS = {
    "quick": TestbedExperimentConfig(),
    "standard": TestbedExperimentConfig(agents=AGENTS, inputs=(2, 10)),
}


def problems(config: TestbedExperimentConfig, inputs: int, ratio: int) -> Problem:
    """All problems of one number of inputs and one ratio: leading axes temperatures and seeds."""
    number = 10_000 * inputs + ratio

    def one(place: jax.Array, temperature: jax.Array, seed: jax.Array) -> Problem:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(7), number), place), seed)
        return draw_problem(key, temperature, inputs, inputs * ratio, config.taus, config.polyads, config.draws)

    over_seeds = jax.vmap(one, (None, None, 0))
    places, temperatures = jnp.arange(len(config.temperatures)), jnp.array(config.temperatures, jnp.float32)
    return jax.jit(jax.vmap(over_seeds, (0, 0, None)))(places, temperatures, jnp.arange(config.seeds))


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
    if min(sizes) < 1:
        raise ValueError("--seeds, --polyads, --draws, --taus, --ratios, --inputs and --shorter must be at least 1")
    start, rows, folder = time.monotonic(), [], config.out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    for inputs in config.inputs:
        for ratio in config.ratios:
            made = None
            for name in config.agents:
                path = folder / f"{name}-{inputs}-{ratio}-{_fingerprint(config)}.json"
                if not path.exists():
                    made = problems(config, inputs, ratio) if made is None else made
                    began = time.monotonic()
                    agent = make_agent(name, inputs, config.members, config.shorter)
                    kl, infinite = divergences(agent, made, config.indices)
                    row = {
                        "agent": name,
                        "inputs": inputs,
                        "ratio": ratio,
                        "kl": np.asarray(kl, np.float64).tolist(),
                        "infinite": np.asarray(infinite).tolist(),
                        "seconds": time.monotonic() - began,
                    }
                    write_atomically(path, json.dumps(row).encode())
                    if progress is not None:
                        means = ", ".join(f"{x:.3f}" for x in np.mean(row["kl"], (0, 1)))
                        progress.note(f"{name}, D = {inputs}, n = {inputs * ratio}: KL {means}, {row['seconds']:.0f} s")
                rows.append(json.loads(path.read_bytes()))
    result = {
        **summarise(rows, config.taus, config.temperatures),
        "settings": {"taus": list(config.taus), "temperatures": list(config.temperatures), "seeds": config.seeds},
        "cell_seconds": round(sum(row["seconds"] for row in rows), 1),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "testbed.png"),
    }
    draw(result, config.out / "testbed.png")
    return write_result(config.out, result)


def _fingerprint(config: TestbedExperimentConfig) -> str:
    """Names what decides the numbers of a cell besides its agent and setting."""
    kept = dataclasses.replace(config, agents=(), inputs=(), ratios=(), out=Path())
    return hashlib.sha256(repr(kept).encode()).hexdigest()[:8]


def summarise(rows: Sequence[Mapping[str, Any]], taus: Sequence[int], temperatures: Sequence[float]) -> dict[str, Any]:
    """Means over seeds, divided by those of the single network, the claims, and the verdict.

    Args:
        rows: one per agent, number of inputs and ratio.
        taus: labels predicted together.
        temperatures: of the teachers.
    """
    names = list(dict.fromkeys(row["agent"] for row in rows))
    # [settings, temperatures, seeds, taus], in the same order of settings for all agents
    kl = {name: np.array([row["kl"] for row in rows if row["agent"] == name], np.float64) for name in names}
    unit = kl["mlp"].mean((0, 1, 2))
    summary, settings = [], []
    for name in names:
        per_seed = kl[name].mean((0, 1)) / unit
        summary.append(
            {
                "agent": name,
                **{f"tau {tau}": [float(x) for x in mean_interval(per_seed[:, i])] for i, tau in enumerate(taus)},
                "infinite": int(sum(np.sum(row["infinite"]) for row in rows if row["agent"] == name)),
                "seconds": round(sum(row["seconds"] for row in rows if row["agent"] == name), 1),
            }
        )
        each = kl[name].mean(2) / kl["mlp"].mean(2)
        described = [(row["inputs"], row["ratio"]) for row in rows if row["agent"] == name]
        settings += [
            {"agent": name, "inputs": d, "ratio": r, "temperature": t, "relative": each[i, j].tolist()}
            for i, (d, r) in enumerate(described)
            for j, t in enumerate(temperatures)
        ]
    claims = judge({row["agent"]: row for row in summary}, taus)
    wrong = [c["claim"] for c in claims if c["state"] == "fails"]
    unclear = [c["claim"] for c in claims if c["state"] == "open"]
    verdict = "not reproduced" if wrong else "open" if unclear or not claims else "reproduced"
    return {
        "summary": summary,
        "mlp": unit.tolist(),
        "by_setting": settings,
        "claims": claims,
        "verdict": verdict,
        "words": "; ".join(wrong or unclear),
    }


def judge(summary: Mapping[str, Mapping[str, Any]], taus: Sequence[int]) -> list[dict[str, Any]]:
    """The claims of the rule at the head of this module."""
    claims = []
    for name in CLAIMED:
        if name not in summary:
            continue
        if 10 in taus and name != "ensemble":
            mean, low, _ = summary[name]["tau 10"]
            state = "holds" if mean <= 0.6 else "fails" if low > 0.6 else "open"
            claims.append({"claim": f"tau = 10: {name} at most .6", "value": summary[name]["tau 10"], "state": state})
        if 1 in taus:
            mean, low, high = summary[name]["tau 1"]
            state = "holds" if 0.75 <= mean <= 1.25 else "fails" if low > 1.25 or high < 0.75 else "open"
            claims.append(
                {"claim": f"tau = 1: {name} from .75 to 1.25", "value": summary[name]["tau 1"], "state": state}
            )
    return claims


def format_result(result: Mapping[str, Any]) -> str:
    """The table, the claims and the verdict."""
    rows = result["summary"]
    columns = {
        f"tau = {tau}": [format_estimate(row[f"tau {tau}"], ".2f") for row in rows]
        for tau in result["settings"]["taus"]
    }
    columns["infinite"] = [str(row["infinite"]) for row in rows]
    columns["seconds"] = [f"{row['seconds']:.0f}" for row in rows]
    unit = ", ".join(
        f"{kl:.3f} at tau = {tau}" for kl, tau in zip(result["mlp"], result["settings"]["taus"], strict=True)
    )
    claims = [f"{c['claim']}: {c['state']}, {format_estimate(c['value'], '.2f')}" for c in result["claims"]]
    return "\n".join(
        [
            format_columns([row["agent"] for row in rows], columns, "KL, mlp = 1"),
            f"KL of mlp in nats: {unit}",
            "",
            *claims,
            f"verdict: {result['verdict']}" + (f": {result['words']}" if result["words"] else ""),
            f"picture: {result['picture']} ({result['cell_seconds']:.0f} s)",
        ]
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the divergence of every agent over that of the single network, one axes per tau."""
    taus = result["settings"]["taus"]
    figure, axes = new_figure(columns=len(taus), width=4.0, height=3.2)
    names = [row["agent"] for row in result["summary"]]
    for ax, tau in zip(axes, taus, strict=True):
        values = np.array([row[f"tau {tau}"] for row in result["summary"]], np.float64)
        reach = np.abs(values[:, 1:] - values[:, :1])
        ax.barh(names, values[:, 0], xerr=np.where(np.isfinite(reach), reach, 0).T, color="#56B4E9", capsize=2)
        ax.axvline(1.0, color="0.4", linewidth=0.8)
        ax.invert_yaxis()
        ax.set_xlabel("KL from the teacher, mlp = 1")
        ax.set_title(f"{tau} label{'s' if tau > 1 else ''} together", fontsize=9)
    save(figure, path)
