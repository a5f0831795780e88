"""SET-MLP in the forms that `experiments.sparsity.truly_sparse` compares: truly sparse, masked, dense, and small."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metalearn_models.sparsity.layers import (
    all_relu,
    erdos_renyi_fan_in,
    evolve_layers,
    forget,
    sparse_mlp,
    to_dense,
    to_mask,
)
from metalearn_tasks.datasets import Dataset, Split

__all__ = ["FORMS", "Form", "connections_of", "narrow_width", "train"]

DENSE = 1e9
"""An eps at which every layer has all connections."""
MOMENTUM = 0.9


@dataclasses.dataclass(frozen=True)
class Form:
    """How a network is stored and trained.

    Attributes:
        alpha: of All-ReLU.
        evolves: whether SET changes its topology after each epoch but the last.
        masked: dense kernels times masks, in the place of connections.
        dense: all connections.
        narrow: hidden layers of the width at which a dense network has as many parameters as the sparse one.
    """

    alpha: float = 0.6
    evolves: bool = True
    masked: bool = False
    dense: bool = False
    narrow: bool = False


FORMS = {
    "ELL, SET": Form(),
    "masked, SET": Form(masked=True),
    "ELL, static": Form(evolves=False),
    "ELL, SET, ReLU": Form(alpha=0.0),
    "dense": Form(dense=True, evolves=False),
    "dense, ReLU": Form(dense=True, evolves=False, alpha=0.0),
    "small dense": Form(dense=True, evolves=False, narrow=True),
}
"""By name. The first two draw the same networks, batches and topologies from a seed."""


def connections_of(inputs: int, hidden: tuple[int, ...], outputs: int, eps: float) -> int:
    """Weights of the sparse network, without biases."""
    widths = (inputs, *hidden)
    return sum(erdos_renyi_fan_in(i, o, eps) * o for i, o in pairwise(widths)) + hidden[-1] * outputs


def narrow_width(inputs: int, hidden: tuple[int, ...], outputs: int, eps: float) -> int:
    """The width at which a dense network with as many hidden layers has about as many weights."""
    budget, deep = connections_of(inputs, hidden, outputs, eps), len(hidden) - 1
    weights = [(inputs + outputs) * w + deep * w * w for w in range(1, max(hidden) + 1)]
    return 1 + int(np.argmin([abs(n - budget) for n in weights]))


def train(
    form: Form, data: Dataset, hidden: tuple[int, ...], eps: float, epochs: int, batch: int
) -> Callable[[int, float], dict[str, Any]]:
    """A function `(seed, rate) -> what came of it`, which compiles once for all seeds and rates."""
    widths = (narrow_width(data.inputs, hidden, data.classes, eps),) * len(hidden) if form.narrow else hidden
    network = sparse_mlp(data.inputs, widths, data.classes, DENSE if form.dense else eps, form.alpha)
    init = jax.jit(network.init)
    apply = partial(_apply_masked, form.alpha) if form.masked else network.apply
    examples = jax.tree.map(jnp.asarray, data.train)
    steps, tracing = len(examples.labels) // batch, optax.trace(MOMENTUM)

    def loss(params: Any, fixed: Any, part: Split) -> Any:
        logits = apply(params, fixed, jnp.asarray(part.inputs))
        return optax.softmax_cross_entropy_with_integer_labels(logits, part.labels).mean()

    @jax.jit
    def epoch(carry: Any, fixed: Any, key: Any, rate: Any) -> Any:
        order = jax.random.permutation(key, len(examples.labels))[: steps * batch].reshape(steps, batch)

        def step(carry: Any, rows: Any) -> Any:
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, fixed, jax.tree.map(lambda a: a[rows], examples))
            updates, state = tracing.update(grads, state, params)
            return (optax.apply_updates(params, jax.tree.map(lambda u: -rate * u, updates)), state), value

        carry, losses = jax.lax.scan(step, carry, order)
        return carry, losses.mean()

    @jax.jit
    def evolve(key: Any, params: Any, state: Any, topologies: Any) -> Any:
        new, topologies, moved = evolve_layers(key, params, topologies)
        return new, forget(tracing, state, moved), topologies

    @jax.jit
    def accuracy(params: Any, fixed: Any) -> Any:
        return (apply(params, fixed, jnp.asarray(data.test.inputs)).argmax(-1) == jnp.asarray(data.test.labels)).mean()

    def run(seed: int, rate: float) -> dict[str, Any]:
        start, order, change = jax.random.split(jax.random.key(seed), 3)
        params, topologies = init(start)
        state: Any = tracing.init(params)
        curve, seconds = [], []
        for number in range(epochs):
            held = _mask(params, state, topologies) if form.masked else (params, state, topologies)
            began = time.perf_counter()
            (new, memory), value = epoch((held[0], held[1]), held[2], jax.random.fold_in(order, number), rate)
            curve.append(float(value))
            seconds.append(time.perf_counter() - began)
            params, state = _unmask(new, memory, topologies) if form.masked else (new, memory)
            if form.evolves and number + 1 < epochs:
                key = jax.random.fold_in(change, number)
                params, state, topologies = evolve(key, params, state, topologies)
        last = _mask(params, state, topologies) if form.masked else (params, state, topologies)
        return {
            "curve": curve,
            "accuracy": float(accuracy(last[0], last[2])),
            "milliseconds": 1e3 * min(seconds) / steps,
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(last)),
        }

    return run


def _apply_masked(alpha: float, params: Any, masks: Any, x: Any) -> Any:
    for number, (layer, mask) in enumerate(zip(params, masks, strict=True), 1):
        x = x @ (layer["kernel"] if mask is None else layer["kernel"] * mask)
        x = x + jnp.broadcast_to(layer["bias"], x.shape)
        x = all_relu(x, number, alpha) if number < len(params) else x
    return x


def _mask(params: Any, state: Any, topologies: Any) -> Any:
    """Dense kernels, momenta and masks of a sparse network."""

    def dense(layers: Any) -> Any:
        return tuple(
            layer if c is None else {"kernel": to_dense(layer["values"], c), "bias": layer["bias"]}
            for layer, c in zip(layers, topologies, strict=True)
        )

    masks = tuple(None if c is None else to_mask(c).astype(jnp.float32) for c in topologies)
    return dense(params), state._replace(trace=dense(state.trace)), masks


def _unmask(params: Any, state: Any, topologies: Any) -> Any:
    """The way back, for SET, which works on connections."""

    def sparse(layers: Any) -> Any:
        return tuple(
            layer
            if c is None
            else {"values": jnp.take_along_axis(layer["kernel"], c.indices, axis=0), "bias": layer["bias"]}
            for layer, c in zip(layers, topologies, strict=True)
        )

    return sparse(params), state._replace(trace=sparse(state.trace))
