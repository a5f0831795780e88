"""What an update of each learned optimizer costs beside optax.adam: time, memory, compilation.

Multilayer perceptrons of 118,282 and 669,706 parameters, one core, the state donated, updates applied; the optimizers
take turns, so that all meet the same machine, and the fastest update counts. Ratios carry over to other machines better
than times. No figure here is from an accelerator.

    python -m experiments optimizer_cost
    python -m experiments optimizer_cost --help
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.suite.results import write_result
from metalearn.pictures import new_figure, save
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import LearnedOptimizer, make


@dataclass(frozen=True)
class OptimizerCostConfig:
    """Time and memory of updates."""

    optimizers: tuple[str, ...] = ("small-fc", "star", "mlp", "nn-adam", "rnn-mlp", "lstm-log", "rnnprop")
    """Learned optimizers, as `metalearn list` has them; optax.adam is always there."""
    widths: tuple[int, ...] = (128, 512)
    """Two hidden layers of each of these widths, between 784 inputs and 10 outputs."""
    turns: int = 10
    """Turns of each, of five updates; the fastest update counts."""
    out: Path = Path("runs/optimizer-cost")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


IN_A_ROW = 5
"""Updates in a turn: the first finds the caches full of another optimizer's memory."""


class Cost(NamedTuple):
    """What one optimizer costs on one network.

    Attributes:
        milliseconds: an update, applied.
        nanoseconds: the same for each parameter.
        ratio: over optax.adam.
        state: bytes of its state over bytes of the parameters.
        compile_seconds: compilation and first update.
    """

    milliseconds: float
    nanoseconds: float
    ratio: float
    state: float
    compile_seconds: float


def costs(optimizers: Mapping[str, LearnedOptimizer], width: int, turns: int) -> tuple[int, dict[str, Cost]]:
    """What updates of a network cost.

    Args:
        optimizers: by the name they are shown under.
        width: of the two hidden layers of the network, between 784 inputs and 10 outputs.
        turns: how often each is timed.

    Returns:
        The number of parameters, and the cost of optax.adam ("adam") and of each optimizer.

    Raises:
        ValueError: when there is not a turn.
    """
    if turns < 1:
        raise ValueError(f"turns must be at least 1, got {turns}")
    params = mlp(784, (width, width), 10, jax.nn.relu, None).init(jax.random.key(0))
    size = sum(p.size for p in jax.tree.leaves(params))
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    transforms: dict[str, Any] = {"adam": optax.with_extra_args_support(optax.adam(1e-3))}
    transforms |= {n: o.transform(o.init(jax.random.key(0)), 1000) for n, o in optimizers.items()}
    runs, found = {}, {}
    for name, transform in transforms.items():
        update = jax.jit(_applied(transform), donate_argnums=(1, 2))
        memory = jax.jit(transform.init)(params)
        state = sum(x.nbytes for x in jax.tree.leaves(memory)) / (4 * size)
        began = time.perf_counter()
        carry = jax.block_until_ready(update(grads, memory, jax.tree.map(jnp.copy, params)))
        runs[name] = (update, carry, state, time.perf_counter() - began)
    best = dict.fromkeys(runs, np.inf)
    for _ in range(turns):
        for name, (update, carry, state, seconds) in runs.items():
            for _ in range(IN_A_ROW):
                began = time.perf_counter()
                carry = jax.block_until_ready(update(grads, *carry))
                best[name] = min(best[name], time.perf_counter() - began)
            runs[name] = (update, carry, state, seconds)
    for name, (_, _, state, seconds) in runs.items():
        found[name] = Cost(1e3 * best[name], 1e9 * best[name] / size, best[name] / best["adam"], state, seconds)
    return size, found


def _applied(transform: Any) -> Any:
    def update(grads: Any, memory: Any, params: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            updates, memory = transform.update(grads, memory, params, value=jnp.float32(1))
        return memory, optax.apply_updates(params, updates)

    return update


def table(found: dict[int, dict[str, Cost]]) -> str:
    """The figures for people."""
    lines = []
    for size, rows in found.items():
        lines.append(
            f"{f'{size:,} parameters':<22} {'ms':>8} {'ns each':>8} {'x adam':>7} {'state':>7} {'compile s':>10}"
        )
        for name, c in rows.items():
            lines.append(
                f"    {name:<18} {c.milliseconds:>8.3f} {c.nanoseconds:>8.2f} {c.ratio:>7.1f} {c.state:>6.2f}x"
                f" {c.compile_seconds:>10.1f}"
            )
    return "\n".join(lines)


def main(config: OptimizerCostConfig) -> dict[str, Any]:
    """Time all; writes and returns what result.json holds."""
    optimizers = {name: make(name) for name in config.optimizers}
    found: dict[int, dict[str, Cost]] = {}
    for width in config.widths:
        size, rows = costs(optimizers, width, config.turns)
        found[size] = rows
        print(table({size: rows}), flush=True)
    figure, (ax,) = new_figure()
    for number, rows in enumerate(found.values()):
        for name, c in rows.items():
            ax.plot(c.state, c.nanoseconds, "o" if number else "s", color=f"C{list(rows).index(name) % 10}")
            if number == len(found) - 1:
                ax.annotate(name, (c.state, c.nanoseconds), textcoords="offset points", xytext=(5, 4), fontsize=7)
    ax.set(xscale="log", yscale="log", xlabel="state over parameters", ylabel="nanoseconds a parameter, an update")
    ax.set_title(", ".join(f"{s:,}" for s in found) + " parameters (squares, circles)", fontsize=9)
    save(figure, config.out / "optimizer_cost.png")
    print(f"\npicture: {config.out / 'optimizer_cost.png'}")
    return write_result(
        config.out, {str(size): {n: c._asdict() for n, c in rows.items()} for size, rows in found.items()}
    )


if __name__ == "__main__":
    # One core, and no pool that would hand every product over to its one thread; before JAX counts the cores.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    command = tyro.cli(OptimizerCostConfig, description=__doc__)
    written = main(command)
    if command.json:
        print(json.dumps(written))
