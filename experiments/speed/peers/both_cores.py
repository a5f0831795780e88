"""What the second core gives to evolution strategies: PES on one core, on all with one device, and with one per core.

A step of PES with two learned optimizers on a small network on digits, beside that of google/learned_optimization
where it can be imported (`experiments/speed/peers/against_learned_optimization.py` says what it needs). Each
arrangement is a process of its own; they are started in turn, several times, and the fastest step counts.

- one core: the process is bound to one core, XLA has no pool of threads.
- all cores: nothing is set, which is one device. XLA hands its products to a pool of threads.
- one device per core: what `metalearn.use_all_cores` makes. The trajectories are split over the devices. The peer stays
  on the first device, and has the pool of threads.

    python -m experiments both_cores           # three minutes on two idle cores
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metalearn.runs.progress import Progress

__all__ = ["ARRANGEMENTS", "PRESETS", "BothCoresConfig", "format_result", "run"]

ROOT = Path(__file__).parents[3]
ARRANGEMENTS = ("one core", "all cores", "one device per core")


@dataclass(frozen=True)
class BothCoresConfig:
    """What to time, and how often."""

    optimizers: tuple[Literal["MLP", "small_fc"], ...] = ("MLP", "small_fc")
    """Learned optimizers to meta-train."""
    turns: int = 9
    """Steps that are timed in each process."""
    starts: int = 2
    """Processes per arrangement; the fastest step of all of them counts."""
    peer: bool = True
    """Time google/learned_optimization too, where it can be imported."""


PRESETS = {"standard": BothCoresConfig()}


def run(config: BothCoresConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Seconds per outer step, by optimizer, system and arrangement; and the number of cores.

    Raises:
        ValueError: there are no turns or starts.
        OSError: a process failed, with the end of its stderr.
    """
    for name in ("turns", "starts"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    for start in range(config.starts):
        for arrangement in ARRANGEMENTS:
            for optimizer, systems in _in_process(config, arrangement).items():
                for system, found in systems.items():
                    known = seconds.setdefault(optimizer, {}).setdefault(system, {})
                    known[arrangement] = min(found, known.get(arrangement, found))
            if progress is not None:
                progress.note(f"done: {arrangement}, start {start + 1} of {config.starts}")
    return {"seconds": seconds, "cores": os.cpu_count()}


def _in_process(config: BothCoresConfig, arrangement: str) -> dict[str, dict[str, float]]:
    words = [arrangement, str(config.turns), str(int(config.peer)), *config.optimizers]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])  # the packages are found as they were found here
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    for name in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES"):  # each arrangement has its own
        environment.pop(name, None)
    command = [sys.executable, "-m", "experiments.speed.peers._both_cores_worker", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise OSError(f"the process for {arrangement} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def format_result(result: dict[str, Any]) -> str:
    """A text table: seconds per step, and what they are of those on one core and of the peer's."""
    lines = [
        f"{'ms per outer step, ' + str(result['cores']) + ' cores':<38}" + "".join(f"{a:>21}" for a in ARRANGEMENTS)
    ]
    for optimizer, systems in result["seconds"].items():
        for system, row in systems.items():
            label = f"PES, {optimizer}, {system}"
            lines.append(f"{label:<38}" + "".join(f"{1e3 * row[a]:>21.1f}" for a in ARRANGEMENTS))
            if system == "metalearn":
                ratios = "".join(f"{row[ARRANGEMENTS[0]] / row[a]:>20.2f}x" for a in ARRANGEMENTS)
                lines.append(f"{'    one core over it':<38}{ratios}")
            else:
                ratios = "".join(f"{row[a] / systems['metalearn'][a]:>20.2f}x" for a in ARRANGEMENTS)
                lines.append(f"{'    over ours':<38}{ratios}")
    if not any(len(systems) > 1 for systems in result["seconds"].values()):
        lines.append("google/learned_optimization was not timed")
    return "\n".join(lines)
