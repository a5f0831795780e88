"""Meta-train the weights that `InContextClassifier` ships with, score them, and write them into the package.

A run is a folder that survives a kill:

    python -m experiments shipped train --run runs/shipped             # meta-train
    python -m experiments shipped train --run runs/shipped --resume    # continue after a kill
    python -m experiments shipped export --run runs/shipped            # score, and write the weights and their JSON

A run may start from the weights of another (`--start RUN`), as a second phase on another mixture.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

import metalearn_models
from experiments.tabular.shipped.config import ShippedConfig
from experiments.tabular.shipped.export import export
from experiments.tabular.shipped.training import train
from metalearn.runs.progress import Progress
from metalearn.runs.weights import theta_sha256

__all__ = ["Options", "format_result", "run"]

WEIGHTS = Path(metalearn_models.__file__).parent / "learners" / "weights"
NAME = "digits-synthetic-16x10"


@dataclass(frozen=True)
class Options:
    """Meta-train the shipped weights, or write those of a run into the package."""

    action: tyro.conf.Positional[Literal["train", "export"]]
    """What to do."""
    run: Path
    """Folder of the run."""
    resume: bool = False
    """train: continue from the newest checkpoint."""
    start: Path | None = None
    """train: take the first weights from this run."""
    target: Path = WEIGHTS / f"{NAME}.safetensors"
    """export: the file to write."""
    config: ShippedConfig = field(default_factory=ShippedConfig)
    """train: what to do."""


def run(options: Options, progress: Progress | None = None) -> dict[str, Any]:
    """Train or export; returns what is known of the run then."""
    began = time.monotonic()
    result: dict[str, Any] = {"run": str(options.run)}
    if options.action == "train":
        state = train(options.config, options.run, options.resume, options.start, progress)
        result |= {"steps": int(state.step), "theta_sha256": theta_sha256(state.theta)}
    else:
        card = export(options.run, options.target)
        result |= {"target": str(options.target)}
        result |= {name: card[name] for name in ("steps", "theta_sha256", "figures", "tabular")}
    return {**result, "seconds": round(time.monotonic() - began, 1)}


def format_result(result: dict[str, Any]) -> str:
    """What the command prints at the end."""
    figures = [json.dumps(result["figures"], indent=2)] if "figures" in result else []
    return "\n".join([*figures, f"{result['run']}: {result['steps']} outer steps, {result['seconds']:.0f} s"])
