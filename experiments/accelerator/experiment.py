"""Test every part on an accelerator and time it, in one command.

Four parts, one after another. `smoke`: one small step of each learner, estimator, optimizer and loss. `throughput`: the
in-context training step at widths 128 to 1,024 in float32 and bfloat16, as a share of the device's own matrix product,
beside PyTorch where it is installed. `updates`: an update of small-fc and STAR over `optax.adam`'s, and inner steps per
second of PES. `learning`: the paper's MNIST setting for the minutes that are left, accuracy against time.

    python -m experiments accelerator --minutes 25
    python -m experiments accelerator --dry-run          # a minute on a CPU: every part at toy size

A part that has ended is kept in the folder; the same command goes on with the next one. A part that fails says so, and
the others run. The command needs jax, flax, optax, einops, numpy, scikit-learn, safetensors and matplotlib, nothing
else. Where tensorflow-datasets is missing, MNIST comes from a file with X and y, `--data FILE.npz`, or else the bundled
digits take its place.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from experiments.accelerator import _learning, _smoke, _throughput, _updates
from experiments.accelerator._report import draw, format_markdown
from metalearn.runs.environment import environment
from metalearn.runs.json_values import as_json, finite_or_null
from metalearn.runs.progress import Progress

__all__ = ["PRESETS", "AcceleratorConfig", "format_result", "prepare_process", "run"]


@dataclass(frozen=True)
class AcceleratorConfig:
    """How long to measure, and where the results go."""

    minutes: float = 25.0
    """Minutes for everything; the last part, meta-training, gets what the others leave, at least one. Its
    evaluations come on top."""
    dry_run: bool = False
    """Every part at toy size, to see that the command works; on any machine."""
    data: str = "mnist"
    """Images of the last part: a tensorflow-datasets name, or FILE.npz with X of [rows, 28, 28] and y."""
    data_dir: str | None = None
    """Where tensorflow-datasets keeps its prepared sets; None: its own default."""
    out: Path = Path("runs/accelerator")
    """Folder of the results; parts that are in it are not measured again."""


PRESETS = {"standard": AcceleratorConfig()}
WIDTHS = (128, 256, 512, 1024)


def prepare_process() -> None:
    """Let JAX take memory as it needs it, so that PyTorch's process finds some. Must run before JAX starts."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def run(config: AcceleratorConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure every part that the folder does not have yet.

    Args:
        config: what to measure.
        progress: gets a note per finding.

    Returns:
        `parts` by name, each with its findings or with `error`; `environment`; `picture` and `report`, paths.

    Raises:
        ValueError: `minutes` is not positive; or a part in the folder was measured with other options or elsewhere.
    """
    if not config.minutes > 0:
        raise ValueError(f"--minutes must be positive, got {config.minutes}")
    note = progress.note if progress is not None else lambda text: None
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    if jax.default_backend() == "cpu" and not config.dry_run:
        note("no accelerator is visible to JAX: this measures the CPU, and takes longer")
    began, parts = time.perf_counter(), {}
    for name, measure in _parts(config, began, note).items():
        parts[name] = _remember(config, name, device, measure, note)
    result = finite_or_null(as_json({"environment": environment(), "dry_run": config.dry_run, "parts": parts}))
    picture, report = config.out / "accelerator.png", config.out / "accelerator.md"
    draw(parts, picture)
    report.write_text(format_markdown(result))
    result |= {"picture": str(picture), "report": str(report)}
    (config.out / "result.json").write_text(json.dumps(result, indent=2, allow_nan=False))
    return result


def _parts(config: AcceleratorConfig, began: float, note: Callable[[str], None]) -> dict[str, Callable[[], Any]]:
    """What each part measures, in their order."""
    dry, on_cpu = config.dry_run, jax.default_backend() == "cpu"

    def smoke() -> Any:
        found = _smoke.smoke_test(1 if dry else None)
        bad = {name: row["error"] for name, row in found.items() if row["error"]}
        note(f"smoke test: {len(found) - len(bad)} of {len(found)} cases run and are finite")
        for name, error in bad.items():
            note(f"{name}: {error}")
        return found

    def throughput() -> Any:
        if dry:
            steps = [_throughput.Step(64, p, 2, calls=1, steps=1) for p in ("float32", "bfloat16")]
            return {"rows": _throughput.time_steps(steps, note, peak_size=256)}
        batch = 8 if on_cpu else 512
        steps = [_throughput.Step(w, p, batch) for w in WIDTHS for p in ("float32", "bfloat16")]
        return {"rows": _throughput.time_steps(steps, note)}

    def updates() -> Any:
        if dry:
            return {"updates": _updates.time_updates((8,), 1), "pes": _updates.time_pes((2,), 2, 1)}
        pairs = (16,) if on_cpu else (16, 128, 1024)
        return {"updates": _updates.time_updates((128, 512, 2048), 10), "pes": _updates.time_pes(pairs, 50, 5)}

    def learning() -> Any:
        if dry:
            return {"data": "digits", **_learning.learn(_learning.toy_config(), 60.0, note)}
        train, data = _learning.paper_config(config.data, config.data_dir)
        note(f"learning from {data}")
        return {
            "data": data,
            **_learning.learn(train, max(60.0, 60 * config.minutes - time.perf_counter() + began), note),
        }

    return {"smoke": smoke, "throughput": throughput, "updates": updates, "learning": learning}


def _remember(
    config: AcceleratorConfig, name: str, device: str, measure: Callable[[], Any], note: Callable[[str], None]
) -> dict[str, Any]:
    """A part from the folder, or measured now and kept there; the next command measures a part that failed again."""
    path = config.out / f"{name}.json"
    measured_with: dict[str, Any] = {"device": device, "dry_run": config.dry_run}
    if name == "learning":
        measured_with |= {"data": config.data, "data_dir": config.data_dir, "minutes": config.minutes}
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["measured_with"] != measured_with:
            was = kept["measured_with"]
            raise ValueError(f"{path} was measured with {was}, now it is {measured_with}: choose another --out")
        note(f"{name}: measured before")
        return kept["found"]
    try:
        found = finite_or_null(as_json(measure()))
    except Exception as problem:  # a device may fail in its own ways; the parts after this one still run
        error = f"{type(problem).__name__}: {problem}".splitlines()[0]
        note(f"{name} failed: {error}")
        return {"error": error}
    config.out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"measured_with": measured_with, "found": found}, indent=2, allow_nan=False))
    return found


def format_result(result: dict[str, Any]) -> str:
    """The report, and where it and its picture are."""
    return f"{format_markdown(result)}\nreport:  {result['report']}\npicture: {result['picture']}"
