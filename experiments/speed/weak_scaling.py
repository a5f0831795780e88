"""Weak scaling of evolution strategies: the same pairs on each device, on 1, 2, 4 and 8 of them.

An LSTM that learns linear functions in context is meta-trained by NRES with dense and with rank-1 noise. Every number
of devices is a process of its own with that many virtual CPU devices. Of each step it measures the seconds, the CPU
seconds of all threads, both also of the step's all-reduce alone; it reads from the compiled program which collectives
there are, how many bytes they reduce, and what memory a device needs.

Virtual devices share the cores of one machine. So seconds a step grow with the number of devices as soon as there are
more devices than free cores, and say nothing about scaling; what can be concluded is whether a device's own work,
memory and message stay the same, which is what weak scaling needs. The second table says what follows for many
accelerators from numbers that are assumed: see docs/scaling.md.

    python -m experiments weak_scaling            # two tables and a picture, under two minutes on two cores
    python -m experiments weak_scaling --help
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.sharding import PartitionSpec

from metalearn.gradients import dense, low_rank, nres
from metalearn.inner import InnerLoop
from metalearn.learner import inner_loop
from metalearn.outer import AXIS, global_mesh, outer_loop
from metalearn.pictures import new_figure, save
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_tasks.families.regression import RegressionConfig, regression

ROOT = Path(__file__).parents[2]
NOISES = {"dense": dense, "rank-1": low_rank(1)}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
SIZES = (10**4, 10**6, 10**8)


@dataclass(frozen=True)
class Accelerators:
    """Assumptions, not measurements, about the devices of the second table."""

    devices: int = 1000
    """D."""
    bandwidth: float = 100e9
    """B, bytes a second that a device can send."""
    latency: float = 10e-6
    """Seconds from one device to another, for a message of no length."""
    rate: float = 100e12
    """R, floating-point operations a second in matrix products."""
    pairs: int = 64
    """Antithetic pairs on each device."""
    steps: int = 1600
    """K W: inner steps of a particle in an outer step, over all its tasks."""


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
    """Inner steps an outer step."""
    hidden: int = 64
    """Units of the LSTM."""
    steps: int = 20
    """Outer steps in one dispatch."""
    rounds: int = 5
    """Timed dispatches; the table has their medians."""
    timeout: int = 300
    """Seconds after which a process is given up."""
    accelerators: Accelerators = Accelerators()
    """What the second table assumes."""
    out: Path = Path("runs/weak_scaling")
    """Folder of the picture and the tables."""
    json: bool = False
    """Print one JSON object as the last line."""


def collectives(program: str) -> dict[str, list[int]]:
    """The collectives in a compiled program (HLO text): the bytes of each result, by kind."""
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
    found: dict[str, list[int]] = {}
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line)
        if match:
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            size = sum(BYTES[d] * math.prod(int(n) for n in axes.split(",") if n) for d, axes in shapes)
            found.setdefault(match[2], []).append(size)
    return found


def all_reduce_seconds(parameters: float, devices: int, bandwidth: float, latency: float) -> float:
    """Seconds to add up P float32 numbers over D devices.

    Each device sends and receives 2 (D - 1) / D times the array, as in a reduce-scatter and an all-gather; the
    messages go up and down a tree.
    """
    return 8 * parameters * (devices - 1) / devices / bandwidth + 2 * math.ceil(math.log2(devices)) * latency


def rebuild_seconds(parameters: float, pairs: int, devices: int, rate: float, latency: float, rank: int = 1) -> float:
    """Seconds to gather one number a pair instead, and contract all pairs' rank-r noise on every device."""
    return 2 * rank * parameters * pairs / rate + math.ceil(math.log2(devices)) * latency


def compute_seconds(parameters: float, pairs: int, steps: int, rate: float) -> float:
    """Seconds of the forward passes of a device: two particles a pair, 2 P operations a step."""
    return 4 * parameters * pairs * steps / rate


