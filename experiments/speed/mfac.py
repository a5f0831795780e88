"""A step of M-FAC against the time that reading its window twice takes.

M-FAC (arXiv 2107.03356) has to read its window of m gradients of d parameters twice per step: once for the inner
products with the newest gradient, once for the update. What else it does, a factorisation of an m x m matrix above all,
should cost less than that. The time of a read is that of the fastest of three passes over the same array, a sum, a
maximum and a product with a vector, which also gives the bandwidth of the memory. All are timed in turns in one
process; the median of each counts. The factorisation is one of LAPACK, whose threads wait for each other where other
jobs run; a single one does not.

    OPENBLAS_NUM_THREADS=1 python -m experiments mfac_speed
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.suite.results import write_result
from experiments.suite.tables import format_columns
from metalearn.runs.progress import Progress
from metalearn_models.optimizers.curvature import scale_by_mfac

__all__ = ["PRESETS", "MfacSpeedConfig", "format_result", "run"]


@dataclass(frozen=True)
class MfacSpeedConfig:
    """Time a step of M-FAC beside passes over its window."""

    parameters: int = 100_000
    """Number d of parameters, in one tensor."""
    windows: tuple[int, ...] = (64, 256, 512)
    """Numbers m of gradients."""
    turns: int = 30
    """Timings of each function, in turns."""
    out: Path = Path("runs/mfac_speed")
    """Folder of the result."""


PRESETS = {"standard": MfacSpeedConfig()}


def run(config: MfacSpeedConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Time all windows; returns what result.json holds."""
    rows = []
    for window in config.windows:
        rows.append(time_window(config.parameters, window, config.turns))
        if progress is not None:
            progress.note(f"window {window}: a step takes {rows[-1]['ratio']:.2f} times two reads")
    return write_result(config.out, {"parameters": config.parameters, "rows": rows, "device": str(jax.devices()[0])})


def time_window(parameters: int, window: int, turns: int) -> dict[str, float]:
    """Milliseconds of a step and of a read, their ratio, and the bandwidth in GB/s."""
    gradients = jax.random.normal(jax.random.key(0), (window, parameters))
    vector = jax.random.normal(jax.random.key(1), (parameters,))
    tx: Any = scale_by_mfac(window, 1e-3)
    state = tx.init(vector)._replace(window=jnp.array(gradients), gram=gradients @ gradients.T)
    step = jax.jit(lambda g, state: tx.update(g, state), donate_argnums=1)
    passes = [jax.jit(f) for f in (jnp.sum, jnp.max, lambda w: w @ vector)]
    times: dict[Any, list[float]] = {f: [] for f in (step, *passes)}
    for turn in range(turns + 2):  # the first two compile and warm up
        seconds, (_, state) = _time(step, vector, state)
        measured = {step: seconds, **{f: _time(f, gradients)[0] for f in passes}}
        for f, value in measured.items():
            times[f] += [value] if turn > 1 else []
    own, read = statistics.median(times[step]), min(statistics.median(times[f]) for f in passes)
    return {
        "window": window,
        "step_ms": 1e3 * own,
        "read_ms": 1e3 * read,
        "ratio": own / (2 * read),
        "bandwidth": gradients.nbytes / read / 1e9,
    }


def _time(function: Callable[..., Any], *args: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - start, result


def format_result(result: Mapping[str, Any]) -> str:
    """One row per window."""
    rows = result["rows"]
    columns = {
        "step, ms": [f"{row['step_ms']:.2f}" for row in rows],
        "one read, ms": [f"{row['read_ms']:.2f}" for row in rows],
        "step / two reads": [f"{row['ratio']:.2f}" for row in rows],
        "GB/s": [f"{row['bandwidth']:.1f}" for row in rows],
    }
    title = f"window, {result['parameters']} parameters"
    return format_columns([str(row["window"]) for row in rows], columns, title)
