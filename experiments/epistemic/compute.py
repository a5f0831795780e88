"""What a joint prediction costs: an epinet against ensembles of 1 to 100 networks.

Osband et al. 2021 (arXiv 2107.08924) find that an epinet beats ensembles of hundreds of members at a small share of
their compute. Here, on tasks of the neural testbed with 2 inputs: the KL divergence of 10 labels together, against the
operations of training (matrix products, counted from the program), and the time of those that are compared, in one
run. Both plain ensembles and ensembles with prior functions are compared; their members are trained once.

The rule, written before the first run, for each kind of ensemble: the epinet is at least 10 times cheaper if the
smallest ensemble whose mean KL is at most the epinet's costs at least 10 times its operations. If no ensemble reaches
it, the largest must cost at least 10 times as much. "reproduced": for the plain ensembles, those of the claim.
"not reproduced": otherwise. For the ensembles with prior functions the ratio is reported beside it.

    python -m experiments epinet_compute            # 20 examples, 5 seeds
    python -m experiments epinet_compute standard   # 2, 20 and 200 examples, 10 seeds
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.epistemic._problems import Problem, joint_each
from experiments.epistemic.testbed import TestbedExperimentConfig, problems
from experiments.suite.cells import remember, settings_of
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.costs.flops import step_flops
from metalearn.learner import Signature
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.epistemic import Agent, make_agent, train

SCORE = "KL"
TIMES = 3
"""Repetitions of each timing; the fastest counts."""


@dataclass(frozen=True)
class ComputeConfig:
    """Compare an epinet with ensembles of several sizes."""

    sizes: tuple[int, ...] = (1, 3, 10, 30, 100)
    """Members of the ensembles."""
    ratios: tuple[int, ...] = (10,)
    """Examples per input, of which there are 2."""
    temperatures: tuple[float, ...] = (0.01, 0.1)
    """Temperatures of the teachers."""
    tau: int = 10
    """Labels that are predicted together."""
    seeds: int = 5
    """Teachers per setting."""
    polyads: int = 200
    """Pairs of places per teacher."""
    indices: int = 1000
    """Indices of the epinet."""
    steps: int = 1000
    """Training steps of all agents."""
    out: Path = Path("runs/epinet_compute")
    """Folder of the table and the picture."""


PRESETS = {"quick": ComputeConfig(), "standard": ComputeConfig(ratios=(1, 10, 100), seeds=10)}


def run(config: ComputeConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train, score, count and time; returns what result.json holds.

    Raises:
        ValueError: a number is out of its range.
    """
    if min(config.seeds, config.polyads, config.steps, config.tau, *config.sizes, *config.ratios) < 1:
        raise ValueError(
            "--seeds, --polyads, --steps, --tau, --sizes and --ratios must be at least 1; got "
            f"{config.seeds}, {config.polyads}, {config.steps}, {config.tau}, {config.sizes} and {config.ratios}"
        )
    if config.indices < 2:
        raise ValueError(f"--indices must be at least 2, got {config.indices}")
    if min(config.temperatures) <= 0:
        raise ValueError(f"--temperatures must be positive, got {config.temperatures}")
    start, most = time.monotonic(), max(2, *config.sizes)
    shapes = Signature(2, 2, 1)
    kinds = {
        "ensemble": make_agent("ensemble", shapes, members=most, steps=config.steps),
        "prior-ensemble": make_agent("prior-ensemble", shapes, members=most, steps=config.steps),
        "epinet": make_agent("epinet", shapes, steps=config.steps),
    }
    source = TestbedExperimentConfig(
        temperatures=config.temperatures, taus=(config.tau,), seeds=config.seeds, polyads=config.polyads
    )
    found: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    for ratio in config.ratios:
        for name, agent in kinds.items():
            sizes = (config.indices,) if name == "epinet" else config.sizes

            def compute(agent: Agent = agent, sizes: tuple[int, ...] = sizes, ratio: int = ratio) -> Any:
                return np.asarray(kl_of_prefixes(agent, problems(source, 2, ratio), sizes, config.indices)).tolist()

            kl = remember(config.out, f"{name}-{ratio}", settings_of(config, ("ratios",)), compute)
            found[name].append(np.array(kl, np.float64))
            if progress is not None:
                means = ", ".join(f"{x:.3f}" for x in found[name][-1].mean((0, 1)))
                progress.note(f"{name}, n = {2 * ratio}: KL {means}")
    one = jax.tree.map(lambda leaf: leaf[0, 0], problems(source, 2, max(config.ratios)))
    rows = []
    for name in kinds:
        per_seed = np.stack(found[name]).mean((0, 1))  # [seeds, sizes]
        for i, size in enumerate((0,) if name == "epinet" else config.sizes):
            values = {"members": max(2, size)} if size else {}
            agent = make_agent(name, shapes, steps=config.steps, **values)
            share = size / max(2, size) if size else 1.0  # an ensemble has at least two members
            kl = list_interval(per_seed[:, i])
            flops = share * step_flops(training(agent), one)
            rows.append({"agent": name, "size": size, "kl": kl, "flops": flops})
    judged = judge(rows)
    unit = seconds(kinds["epinet"], one)
    for kind, ratio in judged["ratios"].items():
        compared = make_agent(kind, shapes, steps=config.steps, members=max(2, ratio["size"]))
        ratio["time"] = seconds(compared, one) / unit
    result = {
        "rows": rows,
        **judged,
        "settings": {"tau": config.tau, "seeds": config.seeds, "timed examples": 2 * max(config.ratios)},
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "epinet_compute.png"),
    }
    draw(result, config.out / "epinet_compute.png")
    return write_result(config.out, result)


