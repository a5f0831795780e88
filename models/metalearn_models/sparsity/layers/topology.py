"""Which inputs an output reads: random topologies, and their change by SET, as data and in time linear in connections.

SET (Mocanu et al. 2018, Nature Communications) as Curci, Mocanu and Pechenizkiy 2021 (arXiv 2102.01732) run it: after
an epoch, the share zeta of the positive weights nearest to zero and the same share of the negative ones are dropped,
and as many new connections grow at random places. New weights are drawn anew, and what an optimizer remembers of them
is forgotten. The output layer of a network keeps its topology, and so does every layer after the last epoch: that is up
to the caller.

Two things differ from theirs because the fan-in of an output is constant. A dropped connection grows again at the same
output. And the fan-out of an input is bounded by the shape of `Connections.positions`; growth avoids inputs that are
full. Everything is a compiled program over arrays of fixed shape.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from einops import rearrange
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from metalearn_models.sparsity.layers.ell import Connections

__all__ = ["Evolved", "connect", "default_capacity", "draw_connections", "draw_values", "evolve", "forget"]

ROUNDS = 100
"""Rounds of drawing beyond the fan-in after which growth is given up. Few layers need more than ten."""


class Evolved(NamedTuple):
    """A layer after a change of topology.

    Attributes:
        values: the weights; those of new connections are drawn anew.
        connections: the new topology, of the same shapes.
        moved: where a connection is new.
    """

    values: Float[Array, "K O"]
    connections: Connections
    moved: Bool[Array, "K O"]


def default_capacity(inputs: int, outputs: int, fan_in: int) -> int:
    """The largest fan-out a layer allows by default: the mean plus three of its square roots, which few inputs reach.

    The bound is our choice. The gradient of the inputs costs as much as if every input had that fan-out.
    """
    mean = fan_in * outputs / inputs
    return min(outputs, math.ceil(mean + 3 * math.sqrt(mean)) + 1)


def draw_connections(
    key: PRNGKeyArray, inputs: int, outputs: int, fan_in: int, capacity: int | None = None
) -> Connections:
    """Draw the inputs of each output, without repetition and uniformly among inputs that are not full.

    Args:
        key: randomness.
        inputs: I.
        outputs: O.
        fan_in: K, inputs per output.
        capacity: C, outputs per input at most. None: `default_capacity`.

    Raises:
        ValueError: the sizes are not positive, the fan-in is larger than the number of inputs, there are 2^31
            connections or more, or the capacity does not hold all connections.
    """
    if min(inputs, outputs) < 1:
        raise ValueError(f"inputs and outputs must be at least 1, got {inputs} and {outputs}")
    if not 1 <= fan_in <= inputs:
        raise ValueError(f"fan_in must be between 1 and the number of inputs, {inputs}; got {fan_in}")
    if fan_in * outputs >= 2**31:
        raise ValueError(
            f"positions are 32-bit integers, so a layer has fewer than {2**31:,} connections, got {fan_in * outputs:,}"
        )
    capacity = default_capacity(inputs, outputs, fan_in) if capacity is None else capacity
    needed = -(-fan_in * outputs // inputs)
    if capacity < needed:
        raise ValueError(f"capacity must be at least {needed} to hold {fan_in * outputs} connections, got {capacity}")
    capacity = min(capacity, outputs)
    connections, complete = _draw(key, inputs, outputs, fan_in, capacity)
    if not isinstance(complete, Tracer) and not complete:
        raise ValueError(
            f"capacity={capacity} is too near to the mean fan-out, {fan_in * outputs / inputs:g}, to draw a topology; "
            f"the default is {default_capacity(inputs, outputs, fan_in)}"
        )
    return connections


def draw_values(key: PRNGKeyArray, fan_in: int, outputs: int, bound: float | None = None) -> Float[Array, "K O"]:
    """Draw weights uniformly in [-bound, bound]; float32.

    Args:
        key: randomness.
        fan_in: K.
        outputs: O.
        bound: None: sqrt(6 / fan_in), He's for the connections there are. Curci et al. use the number of inputs of the
            dense layer instead, which makes deep sparse networks fainter.
    """
    bound = math.sqrt(6 / fan_in) if bound is None else bound
    return jax.random.uniform(key, (fan_in, outputs), jnp.float32, -bound, bound)


def connect(indices: Int[Array, "K O"], inputs: int, capacity: int | None = None) -> Connections:
    """The connections with these indices.

    Args:
        indices: concrete; `inputs` stands for an absent connection. The indices of an output must differ.
        inputs: I.
        capacity: C. None: the largest fan-out there is.

    Raises:
        ValueError: an index is out of range or occurs twice at an output, or an input has more outputs than `capacity`.
    """
    if bool(jnp.any((indices < 0) | (indices > inputs))):
        raise ValueError(f"indices must be between 0 and {inputs}, got {int(indices.min())} to {int(indices.max())}")
    ordered = jnp.sort(indices, axis=0)
    if bool(jnp.any((ordered[1:] == ordered[:-1]) & (ordered[1:] < inputs))):
        raise ValueError("the indices of an output must differ: an output reads one input twice")
    largest = max(1, int(_fan_out(indices, inputs).max()))
    capacity = largest if capacity is None else capacity
    if largest > capacity:
        raise ValueError(f"an input has {largest} outputs, more than capacity={capacity}")
    return _connect(indices.astype(jnp.int32), inputs, capacity)


def evolve(
    key: PRNGKeyArray,
    values: Float[Array, "K O"],
    connections: Connections,
    fraction: float | Float[Array, ""] = 0.3,
    bound: float | None = None,
) -> Evolved:
    """One change of topology by SET: drop the weights nearest to zero of either sign, and grow as many elsewhere.

    Of P positive and N negative weights, floor(fraction * P) and floor(fraction * N) are dropped, and all that are
    exactly zero. Absent connections stay absent. The number of connections never changes: should no place be found for
    all new ones, the layer stays as it is.

    Args:
        key: randomness.
        values: the weights.
        connections: their topology.
        fraction: zeta, in [0, 1).
        bound: new weights are drawn from [-bound, bound]. None: sqrt(6 / I), as the released code draws all weights;
            with few connections that is small beside the bound of `draw_values`, so that growth disturbs little.

    Raises:
        ValueError: the fraction is a number outside [0, 1).
    """
    if isinstance(fraction, int | float) and not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    place, value = jax.random.split(key)
    indices, (capacity, inputs) = connections.indices, connections.positions.shape
    dropped = _choose_dropped(values, indices < inputs, fraction)
    grown, complete = _fill(place, indices, dropped, inputs, capacity)
    moved = dropped & complete
    bound = math.sqrt(6 / inputs) if bound is None else bound
    fresh = draw_values(value, values.shape[0], values.shape[1], bound).astype(values.dtype)
    kept = jnp.where(moved, grown, indices)
    return Evolved(jnp.where(moved, fresh, values), _connect(kept, inputs, capacity), moved)


def forget(optimizer: optax.GradientTransformation, state: optax.OptState, moved: Any) -> optax.OptState:
    """Set to zero what an optimizer remembers of moved connections, its momenta and second moments.

    Args:
        optimizer: the one that made the state.
        state: its state.
        moved: a tree as the parameters are: `Evolved.moved` for values, and False of their shapes for the rest.
    """
    return optax.tree_map_params(
        optimizer, lambda leaf, where: jnp.where(where, jnp.zeros_like(leaf), leaf), state, moved
    )


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _draw(key: Any, inputs: int, outputs: int, fan_in: int, capacity: int) -> tuple[Connections, Any]:
    empty = jnp.full((fan_in, outputs), inputs, jnp.int32)
    indices, complete = _fill(key, empty, empty == inputs, inputs, capacity)
    return _connect(indices, inputs, capacity), complete


def _fan_out(indices: Int[Array, "K O"], inputs: int) -> Int[Array, "I"]:
    return jnp.zeros(inputs, jnp.int32).at[indices.reshape(-1)].add(1, mode="drop")


def _connect(indices: Int[Array, "K O"], inputs: int, capacity: int) -> Connections:
    """The connections, for indices that are known to be right."""
    flat = indices.reshape(-1)
    count = flat.shape[0]
    ordered, places = jax.lax.sort((flat, jnp.arange(count, dtype=jnp.int32)), num_keys=1)
    first = jnp.searchsorted(ordered, jnp.arange(inputs + 1, dtype=jnp.int32)).astype(jnp.int32)
    rank = jnp.arange(count, dtype=jnp.int32) - first[ordered]
    positions = jnp.full((capacity, inputs), count, jnp.int32).at[rank, ordered].set(places, mode="drop")
    return Connections(indices, positions)


def _choose_dropped(
    values: Float[Array, "K O"], present: Bool[Array, "K O"], fraction: float | Float[Array, ""]
) -> Bool[Array, "K O"]:
    """Where SET drops: by rank of the size among weights of one sign. A weight that is NaN stays."""
    flat, there = values.reshape(-1), present.reshape(-1)
    group = jnp.select([~there, flat == 0, flat < 0, flat > 0], [3, 2, 0, 1], 3).astype(jnp.int32)
    count = flat.shape[0]
    sizes = jnp.zeros(4, jnp.int32).at[group].add(1)
    places = jnp.arange(count, dtype=jnp.int32)
    group, _, order = jax.lax.sort((group, jnp.abs(flat), places), num_keys=2)
    starts = jnp.cumsum(sizes) - sizes
    share = jnp.floor(jnp.asarray(fraction, jnp.float32) * sizes.astype(jnp.float32)).astype(jnp.int32)
    limits = share.at[2].set(count).at[3].set(0)
    dropped = jnp.zeros(count, bool).at[order].set(places - starts[group] < limits[group])
    return dropped.reshape(values.shape)


def _fill(
    key: PRNGKeyArray, indices: Int[Array, "K O"], openings: Bool[Array, "K O"], inputs: int, capacity: int
) -> tuple[Int[Array, "K O"], Bool[Array, ""]]:
    """Draw inputs for the open places: none that the output has, none that is full.

    In a round every open place draws one of the inputs that its output does not have. Of equal draws at one output the
    first is taken. If an input is drawn more often than it has room, it takes one of the draws.

    Returns:
        The indices, and whether all places were filled.
    """
    fan_in, outputs = indices.shape
    none = jnp.asarray(inputs, jnp.int32)
    slots = jnp.broadcast_to(jnp.arange(fan_in, dtype=jnp.int32)[:, None], indices.shape)
    flat = jnp.arange(fan_in * outputs, dtype=jnp.int32).reshape(indices.shape)

    def across(row: Array) -> Array:
        return jnp.broadcast_to(rearrange(row, "o -> 1 o"), indices.shape)

    def draw(carry: Any) -> Any:
        indices, openings, rounds = carry
        # Modulo makes small remainders likelier by at most the number of inputs over 2^32.
        bits = jax.random.bits(jax.random.fold_in(key, rounds), (flat.size + 1,), jnp.uint32)
        taken = jnp.sort(jnp.where(openings, none, indices), axis=0)
        missing = inputs - (taken < inputs).sum(0, dtype=jnp.int32)
        number = bits[1:].reshape(indices.shape) % across(jnp.maximum(missing, 1)).astype(jnp.uint32)
        number = number.astype(jnp.int32)
        # The r-th input that is missing is r plus the taken ones before it, and taken[j] - j inputs are missing before
        # taken[j].
        before = jnp.where(taken < inputs, taken - slots, none)
        passed = jax.vmap(lambda b, n: jnp.searchsorted(b, n, side="right"), 1, 1)(before, number)
        drawn = jnp.where(openings & across(missing > 0), number + passed.astype(jnp.int32), none)
        ordered, order = jax.lax.sort((drawn, slots), dimension=0, num_keys=1)
        new = jnp.concatenate([ordered[:1] < inputs, (ordered[1:] != ordered[:-1]) & (ordered[1:] < inputs)])
        new = jnp.put_along_axis(jnp.zeros_like(new), order, new, axis=0, inplace=False)
        room = capacity - _fan_out(taken, inputs)
        wanted = _fan_out(jnp.where(new, drawn, none), inputs)
        turn = (flat + (bits[0] % flat.size).astype(jnp.int32)) % flat.size
        last = jnp.full(inputs, -1, jnp.int32).at[jnp.where(new, drawn, none)].max(turn, mode="drop")
        at = jnp.minimum(drawn, inputs - 1)
        taken_now = new & ((wanted <= room)[at] | ((room > 0)[at] & (last[at] == turn)))
        return jnp.where(taken_now, drawn, indices), openings & ~taken_now, rounds + 1

    start = (indices, openings, jnp.zeros((), jnp.int32))
    indices, openings, _ = jax.lax.while_loop(lambda carry: carry[1].any() & (carry[2] < fan_in + ROUNDS), draw, start)
    return indices, ~openings.any()
