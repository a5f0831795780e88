"""One epoch of a large truly sparse network in a process of its own, so that its memory is its own.

python -m experiments.sparsity._scale WORDS: the words are a JSON object of `measure`'s arguments; the last line of the
output is the result as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from metalearn_models.sparsity.layers import default_capacity, erdos_renyi_fan_in, evolve_layers, forget, sparse_mlp
from metalearn_tasks import datasets

__all__ = ["measure", "predicted_bytes"]


def predicted_bytes(inputs: int, hidden: tuple[int, ...], outputs: int, eps: float, batch: int) -> dict[str, float]:
    """What a training step holds, by formula: bytes per connection, and in all.

    Per connection 16 bytes: weight, momentum, gradient, index, of 4 each. Per place of the padded transpose 8: its
    position, and the weight gathered there for the backward pass. Per weight of the dense output layer 12. Per hidden
    neuron and example 32: eight arrays of that size are there at once, as was measured with a million neurons.
    """
    total, connections = 0.0, 0
    for i, o in pairwise((inputs, *hidden)):
        fan_in = erdos_renyi_fan_in(i, o, eps)
        connections += fan_in * o
        total += 16 * fan_in * o + 8 * i * default_capacity(i, o, fan_in)
    return {
        "connections": connections,
        "per connection": total / connections,
        "bytes": total + 12 * hidden[-1] * outputs + 32 * sum(hidden) * batch,
    }


def measure(data: str, hidden: list[int], eps: float, batch: int, rate: float, examples: int) -> dict[str, Any]:
    """Train for one epoch, change the topology once, and report time, peak memory and what was learned."""
    loaded = datasets.load(data)
    part = jax.tree.map(lambda a: jnp.asarray(a[:examples]), loaded.train)
    network = sparse_mlp(loaded.inputs, tuple(hidden), loaded.classes, eps)
    tracing: Any = optax.trace(0.9)
    before = _peak()
    began = time.perf_counter()
    params, topologies = network.init(jax.random.key(0))
    state = tracing.init(params)
    jax.block_until_ready((params, topologies))
    drawn = time.perf_counter() - began

    def step(params: Any, state: Any, topologies: Any, rows: Any) -> Any:
        def loss(params: Any) -> Any:
            logits = network.apply(params, topologies, part.inputs[rows])
            return optax.softmax_cross_entropy_with_integer_labels(logits, part.labels[rows]).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tracing.update(grads, state, params)
        return optax.apply_updates(params, jax.tree.map(lambda u: -rate * u, updates)), state, value

    advance = jax.jit(step, donate_argnums=(0, 1))
    order = jax.random.permutation(jax.random.key(1), len(part.labels))
    losses, seconds = [], []
    for start in range(0, len(order) - batch + 1, batch):
        began = time.perf_counter()
        params, state, value = advance(params, state, topologies, order[start : start + batch])
        losses.append(float(value))
        seconds.append(time.perf_counter() - began)
    trained = _peak()
    began = time.perf_counter()
    params, topologies, moved = jax.jit(evolve_layers)(jax.random.key(2), params, topologies)
    state = forget(tracing, state, moved)
    jax.block_until_ready((params, topologies, state))
    quarter = max(1, len(losses) // 4)
    return {
        "neurons": sum(hidden),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "draw_seconds": drawn,
        "step_seconds": min(seconds),
        "epoch_seconds": sum(seconds),
        "steps": len(losses),
        "evolve_seconds": time.perf_counter() - began,
        "peak_before": before,
        "peak_training": trained,
        "peak_process": _peak(),
        "first_loss": sum(losses[:quarter]) / quarter,
        "last_loss": sum(losses[-quarter:]) / quarter,
    } | predicted_bytes(loaded.inputs, tuple(hidden), loaded.classes, eps, batch)


def _peak() -> int:
    """Most bytes this process has held.

    In `getrusage`, Linux counts a process's peak from its parent's on, so that of its own memory map is read there.
    macOS counts bytes.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = (line.split() for line in status.read_text().splitlines())
        return next(1024 * int(words[1]) for words in lines if words and words[0] == "VmHWM:")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
