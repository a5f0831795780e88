"""What a generator of parameters gains from more runs and from more weights, and what it makes of impossible wishes.

Peebles et al. 2022 (arXiv 2209.12892) report that their generators become better with more checkpoints and with more
weights, of which they had 2 to 858 millions. Here rectified flow learns from 64, 256 and 1,024 training runs of
64-16-10 on digits, by networks of two sizes, each for the same number of operations: a step of the larger network costs
more, so it makes fewer. All are judged on the same unseen initialisations, with prompts from the median final loss to
.9 of the present one. Then the generators of all runs are asked for losses below the least that was seen.

The rule, written before the first run. With R^2 per unseen network and 95% intervals of paired differences over them:
"more runs" is reproduced if, at both sizes, R^2 with the most runs is above that with the fewest, the interval being
above zero; not reproduced if at one of them the interval is below zero; else open. "more weights" is the same
comparison of the two sizes with the most runs. "beyond the best" is reproduced if the mean loss that is achieved for
half the least loss seen lies below the least loss seen, and not reproduced otherwise; copying the best stored
checkpoint has that least loss.

    python -m experiments gpt_scaling             # minutes on two cores

What has ended is kept in `out/cells`; the same command continues.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.gpt._arms import train_arm
from experiments.gpt._problem import Checkpoints, make_checkpoints
from experiments.gpt._rows import make_judge
from experiments.gpt._training import Fitting, operations_per_step
from experiments.suite.cells import remember, settings_of
from experiments.suite.results import write_result
from metalearn.intervals import mean_interval
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn.zoo import ZooConfig
from metalearn_models.optimizers import gpt

__all__ = ["PRESETS", "ScalingConfig", "format_result", "judge_claims", "run"]


@dataclass(frozen=True)
class ScalingConfig:
    """Vary the training runs and the size of a generator at equal operations, and ask for the impossible."""

    hidden: int = 16
    """Width of the hidden layer of the networks on digits."""
    runs: tuple[int, ...] = (64, 256, 1024)
    """Training runs that the generators learn from, rising."""
    sizes: tuple[tuple[int, int], ...] = ((48, 2), (96, 3))
    """Width and blocks of the generators, rising."""
    operations: float = 4e12
    """Of each generator's training."""
    batch: int = 128
    """Pairs of checkpoints per step."""
    train_steps: int = 1500
    """Steps per training run."""
    sampler: int = 12
    """Steps of Heun's method."""
    judged: int = 48
    """Unseen initialisations that are judged."""
    prompts: int = 20
    """Wished losses per initialisation."""
    beyond: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5, 0.25, 0.1)
    """Wishes in multiples of the least loss seen."""
    out: Path = Path("runs/gpt_scaling")
    """Folder of the checkpoints, the cells, the table and the picture."""


PRESETS = {"quick": ScalingConfig()}
SCORE = "loss"