def cosine(parameters: float, pairs: int) -> float:
    """Expected cosine of an estimate from n pairs with the gradient, for dense noise and a linear loss."""
    return 1 / math.sqrt(1 + (parameters + 1) / pairs)


def predict(config: Accelerators) -> list[dict[str, float]]:
    """The second table: one row a size of theta."""
    c, rows = config, []
    for size in SIZES:
        compute = compute_seconds(size, c.pairs, c.steps, c.rate)
        reduce = all_reduce_seconds(size, c.devices, c.bandwidth, c.latency)
        rebuild = rebuild_seconds(size, c.pairs * c.devices, c.devices, c.rate, c.latency)
        share, angle = reduce / (reduce + compute), cosine(size, c.pairs * c.devices)
        row = {"parameters": size, "compute": compute, "all_reduce": reduce, "share": share, "rebuild": rebuild}
        rows.append({**row, "cosine": angle})
    return rows


def measure(config: WeakScalingConfig, noise: str) -> dict[str, Any]:
    """The numbers of one kind of noise on all devices of this process."""
    devices = jax.device_count()
    family = regression(RegressionConfig(length=4 * config.window))
    learner = lstm(family.signature, LSTMConfig(config.hidden))
    loop = _without_aux(inner_loop(learner, family))
    estimator = nres(loop, 0.05, config.pairs * devices, config.window, noise=NOISES[noise], tasks=config.tasks)
    init, step = outer_loop(estimator, optax.adam(1e-3), config.steps, global_mesh(estimator.batch))
    theta = learner.init(jax.random.key(0))
    state = init(theta, (), jax.random.key(1))
    compiled = cast(Any, step).lower(state, ()).compile()
    memory = compiled.memory_analysis()

    def advance() -> Any:
        nonlocal state
        state, metrics = compiled(state, ())
        return metrics

    seconds, cpu = _timed(advance, config)
    found = {
        "devices": devices,
        "parameters": sum(x.size for x in jax.tree.leaves(theta)),
        "metrics": len(jax.eval_shape(estimator.grad, *_arguments(theta, state))[2]),
        "collectives": collectives(compiled.as_text()),
        "state_bytes": memory.argument_size_in_bytes,
        "scratch_bytes": memory.temp_size_in_bytes,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "reduce_seconds": 0.0,
        "reduce_cpu_seconds": 0.0,
    }
    if devices > 1:
        found["reduce_seconds"], found["reduce_cpu_seconds"] = _timed(_all_reduce(theta, config.steps), config)
    return found


def _without_aux(loop: InnerLoop) -> InnerLoop:
    """In regression the score is the loss; XLA would reduce the two as one number, and the bytes would not add up."""

    def step(*args: Any) -> Any:
        state, loss, _ = loop.step(*args)
        return state, loss, {}

    return loop._replace(step=step, run=None)


def _arguments(theta: Any, state: Any) -> tuple[Any, ...]:
    return theta, state.estimator, (), jax.random.key(0), jnp.int32(0)


def _all_reduce(theta: Any, steps: int) -> Callable[[], Any]:
    """The all-reduce of a step and nothing else, `steps` times."""
    mesh = global_mesh(jax.device_count())
    assert mesh is not None, "one device has nothing to reduce"

    def local(tree: Any) -> Any:
        def body(tree: Any, _: None) -> tuple[Any, None]:
            return jax.lax.pcast(jax.lax.pmean(tree, AXIS), AXIS, to="varying"), None

        return jax.lax.scan(body, tree, length=steps)[0]

    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS)))
    tree = jax.tree.map(lambda a: jnp.stack([a] * jax.device_count()), theta)
    return lambda: run(tree)


def _timed(call: Callable[[], Any], config: WeakScalingConfig) -> tuple[float, float]:
    """Medians of the seconds and of the CPU seconds of a step; the first two dispatches do not count."""
    seconds, cpu = [], []
    for number in range(config.rounds + 2):
        began, cpu_began = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        if number >= 2:
            seconds.append((time.perf_counter() - began) / config.steps)
            cpu.append((time.process_time() - cpu_began) / config.steps)
    return statistics.median(seconds), statistics.median(cpu)


