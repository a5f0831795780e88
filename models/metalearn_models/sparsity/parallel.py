"""WASSP: truly sparse networks trained on several devices, first together, then apart, then averaged.

Curci, Mocanu and Pechenizkiy 2021 (arXiv 2102.01732). Phase 1, the first 70 % of the epochs: every device computes the
gradient of its part of the batch on the same network, and their mean is applied; the learning rate is scaled by the
number of devices, with a warm-up of five epochs. Phase 2: every device trains and evolves a network of its own on its
own examples. Then the networks are averaged over the union of their connections, an absent connection counting as zero,
and pruned by size to the number of connections that one network has.

This is the synchronous variant of the paper. Its asynchronous one (WASAP) needs a parameter server, whose purpose, not
to wait for slow workers, has no counterpart in a compiled program over a mesh. The rule with which that server accepts
gradients of an older topology is `retain_valid`; here it carries momenta into the averaged network.

Two differences: the fan-in of an output is constant, so averaging prunes per output; and the fan-out of an input may
grow when networks are averaged, so the arrays of the transpose may, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from metalearn_models.sparsity.layers.ell import Connections
from metalearn_models.sparsity.layers.mlp import Layers, Topologies, evolve_layers
from metalearn_models.sparsity.layers.topology import connect, forget

__all__ = ["Parallel", "average", "parallel_training", "retain_valid", "warm_up"]


class Parallel(NamedTuple):
    """Training on a mesh, one epoch per call. `S` is the number of steps, `W` the number of devices.

    Attributes:
        together: `(params, topologies, state, batches) -> (params, state, loss)`, phase 1. A leaf of `batches` is
            [S, B, ...], and B is split over the devices.
        apart: `(key, params, topologies, state, batches, fraction) -> (params, topologies, state, loss)`, phase 2: all
            but the key and the fraction have a leading axis W. Each network evolves after its epoch, with randomness of
            its own; a fraction of 0 moves only weights that are exactly 0.
        merge: `(params, topologies, state) -> (params, topologies, state)`, the average; arguments have a leading axis
            W and are concrete.
    """

    together: Callable[..., Any]
    apart: Callable[..., Any]
    merge: Callable[..., Any]


def parallel_training(
    loss: Callable[[Layers, Topologies, Any], Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Parallel:
    """WASSP for a network of sparse layers; everything but `merge` is compiled.

    Args:
        loss: `(params, topologies, batch) -> mean loss`.
        optimizer: any optax transformation.
        mesh: the devices, on a single axis.

    Raises:
        ValueError: the mesh has more than one axis.
    """
    if len(mesh.axis_names) != 1:
        raise ValueError(f"WASSP needs a mesh with one axis, got {mesh.axis_names}")
    (axis,) = mesh.axis_names

    def epoch(params: Any, topologies: Any, state: Any, batches: Any, shared: bool) -> Any:
        def step(carry: Any, batch: Any) -> Any:
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, topologies, batch)
            if shared:
                value, grads = jax.lax.pmean((value, grads), axis)
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        (params, state), losses = jax.lax.scan(step, (params, state), batches)
        return params, state, losses.mean()

    everywhere, split, examples = PartitionSpec(), PartitionSpec(axis), PartitionSpec(None, axis)
    on_mesh = partial(jax.shard_map, mesh=mesh, check_vma=False)

    @jax.jit
    @partial(on_mesh, in_specs=(everywhere, everywhere, everywhere, examples), out_specs=everywhere)
    def together(params: Any, topologies: Any, state: Any, batches: Any) -> Any:
        return epoch(params, topologies, state, batches, True)

    @jax.jit
    @partial(on_mesh, in_specs=(everywhere, split, split, split, split, everywhere), out_specs=split)
    def apart(key: PRNGKeyArray, params: Any, topologies: Any, state: Any, batches: Any, fraction: Any) -> Any:
        params, topologies, state, batches = jax.tree.map(lambda a: a[0], (params, topologies, state, batches))
        params, state, value = epoch(params, topologies, state, batches, False)
        mine = jax.random.fold_in(key, jax.lax.axis_index(axis))
        params, topologies, moved = evolve_layers(mine, params, topologies, fraction)
        state = forget(optimizer, state, moved)
        return jax.tree.map(lambda a: a[None], (params, topologies, state, value))

    def merge(params: Any, topologies: Any, state: Any) -> Any:
        layers, merged = [], []
        for layer, old in zip(params, topologies, strict=True):
            if old is None:
                layers.append(jax.tree.map(_mean, layer))
                merged.append(None)
            else:
                values, connections = average(layer["values"], old)
                layers.append({**jax.tree.map(_mean, {k: v for k, v in layer.items() if k != "values"})})
                layers[-1]["values"] = values
                merged.append(connections)
        carried = [
            {name: _carry(old, new) if name == "values" and new is not None else None for name in layer}
            for layer, old, new in zip(layers, topologies, merged, strict=True)
        ]
        shapes = jax.tree.map(lambda c: _mean if c is None else c, tuple(carried), is_leaf=lambda c: c is None)
        state = optax.tree_map_params(
            optimizer, lambda leaf, move: move(leaf), state, shapes, transform_non_params=lambda leaf: leaf[0]
        )
        return tuple(layers), tuple(merged), state

    return Parallel(together, apart, merge)


def warm_up(rate: float, workers: int, steps_per_epoch: int, epochs: int = 5) -> optax.Schedule:
    """The learning rate of phase 1: from `rate` linearly to `rate * workers` within the first epochs, then constant.

    Raises:
        ValueError: a number is below 1.
    """
    if min(workers, steps_per_epoch, epochs) < 1:
        raise ValueError(
            f"workers, steps_per_epoch and epochs must be at least 1, got {workers}, {steps_per_epoch}, {epochs}"
        )
    return optax.linear_schedule(rate, rate * workers, steps_per_epoch * epochs)


def retain_valid(updates: Float[Array, "K O"], old: Connections, new: Connections) -> Float[Array, "L O"]:
    """Updates that were computed for one topology, as updates of another: those whose connection is gone are discarded.

    Args:
        updates: one per connection of `old`.
        old: the topology they belong to.
        new: the topology to update; connections that `old` does not have get 0.
    """
    inputs = old.positions.shape[1]
    order = jnp.argsort(old.indices, axis=0)
    there = jnp.take_along_axis(old.indices, order, axis=0)
    place = jax.vmap(jnp.searchsorted, 1, 1)(there, new.indices)
    place = jnp.minimum(place, there.shape[0] - 1).astype(order.dtype)
    same = (jnp.take_along_axis(there, place, axis=0) == new.indices) & (new.indices < inputs)
    found = jnp.take_along_axis(updates, jnp.take_along_axis(order, place, axis=0), axis=0)
    return jnp.where(same, found, jnp.zeros_like(found))


def average(values: Float[Array, "W K O"], connections: Connections) -> tuple[Float[Array, "K O"], Connections]:
    """The mean of networks over the union of their connections, pruned by size to K connections per output.

    Args:
        values: the weights of each of W networks.
        connections: their topologies, with the same leading axis; everything is concrete.

    Returns:
        Weights and topology. Its largest fan-out may exceed the old bound; the arrays of the transpose grow then.
    """
    capacity, inputs = connections.positions.shape[1:]
    means, indices, most = _average(values, connections.indices, inputs)
    return means, connect(indices, inputs, max(capacity, int(most)))


@partial(jax.jit, static_argnums=2)
def _average(values: Any, indices: Any, inputs: int) -> tuple[Any, Any, Any]:
    """Weights and indices of the mean, and its largest fan-out."""
    workers, fan_in, outputs = values.shape
    indices = rearrange(indices, "w k o -> (w k) o")
    indices, weights = jax.lax.sort((indices, rearrange(values, "w k o -> (w k) o")), dimension=0, num_keys=1)
    new = jnp.concatenate([jnp.ones((1, outputs), bool), indices[1:] != indices[:-1]])
    group = jnp.cumsum(new, axis=0, dtype=jnp.int32) - 1
    columns = jnp.broadcast_to(jnp.arange(outputs, dtype=jnp.int32), group.shape)
    there = indices < inputs
    sums = jnp.zeros_like(weights).at[group, columns].add(jnp.where(there, weights, jnp.zeros_like(weights)))
    names = jnp.full_like(indices, inputs).at[group, columns].set(indices)
    size = jnp.where(names < inputs, jnp.abs(sums), -math.inf)
    kept = jnp.argsort(-size, axis=0)[:fan_in]
    names, means = (jnp.take_along_axis(a, kept, axis=0) for a in (names, sums / workers))
    order = jnp.argsort(names, axis=0)
    names, means = (jnp.take_along_axis(a, order, axis=0) for a in (names, means))
    return means, names, jnp.zeros(inputs, jnp.int32).at[names.reshape(-1)].add(1, mode="drop").max()


def _mean(leaf: Array) -> Array:
    return leaf.mean(0)


def _carry(old: Connections, new: Connections) -> Callable[[Array], Array]:
    """A function that takes each network's memory of its connections into the averaged topology."""

    def carry(leaf: Array) -> Array:
        return jax.vmap(partial(retain_valid, new=new))(leaf, old).mean(0)

    return carry