def run(config: ScalingConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Record, train and judge what is missing, summarise and draw.

    Raises:
        ValueError: a number is out of its range.
    """
    most = max(config.runs, default=0)
    if min(config.runs, default=0) < 2 or not config.sizes or min(config.operations, config.judged, config.batch) < 1:
        raise ValueError(
            "--runs must be at least 2 each, --sizes not empty, and --operations, --judged and --batch at least 1; got "
            f"{config.runs}, {config.sizes}, {config.operations}, {config.judged} and {config.batch}"
        )
    began = time.monotonic()
    zoo = ZooConfig(most + max(config.judged, most // 8), max(config.judged, most // 8), config.train_steps, 16, 128)
    folder = config.out / f"zoo-{config.hidden}-{zoo.runs}"
    made = make_checkpoints(folder, (config.hidden,), zoo, 0.1, config.judged, progress)
    settings = settings_of(config, ("runs", "sizes"))
    rows = [
        remember(
            config.out, f"{width}x{layers}-{runs}", settings, lambda a=(width, layers, runs): cell(config, made, *a)
        )
        for width, layers in config.sizes
        for runs in config.runs
    ]
    best = float(made.losses.min())
    result = {
        "rows": rows,
        "claims": judge_claims(rows, list(config.beyond), best),
        "beyond": list(config.beyond),
        "least": best,
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "gpt_scaling.png"),
    }
    draw(result, Path(result["picture"]))
    return write_result(config.out, result)


def cell(config: ScalingConfig, made: Checkpoints, width: int, layers: int, runs: int) -> dict[str, Any]:
    """Train one generator on the first runs, and judge it."""
    judge = make_judge(made, config.prompts, 2)
    fewer = made._replace(params=made.params[:runs], losses=made.losses[:runs])
    network = gpt.TransformerConfig(width, layers)
    probe = gpt.make_generator(
        gpt.GeneratorConfig("flow", network, config.sampler),
        made.tokeniser,
        gpt.fit_generator_scales(made.tokeniser, fewer.params, fewer.losses),
    )
    steps = max(20, round(config.operations / operations_per_step(probe, config.batch) / 20) * 20)
    trained = train_arm("flow", fewer, network, config.sampler, Fitting(steps, config.batch, initial_share=0.9), 0)
    achieved = judge.losses(trained.propose(made.starts, made.start_losses, judge.wished))
    count = min(len(made.starts), runs)
    seen = judge.losses(trained.propose(made.params[:count, 0], made.losses[:count, 0], judge.wished[:count]))
    wishes = np.array(config.beyond) * made.losses.min()
    beyond = judge.losses(
        trained.propose(made.starts, made.start_losses, np.broadcast_to(wishes, (len(made.starts), len(wishes))))
    )
    return {
        "width": width,
        "layers": layers,
        "runs": runs,
        "weights": trained.fitted.weights,
        "steps": steps,
        "seconds": round(trained.fitted.seconds, 1),
        "r2": gpt.alignment(judge.wished, achieved).tolist(),
        "r2_seen": float(gpt.alignment(judge.wished[:count], seen).mean()),
        "loss": float(achieved[:, 0].mean()),
        "beyond": beyond.mean(0).tolist(),
    }


def judge_claims(rows: list[dict[str, Any]], beyond: list[float], least: float) -> dict[str, Any]:
    """The three verdicts by the rule at the head of this module."""
    by_size: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        by_size.setdefault(row["weights"], []).append(row)
    of_runs = [_difference(max(r, key=_runs), min(r, key=_runs)) for r in by_size.values()]
    small, large = (max(by_size[size], key=_runs) for size in (min(by_size), max(by_size)))
    best = max((small, large), key=lambda row: float(np.mean(row["r2"])))
    half = beyond.index(0.5) if 0.5 in beyond else int(np.argmin(np.abs(np.array(beyond) - 0.5)))
    reached = best["beyond"][half]
    return {
        "more runs": {"verdict": _verdict(of_runs), "differences": of_runs},
        "more weights": {
            "verdict": _verdict([_difference(large, small)]),
            "differences": [_difference(large, small)],
        },
        "beyond the best": {
            "verdict": "reproduced" if reached < least else "not reproduced",
            "achieved": reached,
            "wished": beyond[half] * least,
        },
    }


def _runs(row: Mapping[str, Any]) -> int:
    return row["runs"]


def _difference(more: Mapping[str, Any], less: Mapping[str, Any]) -> list[float]:
    """Mean and interval of the difference of R^2 over networks."""
    found = mean_interval(np.array(more["r2"]) - np.array(less["r2"]))
    return [float(found.mean), float(found.low), float(found.high)]


def _verdict(differences: list[list[float]]) -> str:
    if all(low > 0 for _, low, _ in differences):
        return "reproduced"
    return "not reproduced" if any(high < 0 for *_, high in differences) else "open"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw alignment against runs, and achieved against impossible losses."""
    figure, (left, right) = new_figure(columns=2)
    rows = result["rows"]
    wishes = np.array(result["beyond"]) * result["least"]
    for number, weights in enumerate(dict.fromkeys(row["weights"] for row in rows)):
        own = [row for row in rows if row["weights"] == weights]
        label, color = f"{weights / 1000:.0f} thousand weights", f"C{number}"
        means = [mean_interval(np.array(row["r2"])) for row in own]
        sides = np.abs([[m.mean - m.low, m.high - m.mean] for m in means]).T
        left.errorbar(
            [row["runs"] for row in own], [m.mean for m in means], sides, fmt="o-", markersize=3, capsize=2,
            color=color, label=f"{label}, unseen",
        )  # fmt: skip
        left.plot([row["runs"] for row in own], [row["r2_seen"] for row in own], "--", color=color, label="seen")
        right.plot(wishes, max(own, key=_runs)["beyond"], "o-", markersize=3, color=color, label=label)
    left.set_xscale("log")
    left.set_xlabel("training runs")
    left.set_ylabel("alignment $R^2$ at equal operations")
    left.legend(fontsize=7, frameon=False)
    right.plot(wishes, wishes, ":", color="0.3", linewidth=1, label="as wished")
    right.axvline(result["least"], color="0.6", linewidth=1, label="least loss seen")
    right.set_xscale("log")
    right.set_yscale("log")
    right.tick_params(axis="x", which="minor", labelbottom=False)  # they would overlap
    right.set_xlabel("wished training loss")
    right.set_ylabel("achieved in one jump, unseen")
    right.legend(fontsize=7, frameon=False)
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """The table and the verdicts."""
    lines = [f"{'weights':>9} {'runs':>6} {'steps':>6} {'seconds':>8} {'R2 unseen':>10} {'seen':>7} {'one-step':>9}"]
    lines += [
        f"{row['weights']:>9} {row['runs']:>6} {row['steps']:>6} {row['seconds']:>8.1f} {np.mean(row['r2']):>10.3f} "
        f"{row['r2_seen']:>7.3f} {row['loss']:>9.3f}"
        for row in result["rows"]
    ]
    for name in ("more runs", "more weights"):
        claim = result["claims"][name]
        found = ", ".join(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in claim["differences"])
        lines.append(f"{name}: {claim['verdict']}: R2 {found}")
    claim = result["claims"]["beyond the best"]
    lines.append(
        f"beyond the best: {claim['verdict']}: {claim['achieved']:.4f} for {claim['wished']:.4f}; the least loss seen "
        f"is {result['least']:.4f}"
    )
    lines.append(f"picture: {result['picture']} ({result['seconds']} s)")
    return "\n".join(lines)
