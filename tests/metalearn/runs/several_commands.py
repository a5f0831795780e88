"""The same command in several processes of one machine, as on several hosts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]

SHORT = (
    *("--steps-per-call", "10", "--evaluate-every", "0", "--checkpoint-every", "20", "--quiet"),
    *("--outer-optimizer.warmup", "10", "--outer-optimizer.schedule", "constant", "--outer-optimizer.eps-root", "1e-8"),
)
COMMANDS = {
    "backprop": (
        *("train", "digits", "--learner.width", "16", "--learner.layers", "2", "--learner.heads", "2"),
        *("--learner.key-size", "8", "--family.length", "10", "--batch", "8", "--eval-tasks", "4", "--references"),
        # Muon makes the smallest directions of a gradient as large as all others, and with them its rounding errors.
        *("--outer-optimizer.matrices", "adam", "--learner.initial", "paper"),
        *SHORT,
    ),
    "nres": (
        *("train-optimizer", "mlp", "--objective", "mlp-wine", "--length", "20", "--batch", "8", "--baselines"),
        *("--gradient.method", "nres", "--gradient.window", "5", "--gradient.sigma", "0.1", "--eval-runs", "2"),
        *SHORT,
    ),
}
"""Small commands: backpropagation through a Transformer, and noise-reusing evolution strategies."""

OTHER_COMMANDS = {
    "tables": (
        *("train", "tables", "--learner.width", "8", "--learner.layers", "1", "--learner.cell-layers", "1"),
        *("--learner.key-size", "4", "--learner.hidden", "8", "--size", "14", "--optimizer.warmup", "2"),
        *("--evaluate-every", "0", "--quiet", "--steps", "14"),
    ),
    "gpt": (
        *(
            "train-gpt",
            "mlp",
            "--data",
            "iris",
            "--hidden",
            "3",
            "--checkpoints.runs",
            "20",
            "--checkpoints.shard",
            "5",
        ),
        *("--checkpoints.unseen", "4", "--checkpoints.steps", "20", "--checkpoints.snapshots", "4", "--examples", "8"),
        *("--generator.network.width", "8", "--generator.network.layers", "1", "--generator.network.heads", "2"),
        *(
            "--steps",
            "40",
            "--steps-per-call",
            "10",
            "--outer-optimizer.warmup",
            "5",
            "--batch",
            "8",
            "--eval-runs",
            "2",
        ),
        *("--outer-optimizer.eps-root", "1e-8", "--prompts", "3", "--evaluate-every", "0", "--quiet"),
    ),
}
"""Small commands that are driven in their own way: a Transformer for tables, and a generator of parameters."""


def start(words: Sequence[str], count: int, logs: Path) -> list[subprocess.Popen[bytes]]:
    """Begin a command in several processes of one device each.

    Args:
        words: of the command.
        count: processes; one is started without any option of several.
        logs: an existing folder; the output of process i goes to `i.log`.
    """
    port = free_port()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONUNBUFFERED": "1"}
    running = []
    for i in range(count):
        where = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count), "--process-id", str(i))
        command = [sys.executable, "-m", "metalearn.cli.main", *words, *(where if count > 1 else ())]
        with (logs / f"{i}.log").open("wb") as log:
            running.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment))
    return running


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def codes(running: Sequence[subprocess.Popen[bytes]], seconds: float) -> list[int | None]:
    """Wait for all, at most so many seconds; None stands for one that was still running, and was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(one.poll() is None for one in running):
        time.sleep(0.05)
    found = [one.poll() for one in running]
    for one in running:
        one.kill()
        one.wait()
    return found