def kl_of_prefixes(agent: Agent, made: Problem, sizes: tuple[int, ...], indices: int) -> jax.Array:
    """Train on every problem, and score the means over the first indices.

    Args:
        agent: any agent.
        made: problems with two leading axes and one tau.
        sizes: how many indices a mean is over, for each score.
        indices: indices drawn, where there are infinitely many.

    Returns:
        KL divergences `[temperatures, seeds, sizes]`.
    """

    def scored(given: tuple[Problem, Any]) -> jax.Array:
        problem, params = given
        (polyads,) = problem.polyads
        each = joint_each(lambda xs, z: agent.apply(params, xs, z), agent.draw(jax.random.key(2), indices), polyads)
        means = [jax.scipy.special.logsumexp(each[:size], 0) - jnp.log(size) for size in sizes]
        return jnp.stack([(polyads.truth - mean).mean() for mean in means])

    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), made)
    params = jax.jit(jax.vmap(training(agent)))(flat)
    kl = jax.jit(lambda flat, params: jax.lax.map(scored, (flat, params)))(flat, params)
    return kl.reshape(*made.knowledge.examples.shape, -1)


def training(agent: Agent) -> Callable[[Problem], Any]:
    """The training of an agent on one problem."""
    return lambda problem: train(agent, problem.xs, problem.ys, problem.knowledge, jax.random.key(1))


def seconds(agent: Agent, problem: Problem) -> float:
    """How long the compiled training of one problem takes: the fastest of a few."""
    compiled = jax.jit(training(agent))
    jax.block_until_ready(compiled(problem))
    found = []
    for _ in range(TIMES):
        began = time.monotonic()
        jax.block_until_ready(compiled(problem))
        found.append(time.monotonic() - began)
    return min(found)


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rule at the head of this module."""
    epinet = next(row for row in rows if row["agent"] == "epinet")
    ratios = {}
    for kind in ("ensemble", "prior-ensemble"):
        sizes = [row for row in rows if row["agent"] == kind]
        equal = [row for row in sizes if row["kl"][0] <= epinet["kl"][0]]
        row = min(equal, key=lambda r: r["size"]) if equal else max(sizes, key=lambda r: r["size"])
        ratios[kind] = {
            "size": row["size"],
            "reached": bool(equal),
            "operations": row["flops"] / epinet["flops"],
        }
    return {"ratios": ratios, "verdict": "reproduced" if ratios["ensemble"]["operations"] >= 10 else "not reproduced"}


def format_result(result: Mapping[str, Any]) -> str:
    """The table, the ratios and the verdict."""
    rows = result["rows"]
    columns = {
        "KL": [format_estimate(row["kl"], ".3f") for row in rows],
        "operations": [f"{row['flops']:.2g}" for row in rows],
    }
    lines = [format_columns([f"{row['agent']} {row['size'] or ''}" for row in rows], columns)]
    for kind, ratio in result["ratios"].items():
        what = "is the smallest that equals the epinet" if ratio["reached"] else "is the largest, and none equals it"
        lines.append(
            f"{kind}: {ratio['size']} members, which {what}: {ratio['operations']:.1f} times the operations of the "
            f"epinet, {ratio['time']:.1f} times its time"
        )
    return "\n".join([*lines, f"verdict: {result['verdict']}", f"picture: {result['picture']}"])


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the divergence against the operations of training."""
    figure, (ax,) = new_figure(width=5.0, height=3.4)
    for name, style in (("ensemble", "o-"), ("prior-ensemble", "s-"), ("epinet", "*")):
        rows = [row for row in result["rows"] if row["agent"] == name]
        kl = np.array([row["kl"] for row in rows], np.float64)
        reach = np.abs(kl[:, 1:] - kl[:, :1])
        ax.errorbar(
            [row["flops"] for row in rows],
            kl[:, 0],
            np.where(np.isfinite(reach), reach, 0.0).T,
            fmt=style,
            markersize=12 if name == "epinet" else 4,
            capsize=2,
            label=name,
        )
    ax.set_xscale("log")
    ax.set_xlabel("operations of training")
    ax.set_ylabel(f"KL of {result['settings']['tau']} labels, nats")
    ax.legend()
    save(figure, path)