def worker() -> None:
    """What a process with its own number of devices runs: numbers from stdin, findings as the last line."""
    config = WeakScalingConfig(**json.loads(sys.stdin.read()))
    print(json.dumps({noise: measure(config, noise) for noise in NOISES}))


def _in_process(config: WeakScalingConfig, devices: int) -> dict[str, Any]:
    numbers = {name: getattr(config, name) for name in ("pairs", "tasks", "window", "hidden", "steps", "rounds")}
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    # The packages are found as they were found here, installed or not.
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", "from experiments.speed.weak_scaling import worker; worker()"],
        input=json.dumps(numbers),
        capture_output=True,
        text=True,
        timeout=config.timeout,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
    )
    if done.returncode:
        raise RuntimeError(f"the process with {devices} devices failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(config: WeakScalingConfig) -> dict[str, Any]:
    """Measure every number of devices, predict, draw; returns both tables."""
    began = time.monotonic()
    by_devices = [_in_process(config, devices) for devices in config.devices]
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
    for ax, title in ((left, "CPU ms of a device in a step"), (right, "MB of a device")):
        ax.set_xscale("log", base=2)
        ax.set_xticks([r["devices"] for r in measured["dense"]])
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
        ax.set_xlabel("virtual devices, the same pairs on each")
        ax.set_ylabel(title)
        ax.legend(loc="upper left", ncols=2, fontsize=7)
    save(figure, path)


def print_tables(result: dict[str, Any]) -> None:
    """Both tables, for people."""
    print(f"{'':8} {'devices':>7} {'ms a':>8} {'CPU ms a':>11} {'all-reduce':>11} {'collectives':>14} "
          f"{'bytes':>9} {'state':>8} {'scratch':>9}")  # fmt: skip
    print(f"{'noise':8} {'':7} {'step':>8} {'device-step':>11} {'of CPU':>11} {'in the step':>14} "
          f"{'reduced':>9} {'MB/dev.':>8} {'MB/dev.':>9}")  # fmt: skip
    for noise, rows in result["measured"].items():
        for r in rows:
            kinds = ", ".join(f"{len(sizes)} {kind}" for kind, sizes in r["collectives"].items()) or "none"
            reduced = sum(map(sum, r["collectives"].values()))
            print(
                f"{noise:8} {r['devices']:7} {1e3 * r['seconds']:8.1f} {1e3 * r['cpu_seconds'] / r['devices']:11.1f} "
                f"{r['reduce_cpu_seconds'] / r['cpu_seconds']:11.1%} {kinds:>14} {reduced:9,} "
                f"{r['state_bytes'] / 1e6:8.2f} {r['scratch_bytes'] / 1e6:9.2f}"
            )
    first, a = result["measured"]["dense"][0], result["assumed"]
    print(f"P = {first['parameters']:,} parameters, {first['metrics']} metrics; {result['cores']} cores")
    print(
        f"\nassumed: {a['devices']:,} devices, {a['bandwidth'] / 1e9:g} GB/s, {1e6 * a['latency']:g} us, "
        f"{a['rate'] / 1e12:g} Tflop/s; {a['pairs']} pairs a device, {a['steps']:,} inner steps a particle"
    )
    print(f"{'P':>13} {'compute ms':>11} {'all-reduce ms':>14} {'share':>7} {'gather, rebuild ms':>19} {'cosine':>7}")
    for r in result["predicted"]:
        print(
            f"{r['parameters']:13,} {1e3 * r['compute']:11.3f} {1e3 * r['all_reduce']:14.3f} {r['share']:7.1%} "
            f"{1e3 * r['rebuild']:19.3f} {r['cosine']:7.3f}"
        )


if __name__ == "__main__":
    command = tyro.cli(WeakScalingConfig, description=__doc__)
    found = main(command)
    print_tables(found)
    print(f"\npicture: {found['picture']} ({found['seconds']} s)")
    if command.json:
        print(json.dumps(found))
