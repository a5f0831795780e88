"""What `experiments.speed.weak_scaling` measures in a process with its own number of virtual devices.

python -m experiments.speed._weak_scaling_worker    # a `Measurement` as JSON on stdin, findings as the last line
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from einops import repeat
from jax.sharding import PartitionSpec

from metalearn.gradients import dense, low_rank, nres
from metalearn.inner import InnerLoop
from metalearn.learner import inner_loop
from metalearn.outer import AXIS, global_mesh, outer_loop
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_tasks.families.regression import RegressionConfig, regression

__all__ = ["NOISES", "Measurement", "collectives", "measure"]

NOISES = {"dense": dense, "rank-1": low_rank(1)}
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


@dataclass(frozen=True)
class Measurement:
    """What a process measures; the fields are those of `WeakScalingConfig`."""

    pairs: int
    tasks: int
    window: int
    hidden: int
    steps: int
    rounds: int


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


def measure(config: Measurement, noise: str) -> dict[str, Any]:
    """Measure one kind of noise on all devices of this process; returns the numbers of a row of the table."""
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
    """The loop without its score, which is the loss in regression: XLA would reduce the two as one number."""

    def step(*args: Any) -> Any:
        state, loss, _ = loop.step(*args)
        return state, loss, {}

    return loop._replace(step=step, run=None)


def _arguments(theta: Any, state: Any) -> tuple[Any, ...]:
    return theta, state.estimator, (), jax.random.key(0), jnp.int32(0)


def _all_reduce(theta: Any, steps: int) -> Callable[[], Any]:
    """A function that does the all-reduce of a step and nothing else, `steps` times."""
    mesh = global_mesh(jax.device_count())
    assert mesh is not None, "one device has nothing to reduce"

    def local(tree: Any) -> Any:
        def body(tree: Any, _: None) -> tuple[Any, None]:
            return jax.lax.pcast(jax.lax.pmean(tree, AXIS), AXIS, to="varying"), None

        return jax.lax.scan(body, tree, length=steps)[0]

    run = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS)))
    tree = jax.tree.map(lambda a: repeat(a, "... -> d ...", d=jax.device_count()), theta)
    return lambda: run(tree)


def _timed(call: Callable[[], Any], config: Measurement) -> tuple[float, float]:
    """Median seconds and CPU seconds per step; the first two dispatches do not count."""
    seconds, cpu = [], []
    for number in range(config.rounds + 2):
        began, cpu_began = time.perf_counter(), time.process_time()
        jax.block_until_ready(call())
        if number >= 2:
            seconds.append((time.perf_counter() - began) / config.steps)
            cpu.append((time.process_time() - cpu_began) / config.steps)
    return statistics.median(seconds), statistics.median(cpu)


if __name__ == "__main__":
    measurement = Measurement(**json.loads(sys.stdin.read()))
    print(json.dumps({noise: measure(measurement, noise) for noise in NOISES}))
