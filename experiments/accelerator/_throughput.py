"""How fast the in-context training step is, by width and precision, as a share of the device's own matrix product."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn.costs.flops import peak_flops, step_flops
from metalearn.gradients import backprop
from metalearn.learner import Family, Signature, inner_loop
from metalearn.outer import outer_loop
from metalearn_models.learners import TransformerConfig, transformer

__all__ = ["Step", "time_steps"]

SIGNATURE = Signature(64, 10, 100)
LAYERS, KEY = 4, 64
"""Layers, and the width of a head. Both are ours, as is the length of 100 tokens."""


@dataclass(frozen=True)
class Step:
    """A training step to time.

    Attributes:
        width: of the Transformer; a multiple of 64.
        precision: of the matrix products.
        batch: sequences of 100 tokens.
        calls: calls that are timed, of `steps` steps each; the fastest counts.
        steps: steps per call.
    """

    width: int
    precision: Literal["float32", "bfloat16"]
    batch: int
    calls: int = 5
    steps: int = 10


def time_steps(cases: list[Step], note: Callable[[str], None], peak_size: int | None = None) -> list[dict[str, Any]]:
    """Time each case, and PyTorch's step of the same sizes where PyTorch sees an accelerator.

    Args:
        cases: what to time.
        note: is told every case.
        peak_size: rows and columns of the product that measures the peak; None: as `peak_flops` chooses.

    Returns:
        A row per case: `width`, `precision`, `batch`; `seconds` per step; `sequences` per second; `tflops` that were
        reached; `share` of the rate of a large product in the same precision; `first`, seconds to the first result;
        `torch`, PyTorch's seconds per step, or None.
    """
    peaks = {p: peak_flops(jnp.dtype(p), size=peak_size) for p in dict.fromkeys(case.precision for case in cases)}
    rows = []
    for case in cases:
        first, seconds, flops = _time(case)
        torch, problem = _time_torch(case)
        if problem:
            note(f"PyTorch at width {case.width}, {case.precision}: {problem}")
        row = {
            "width": case.width,
            "precision": case.precision,
            "batch": case.batch,
            "seconds": seconds,
            "sequences": case.batch / seconds,
            "tflops": flops / seconds / 1e12,
            "share": flops / seconds / peaks[case.precision],
            "first": first,
            "torch": torch,
        }
        rows.append(row)
        note(f"width {case.width}, {case.precision}: {1e3 * seconds:.1f} ms per step, {row['share']:.0%} of the peak")
    return rows


def _time(case: Step) -> tuple[float, float, float]:
    """Seconds to the first result, seconds per step, and operations per step."""
    heads = max(1, case.width // KEY)
    fused: Any = "written" if jax.default_backend() == "cpu" else "fused"
    config = TransformerConfig(case.width, LAYERS, heads, KEY, compute=case.precision, attention=fused)
    learner = transformer(SIGNATURE, config)
    # Task i is row i of a batch in memory: sampling costs next to nothing.
    family = Family(
        SIGNATURE,
        lambda data, key: jax.random.randint(key, (), 0, case.batch),
        None,
        lambda data, index: index,
        lambda data, task, key: (data[0][task], data[1][task]),
    )
    key_xs, key_ys = jax.random.split(jax.random.key(0))
    xs = jax.random.normal(key_xs, (case.batch, SIGNATURE.length, SIGNATURE.inputs))
    data = xs, jax.random.randint(key_ys, xs.shape[:2], 0, SIGNATURE.outputs)
    init, step = outer_loop(backprop(inner_loop(learner, family), case.batch), optax.adam(1e-3), case.steps)
    state = init(jax.jit(learner.init)(jax.random.key(1)), data, jax.random.key(2))
    flops = step_flops(step, state, data) / case.steps
    began = time.perf_counter()
    state, metrics = step(state, data)
    loss = np.asarray(metrics["loss"])
    first, best = time.perf_counter() - began, float("inf")
    if not np.isfinite(loss).all():
        raise FloatingPointError(f"the loss of width {case.width} in {case.precision} is not finite")
    for _ in range(case.calls):
        began = time.perf_counter()
        state, metrics = step(state, data)
        jax.block_until_ready(metrics)
        best = min(best, time.perf_counter() - began)
    return first, best / case.steps, flops


def _time_torch(case: Step) -> tuple[float | None, str]:
    """Seconds per step of PyTorch, in a process of its own, and what went wrong.

    None and "" where PyTorch is not installed or sees no accelerator.
    """
    words = [str(case.width), case.precision, str(case.batch), str(case.calls), str(case.steps)]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "experiments.accelerator._torch_step", *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}, check=False)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]
    return json.loads(done.stdout.splitlines()[-1]), ""
