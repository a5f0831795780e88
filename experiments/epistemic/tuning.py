"""Tune every agent of the neural testbed with the same effort, on teachers that the testbed's table does not use.

The constants of the agents are those of the released testbed, which its authors chose with 100 members, 500,000 steps
of SGMCMC, and up to 1,000 examples per dimension. Ours are fewer. So each agent gets five settings: the released one,
and two of its constants a third as large and three times as large, one at a time. Which two they are is in `TRIED`.

The rule, written before the first run: the setting with the least KL of ten labels together is chosen, as the mean over
all teachers, temperatures and ratios; a setting with an infinite divergence is not. Of equal ones the released one is
taken. Only tasks with 2 and 20 examples are used: there the KL is largest, and they cost least. The chosen constants
stand in `experiments/epistemic/_agents.py`, and `python -m experiments testbed` shows them as agents with the ending
"-tuned", beside the released ones. There is no claim, so the verdict only names the agents that tuning changes.

    python -m experiments testbed_tuning
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.epistemic._agents import make_agent
from experiments.epistemic.testbed import TestbedExperimentConfig, divergences, problems
from experiments.suite.cells import remember, settings_of
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns
from metalearn.errors import unknown_name
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.epistemic import AGENTS as ENTRIES

SCORE = "KL"
FACTOR = 3.0
FIRST_SEED = 1000
"""Number of the first teacher; the table's begin with 0."""
TRIED: dict[str, tuple[str, str]] = {
    "mlp": ("decay", "learning_rate"),
    "ensemble": ("decay", "learning_rate"),
    "prior-ensemble": ("prior_scale", "decay"),
    "dropout": ("rate", "decay"),
    "bbb": ("prior_deviation", "learning_rate"),
    "hypermodel": ("prior_scale", "decay"),
    "sgmcmc": ("prior_variance", "learning_rate"),
    "epinet": ("prior_scale", "decay"),
}
"""The two constants of each agent that are tried."""


@dataclass(frozen=True)
class TuningConfig:
    """Try five settings of every agent on few tasks of the testbed."""

    agents: tuple[str, ...] = tuple(TRIED)
    """Agents by name."""
    inputs: int = 2
    """Dimensions of the inputs."""
    ratios: tuple[int, ...] = (1, 10)
    """Examples per dimension."""
    temperatures: tuple[float, ...] = (0.01, 0.1, 0.5)
    """Temperatures of the teachers."""
    tau: int = 10
    """Labels that are predicted together."""
    seeds: int = 4
    """Teachers per setting, none of which is in the table."""
    members: int = 10
    """Members of the ensembles."""
    polyads: int = 100
    """Pairs of places per teacher."""
    indices: int = 200
    """Indices that the mean is over, where there are infinitely many."""
    shorter: int = 1
    """Divides the training steps, for a try."""
    out: Path = Path("runs/testbed_tuning")
    """Folder of the cells, the table and the picture."""


PRESETS = {"standard": TuningConfig()}


def settings(name: str) -> list[dict[str, float]]:
    """The settings of an agent that are tried, as fields that differ from the released ones; the first has none."""
    released = ENTRIES[name].config()
    changed = [{field: getattr(released, field) * by} for field in TRIED[name] for by in (1 / FACTOR, FACTOR)]
    return [{}, *changed]


def run(config: TuningConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train and score every setting, and choose.

    Raises:
        UnknownNameError: an agent has no such name.
        ValueError: a number is out of its range.
    """
    for name in config.agents:
        if name not in TRIED:
            raise unknown_name("agent", name, TRIED)
    sizes = (config.seeds, config.polyads, config.inputs, config.tau, config.shorter, *config.ratios)
    if min(sizes) < 1 or config.indices < 2 or config.members < 2:
        raise ValueError(
            "--seeds, --polyads, --inputs, --tau, --shorter and --ratios must be at least 1, and --indices and "
            f"--members at least 2; got {config.seeds}, {config.polyads}, {config.inputs}, {config.tau}, "
            f"{config.shorter}, {config.ratios}, {config.indices} and {config.members}"
        )
    start, rows = time.monotonic(), []
    source = TestbedExperimentConfig(
        temperatures=config.temperatures, taus=(config.tau,), seeds=config.seeds, polyads=config.polyads, draws=2
    )
    for name in config.agents:
        for i, values in enumerate(settings(name)):
            found = []
            for ratio in config.ratios:

                def compute(name: str = name, values: dict[str, float] = values, ratio: int = ratio) -> Any:
                    made = problems(source, config.inputs, ratio, FIRST_SEED)
                    agent = make_agent(name, config.inputs, config.members, config.shorter, **values)
                    kl, infinite = divergences(agent, made, config.indices)
                    return {"kl": float(kl.mean()), "infinite": int(infinite.sum())}

                decides = settings_of(config, ("agents", "ratios")) | {"values": values}
                found.append(remember(config.out, f"{name}-{i}-{ratio}", decides, compute))
            kl, infinite = float(np.mean([f["kl"] for f in found])), sum(f["infinite"] for f in found)
            rows.append({"agent": name, "values": values, "kl": kl, "infinite": infinite})
            if progress is not None:
                progress.note(f"{name} {_words(values)}: KL {kl:.3f}")
    chosen = {name: choose([row for row in rows if row["agent"] == name]) for name in config.agents}
    changed = [name for name, values in chosen.items() if values]
    result = {
        "rows": rows,
        "chosen": chosen,
        "verdict": f"tuning changes {', '.join(changed)}" if changed else "tuning changes nothing",
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(config.out / "testbed_tuning.png"),
    }
    draw(result, config.out / "testbed_tuning.png")
    return write_result(config.out, result)


def choose(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The setting that the rule at the head of this module takes; the released one if none can be taken."""
    possible = [row for row in rows if not row["infinite"] and np.isfinite(row["kl"])]
    return min(possible, key=lambda row: row["kl"])["values"] if possible else {}


def format_result(result: Mapping[str, Any]) -> str:
    """The table and the choice."""
    rows = result["rows"]
    best = [row["values"] == result["chosen"][row["agent"]] for row in rows]
    columns = {
        "KL": [f"{row['kl']:.3f}" for row in rows],
        "infinite": [str(row["infinite"]) for row in rows],
        "": ["chosen" if b else "" for b in best],
    }
    table = format_columns([f"{row['agent']} {_words(row['values'])}" for row in rows], columns)
    return f"{table}\nverdict: {result['verdict']}\npicture: {result['picture']} ({result['seconds']:.0f} s)"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the divergence of every setting; a full dot is the released one."""
    figure, (ax,) = new_figure(width=5.0, height=3.4)
    for place, name in enumerate(result["chosen"]):
        for row in (row for row in result["rows"] if row["agent"] == name):
            ax.plot(row["kl"], place, "o", color="#0072B2", mfc="none" if row["values"] else None)
    ax.set_yticks(range(len(result["chosen"])), list(result["chosen"]))
    ax.invert_yaxis()
    ax.set_xlabel("KL of ten labels together, nats")
    save(figure, path)


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in values.items()) or "as released"
