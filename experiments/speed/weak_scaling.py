"""Weak scaling of evolution strategies: the same pairs on each device, on 1, 2, 4 and 8 of them.

An LSTM that learns linear functions in context is meta-trained by NRES with dense and with rank-1 noise. Every number
of devices is a process of its own with that many virtual CPU devices. Measured are the seconds per step and the CPU
seconds of all threads, of the whole step and of its all-reduce alone. Read from the compiled program are its
collectives, how many bytes they reduce, and the memory per device.

Virtual devices share the cores of one machine. As soon as there are more devices than free cores, the seconds per step
grow with the number of devices and say nothing about scaling. What the table can show is whether a device's own work,
memory and message stay the same, which is what weak scaling needs. The second table predicts the cost on many
accelerators from assumed numbers: see docs/scaling.md.

    python -m experiments weak_scaling            # two tables and a picture, under two minutes on two cores
    python -m experiments weak_scaling --help
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.speed._message_costs import Accelerators, predict
from experiments.speed._weak_scaling_worker import NOISES, Measurement
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress

__all__ = ["PRESETS", "WeakScalingConfig", "format_result", "run"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class WeakScalingConfig:
    """Measure weak scaling on virtual devices, and predict the cost of messages on real ones."""

    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Numbers of virtual devices."""
    pairs: int = 4
    """Antithetic pairs on each device."""
    tasks: int = 4
    """Tasks of each particle."""
    window: int = 16
    """Inner steps per outer step."""
    hidden: int = 64
    """Units of the LSTM."""
    steps: int = 20
    """Outer steps in one dispatch."""
    rounds: int = 5
    """Timed dispatches; the table shows their medians."""
    timeout: int = 300
    """Seconds after which a process is stopped as failed."""
    accelerators: Accelerators = field(default_factory=Accelerators)
    """The assumptions of the second table."""
    out: Path = Path("runs/weak_scaling")
    """Folder of the picture and of result.json."""


PRESETS = {"standard": WeakScalingConfig()}


def run(config: WeakScalingConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure every number of devices, predict, draw; returns both tables, also in result.json."""
    began, by_devices = time.monotonic(), []
    for devices in config.devices:
        by_devices.append(_measure_in_process(config, devices))
        if progress is not None:
            progress.note(f"{devices} devices measured")
    measured = {noise: [found[noise] for found in by_devices] for noise in NOISES}
    config.out.mkdir(parents=True, exist_ok=True)
    _draw(measured, config.out / "weak_scaling.png")
    result = {
        "measured": measured,
        "assumed": dataclasses.asdict(config.accelerators),
        "predicted": predict(config.accelerators),
        "cores": os.cpu_count(),
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "weak_scaling.png"),
    }
    (config.out / "result.json").write_text(json.dumps(result, indent=2))
    return result


def _measure_in_process(config: WeakScalingConfig, devices: int) -> dict[str, Any]:
    """What a process with so many virtual devices finds, by kind of noise.

    Raises:
        OSError: it failed, with the end of its stderr; or it took too long.
    """
    numbers = {field.name: getattr(config, field.name) for field in dataclasses.fields(Measurement)}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    # The packages are found as they were found here, installed or not.
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    try:
        done = subprocess.run(
            [sys.executable, "-m", "experiments.speed._weak_scaling_worker"],
            input=json.dumps(numbers),
            capture_output=True,
            text=True,
            timeout=config.timeout,
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(
            f"the process with {devices} devices took more than {config.timeout} s: raise --timeout"
        ) from error
    if done.returncode:
        raise OSError(f"the process with {devices} devices failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _draw(measured: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure, (left, right) = new_figure(columns=2, width=4.4)
    for number, (noise, rows) in enumerate(measured.items()):
        devices, color = [r["devices"] for r in rows], f"C{number}"
        work = [1e3 * r["cpu_seconds"] / r["devices"] for r in rows]
        message = [1e3 * r["reduce_cpu_seconds"] / r["devices"] for r in rows]
        left.plot(devices, work, "o-", color=color, label=f"{noise}, whole step")
        left.plot(devices, message, "x--", color=color, label=f"{noise}, its all-reduce alone")
        right.plot(devices, [r["scratch_bytes"] / 1e6 for r in rows], "o-", color=color, label=f"{noise}, scratch")
    state = [r["state_bytes"] / 1e6 for r in measured["dense"]]
    right.plot([r["devices"] for r in measured["dense"]], state, "x--", color="0.4", label="both, state")
    for ax, title in ((left, "CPU ms per device and step"), (right, "MB per device")):
        ax.set_xscale("log", base=2)
        ax.set_xticks([r["devices"] for r in measured["dense"]])
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
        ax.set_xlabel("virtual devices, the same pairs on each")
        ax.set_ylabel(title)
        ax.legend(loc="upper left", ncols=2, fontsize=7)
    save(figure, path)


def format_result(result: dict[str, Any]) -> str:
    """Both tables as text, and the path of the picture."""
    lines = [
        f"{'':8} {'devices':>7} {'ms per':>8} {'CPU ms per':>11} {'all-reduce':>11} {'collectives':>14} "
        f"{'bytes':>9} {'state':>8} {'scratch':>9}",
        f"{'noise':8} {'':7} {'step':>8} {'device-step':>11} {'of CPU':>11} {'in the step':>14} "
        f"{'reduced':>9} {'MB/dev.':>8} {'MB/dev.':>9}",
    ]
    for noise, rows in result["measured"].items():
        for r in rows:
            kinds = ", ".join(f"{len(sizes)} {kind}" for kind, sizes in r["collectives"].items()) or "none"
            reduced = sum(map(sum, r["collectives"].values()))
            lines.append(
                f"{noise:8} {r['devices']:7} {1e3 * r['seconds']:8.1f} {1e3 * r['cpu_seconds'] / r['devices']:11.1f} "
                f"{r['reduce_cpu_seconds'] / r['cpu_seconds']:11.1%} {kinds:>14} {reduced:9,} "
                f"{r['state_bytes'] / 1e6:8.2f} {r['scratch_bytes'] / 1e6:9.2f}"
            )
    first, a = result["measured"]["dense"][0], result["assumed"]
    lines.append(f"P = {first['parameters']:,} parameters, {first['metrics']} metrics; {result['cores']} cores")
    lines.append(
        f"\nassumed: {a['devices']:,} devices, {a['bandwidth'] / 1e9:g} GB/s, {1e6 * a['latency']:g} us, "
        f"{a['rate'] / 1e12:g} Tflop/s; {a['pairs']} pairs per device, {a['steps']:,} inner steps per particle"
    )
    lines.append(
        f"{'P':>13} {'compute ms':>11} {'all-reduce ms':>14} {'share':>7} {'gather, rebuild ms':>19} {'cosine':>7}"
    )
    for r in result["predicted"]:
        lines.append(
            f"{r['parameters']:13,} {1e3 * r['compute']:11.3f} {1e3 * r['all_reduce']:14.3f} {r['share']:7.1%} "
            f"{1e3 * r['rebuild']:19.3f} {r['cosine']:7.3f}"
        )
    lines.append(f"\npicture: {result['picture']} ({result['seconds']} s)")
    return "\n".join(lines)
