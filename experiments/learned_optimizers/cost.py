"""Cost of an update of each learned optimizer beside optax.adam: time, memory, compilation.

The networks are multilayer perceptrons of 118,282 and 669,706 parameters. Everything runs on one core, the state is
donated, and updates are applied. The optimizers take turns, so that all of them see the same state of the machine, and
the fastest update counts. Ratios carry over to other machines better than times. No figure here is from an accelerator.

    python -m experiments optimizer_cost
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.suite.one_core import prepare_process as prepare_process
from experiments.suite.results import write_result
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.networks.mlp import mlp
from metalearn_models.optimizers import LearnedOptimizer, make, read

UPDATES_PER_TURN = 5
"""Updates per turn. The first one is slow, because the caches hold the memory of another optimizer."""


@dataclass(frozen=True)
class OptimizerCostConfig:
    """Time and memory of updates."""

    optimizers: tuple[str, ...] = ("small-fc", "star", "mlp", "nn-adam", "rnn-mlp", "lstm-log", "rnnprop")
    """Learned optimizers by their names in `metalearn list`; optax.adam is always measured too."""
    widths: tuple[int, ...] = (128, 512)
    """Widths of the two hidden layers, between 784 inputs and 10 outputs; one network per width."""
    turns: int = 10
    """Turns per optimizer, of five updates each; the fastest update counts."""
    out: Path = Path("runs/optimizer-cost")
    """Folder for the picture and the table."""
    shipped: tuple[str, ...] = ()
    """Learned optimizers with the weights and settings that `optimizers.load` hands out, as compass with its orthogonal
    matrices."""


PRESETS = {"standard": OptimizerCostConfig()}


class Cost(NamedTuple):
    """The cost of one optimizer on one network.

    Attributes:
        milliseconds: time per update, including its application to the parameters.
        nanoseconds: the same per parameter.
        ratio: time over that of optax.adam.
        state: bytes of the optimizer's state over bytes of the parameters.
        compile_seconds: time of compilation and the first update.
    """

    milliseconds: float
    nanoseconds: float
    ratio: float
    state: float
    compile_seconds: float


def run(config: OptimizerCostConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure the costs of all optimizers; returns what result.json holds, by size of the network."""
    optimizers = {name: make(name) for name in config.optimizers}
    optimizers |= {f"{name}, shipped": read(name).optimizer for name in config.shipped}
    costs: dict[int, dict[str, Cost]] = {}
    for width in config.widths:
        size, costs_of_width = measure_costs(optimizers, width, config.turns)
        costs[size] = costs_of_width
        if progress is not None:
            progress.note(f"{size:,} parameters measured")
    picture = config.out / "optimizer_cost.png"
    draw(costs, picture)
    networks = {str(size): {name: c._asdict() for name, c in row.items()} for size, row in costs.items()}
    return write_result(config.out, {"networks": networks, "picture": str(picture)})


def measure_costs(optimizers: Mapping[str, LearnedOptimizer], width: int, turns: int) -> tuple[int, dict[str, Cost]]:
    """Measure the cost of updates of a network.

    Args:
        optimizers: learned optimizers by label.
        width: width of the two hidden layers, between 784 inputs and 10 outputs.
        turns: turns per optimizer.

    Returns:
        The number of parameters; and the cost of optax.adam (label "adam") and of each optimizer.

    Raises:
        ValueError: `turns` is below 1.
    """
    if turns < 1:
        raise ValueError(f"turns must be at least 1, got {turns}")
    params = mlp(784, (width, width), 10, jax.nn.relu, None).init(jax.random.key(0))
    size = sum(p.size for p in jax.tree.leaves(params))
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, params)
    transforms: dict[str, Any] = {"adam": optax.with_extra_args_support(optax.adam(1e-3))}
    transforms |= {n: o.transform(o.init(jax.random.key(0)), 1000) for n, o in optimizers.items()}
    updates, carries, states, compile_seconds = {}, {}, {}, {}
    for name, transform in transforms.items():
        updates[name] = jax.jit(_update_and_apply(transform), donate_argnums=(1, 2))
        memory = jax.jit(transform.init)(params)
        states[name] = sum(x.nbytes for x in jax.tree.leaves(memory)) / (4 * size)
        start = time.perf_counter()
        carries[name] = jax.block_until_ready(updates[name](grads, memory, jax.tree.map(jnp.copy, params)))
        compile_seconds[name] = time.perf_counter() - start
    best = dict.fromkeys(transforms, np.inf)
    for _ in range(turns):
        for name, update in updates.items():
            carry = carries[name]
            for _ in range(UPDATES_PER_TURN):
                start = time.perf_counter()
                carry = jax.block_until_ready(update(grads, *carry))
                best[name] = min(best[name], time.perf_counter() - start)
            carries[name] = carry
    return size, {
        name: Cost(1e3 * t, 1e9 * t / size, t / best["adam"], states[name], compile_seconds[name])
        for name, t in best.items()
    }


def _update_and_apply(transform: Any) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    def update(grads: Any, memory: Any, params: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            updates, memory = transform.update(grads, memory, params, value=jnp.float32(1))
        return memory, optax.apply_updates(params, updates)

    return update


def draw(costs: Mapping[int, Mapping[str, Cost]], path: Path) -> None:
    """Draw time per parameter against memory; squares are the first network, circles the others."""
    figure, (ax,) = new_figure()
    for number, row in enumerate(costs.values()):
        for name, c in row.items():
            ax.plot(c.state, c.nanoseconds, "o" if number else "s", color=f"C{list(row).index(name) % 10}")
            if number == len(costs) - 1:
                ax.annotate(name, (c.state, c.nanoseconds), textcoords="offset points", xytext=(5, 4), fontsize=7)
    ax.set(xscale="log", yscale="log", xlabel="state over parameters", ylabel="nanoseconds per parameter and update")
    ax.set_title(", ".join(f"{s:,}" for s in costs) + " parameters (squares, circles)", fontsize=9)
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of costs for each network."""
    lines = []
    for size, row in result["networks"].items():
        head = f"{int(size):,} parameters"
        lines.append(f"{head:<22} {'ms':>8} {'ns each':>8} {'x adam':>7} {'state':>7} {'compile s':>10}")
        for name, c in row.items():
            lines.append(
                f"    {name:<18} {c['milliseconds']:>8.3f} {c['nanoseconds']:>8.2f} {c['ratio']:>7.1f}"
                f" {c['state']:>6.2f}x {c['compile_seconds']:>10.1f}"
            )
    return "\n".join([*lines, f"picture: {result['picture']}"])
