"""How fast is a training step: metalearn's Transformer against plain JAX and plain PyTorch, in one run.

The same step everywhere: a causal pre-LayerNorm Transformer (width 128, 4 layers, 4 heads, MLP 512, learned positions),
32 sequences of 100 tokens (64 inputs and the previous label of 10 classes), loss at every position, Adam, float32.
metalearn runs what meta-training runs: an estimator and the outer loop, several steps in one dispatch. Plain JAX is
flax.linen and optax as a tutorial writes them. PyTorch is hand-written with its fused attention and fused Adam.

Each pair of system and number of threads has a process of its own, held to that many cores. The processes take turns of
a few steps, so that a busy minute of the machine meets all of them alike. Every turn also measures the system's own
matrix product (2048 x 2048, float32); "own peak" is the share of its rate. With more than one thread, compare on an
idle machine only: PyTorch's threads wait for each other by spinning, and any other job slows them far more than ours.

    python -m experiments throughput                                     # some four minutes, most of them compiling
    python -m experiments throughput --torch-python other/bin/python     # PyTorch is in another environment
    python -m experiments throughput --huge-pages --json

`pip install "metalearn[bench]"` brings PyTorch; without it the other systems are timed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.speed._training_step_systems import BATCH, CLASSES, INPUTS, LAYERS, LENGTH, TOKENS, WIDTH
from metalearn.runs.progress import Progress

__all__ = ["PRESETS", "SYSTEMS", "ThroughputConfig", "flops_per_step", "format_result", "run"]

ROOT = Path(__file__).parents[2]
System = Literal["metalearn", "jax", "torch", "torch-compiled"]
SYSTEMS: dict[System, str] = {
    "metalearn": "metalearn",
    "jax": "plain JAX (linen)",
    "torch": "PyTorch, eager",
    "torch-compiled": "PyTorch, compiled",
}


@dataclass(frozen=True)
class ThroughputConfig:
    """What to time, and how often."""

    systems: tuple[System, ...] = tuple(SYSTEMS)
    """Systems to time; the others are compared with metalearn if it is one of them."""
    threads: tuple[int, ...] = (1, 2)
    """Numbers of cores that a process is held to."""
    rounds: int = 5
    """Turns of each process."""
    steps: int = 5
    """Training steps per turn; for metalearn these are one dispatch."""
    torch_python: str = sys.executable
    """The Python that has torch."""
    huge_pages: bool = False
    """Let glibc back large arrays by huge pages (GLIBC_TUNABLES), for every system. New memory costs less then."""


PRESETS = {"standard": ThroughputConfig()}


def flops_per_step() -> float:
    """Floating-point operations of one step: the products of the forward pass, attention unmasked, times three."""
    dense = (INPUTS + CLASSES) * WIDTH + LAYERS * 12 * WIDTH**2 + WIDTH * CLASSES
    return 3.0 * (2 * TOKENS * dense + 4 * LAYERS * BATCH * LENGTH**2 * WIDTH)


Pair = tuple[System, int]
"""A system and its number of threads."""


def run(config: ThroughputConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Time every system on every number of threads.

    Args:
        config: what to time.
        progress: gets a note whenever a process is ready or its system is missing.

    Returns:
        `rows`, one dict per system and number of threads; `flops`, operations per step; `huge_pages` and `steps`.

    Raises:
        ValueError: nothing can be timed as asked.
        OSError: a process cannot be started, or ended on its own.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(config.rounds, config.steps, *config.threads) < 1 or max(config.threads) > cores:
        raise ValueError(
            f"rounds, steps and threads must be at least 1 and threads at most the {cores} cores there are, "
            f"got {config.rounds}, {config.steps} and {config.threads}"
        )
    running: dict[Pair, subprocess.Popen[str]] = {}
    ready: dict[Pair, dict[str, Any]] = {}
    try:
        for threads in config.threads:
            for system in config.systems:
                process = running[system, threads] = _start(config, system, threads)
                answer = _read_answer(process, f"{system} on {threads}")
                if "missing" in answer:
                    del running[system, threads]
                    process.communicate()
                    note = f"no {answer['missing']} here: pip install 'metalearn[bench]'"
                else:
                    ready[system, threads] = answer
                    note = f"ready on {threads} threads after {answer['first']:.1f} s"
                if progress is not None:
                    progress.note(f"{SYSTEMS[system]}: {note}")
        turns: dict[Pair, list[dict[str, Any]]] = {pair: [] for pair in running}
        for _ in range(config.rounds):
            for pair, process in running.items():
                assert process.stdin is not None
                process.stdin.write("turn\n")
                process.stdin.flush()
                turns[pair].append(_read_answer(process, f"{pair[0]} on {pair[1]}"))
    finally:
        for process in running.values():
            process.communicate()
    rows = [{**_make_row(pair, turns), **ready[pair]} for pair in turns]
    return {"rows": rows, "flops": flops_per_step(), "huge_pages": config.huge_pages, "steps": config.steps}


def _start(config: ThroughputConfig, system: System, threads: int) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    if config.huge_pages:
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    python = config.torch_python if system.startswith("torch") else sys.executable
    command = [python, "-m", "experiments.speed._training_step_systems", system, str(threads), str(config.steps)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _read_answer(process: subprocess.Popen[str], who: str) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise OSError(f"the process of {who} ended with status {process.wait()}: its own message is above")
    return json.loads(line)


def _make_row(pair: Pair, turns: dict[Pair, list[dict[str, Any]]]) -> dict[str, Any]:
    (system, threads), measured, flops = pair, turns[pair], flops_per_step()
    walls, cpus = [t["wall"] for t in measured], [t["cpu"] for t in measured]
    own, seconds = max(t["peak"] for t in measured), min(walls)
    best = max(t["peak"] for other in turns for t in turns[other] if other[1] == threads)
    row = {
        "system": system,
        "threads": threads,
        "median": statistics.median(walls),
        "min": seconds,
        "cpu_median": statistics.median(cpus),
        "cpu_min": min(cpus),
        "tokens_per_s": TOKENS / seconds,
        "flops_per_s": flops / seconds,
        "peak": own,
        "of_own_peak": flops / seconds / own,
        "of_best_peak": flops / seconds / best,
        "loss": measured[-1]["loss"],
    }
    if ("metalearn", threads) in turns:
        ours = turns["metalearn", threads]
        # Turn by turn, so that a busy minute of the machine counts for both sides of the ratio.
        row["ratio_median"] = statistics.median(t["wall"] / o["wall"] for t, o in zip(measured, ours, strict=True))
        row["ratio_min"] = seconds / min(o["wall"] for o in ours)
        row["ratio_cpu_min"] = min(cpus) / min(o["cpu"] for o in ours)
    return row


def format_result(result: dict[str, Any]) -> str:
    """The rows as a text table: shares and rates are those of the fastest turn, `x` is time over metalearn's."""
    lines = [
        f"{'':18} {'threads':>7} {'s/step':>8} {'fastest':>8} {'cpu s':>8} {'tokens/s':>9} {'GFLOP/s':>8}"
        f" {'own peak':>9} {'best peak':>9} {'x median':>9} {'x fastest':>9} {'x cpu':>6}"
    ]
    for row in result["rows"]:
        ratios = [row.get(name, float("nan")) for name in ("ratio_median", "ratio_min", "ratio_cpu_min")]
        lines.append(
            f"{SYSTEMS[row['system']]:18} {row['threads']:>7} {row['median']:>8.3f} {row['min']:>8.3f}"
            f" {row['cpu_min']:>8.3f} {row['tokens_per_s']:>9,.0f} {row['flops_per_s'] / 1e9:>8.1f}"
            f" {row['of_own_peak']:>9.0%} {row['of_best_peak']:>9.0%}"
            f" {ratios[0]:>9.2f} {ratios[1]:>9.2f} {ratios[2]:>6.2f}"
        )
    return "\n".join(lines)
