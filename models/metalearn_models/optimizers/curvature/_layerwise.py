"""What all optimizers that precondition layer by layer do: averages, periods, and parameters that are no kernels.

A rule says what it measures of a layer, what it solves from the average of these measurements, and how the solution
preconditions a gradient. When they are measured and solved, what happens to a batch that is not finite, and who updates
the other parameters, is decided here for all rules.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from metalearn_models.optimizers.curvature._matching import Matching
from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics
from metalearn_models.optimizers.frame import transformation

__all__ = [
    "CurvatureState",
    "LayerCurvature",
    "LayerRule",
    "Timing",
    "accumulator",
    "check_positive",
    "layerwise",
    "make_timing",
    "reads_statistics",
]


class LayerRule(NamedTuple):
    """How one layer is preconditioned.

    Attributes:
        zeros: `(layout, dtype) -> measurement`, a pytree of zeros.
        measure: `(statistics, dtype) -> measurement` of one batch, of which averages are taken.
        solve: `(average) -> solution`, for instance inverses.
        precondition: `(solution, gradient[m, n]) -> direction[m, n]`.
        from_factors: `(solution, inputs[N, m], output_grads[N, n]) -> direction[m, n]`, the same for the gradient
            `inputs^T output_grads`.
    """

    zeros: Callable[[KernelLayout, Any], Any]
    measure: Callable[[LayerStatistics, Any], Any]
    solve: Callable[[Any], Any]
    precondition: Callable[[Any, Array], Array]
    from_factors: Callable[[Any, Array, Array], Array]


class LayerCurvature(NamedTuple):
    """What is remembered of one layer: the average of the measurements, and the solution that is in use."""

    average: Any
    solution: Any


class CurvatureState(NamedTuple):
    """What a layerwise optimizer remembers.

    Attributes:
        step: number of updates so far.
        measures: whether the next update reads its statistics.
        weight: weight of all batches in the averages; 0 before the first.
        layers: like params, a `LayerCurvature` per layer and None for other parameters.
        fallback: state of the optimizer of the other parameters.
    """

    step: Int[Array, ""]
    measures: Bool[Array, ""]
    weight: Float[Array, ""]
    layers: Any
    fallback: Any


class Timing(NamedTuple):
    """When layers are measured and solved.

    Attributes:
        decay: of the average, per measured batch; the average is that of `optax.ema` with bias correction.
        period: number of updates that one solution is used for.
        collect: number of updates that are measured for each solution, the last of them its own.
        burn_in: number of updates at the beginning which are measured, with equal weights, and change no parameter.
    """

    decay: Any
    period: int
    collect: int
    burn_in: int


def make_timing(decay: Any, period: int, collect: int | None, burn_in: int) -> Timing:
    """Check when layers are measured and solved; `collect=None` measures every update.

    Raises:
        TypeError: a number of updates is an array: it decides what is compiled.
        ValueError: a number is out of its range.
    """
    numbers = {"period": period, "collect": collect, "burn_in": burn_in}
    if arrays := [name for name, x in numbers.items() if not isinstance(x, int | None)]:
        raise TypeError(
            f"{', '.join(arrays)} must be Python numbers, got arrays: with optax.inject_hyperparams, pass "
            f"static_args={tuple(numbers)}"
        )
    if period < 1:
        raise ValueError(f"period must be at least 1 update, got {period}")
    if collect is not None and not 1 <= collect <= period:
        raise ValueError(f"collect must be between 1 and the period of {period} updates, got {collect}")
    if burn_in < 0:
        raise ValueError(f"burn_in must be at least 0 updates, got {burn_in}")
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    return Timing(decay, period, period if collect is None else collect, burn_in)


def check_positive(name: str, value: Any) -> None:
    """Check a constant that is a number of Python or NumPy; an array of JAX is not checked.

    Raises:
        ValueError: it is not positive and finite.
    """
    if isinstance(value, int | float | np.number) and not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def layerwise(rule: LayerRule, timing: Timing, matching: Matching) -> optax.GradientTransformationExtraArgs:
    """An optax transformation from a rule for one layer.

    Args:
        rule: what it does with a layer.
        timing: when.
        matching: what is a layer, and who updates the other parameters.

    Returns:
        The transformation. Its `update` reads `statistics`.
    """

    def start(params: Any) -> CurvatureState:
        def begin(path: Any, leaf: Array) -> LayerCurvature | None:
            layout = matching.layout(path, leaf)
            if layout is None:
                return None
            average = rule.zeros(layout, accumulator(leaf))
            return LayerCurvature(average, rule.solve(average))

        layers = jax.tree_util.tree_map_with_path(begin, params)
        dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in jax.tree.leaves(layers)) else jnp.float32
        return CurvatureState(
            jnp.int32(0), jnp.bool_(True), jnp.zeros((), dtype), layers, matching.init_fallback(params)
        )

    def update(
        updates: Any, state: CurvatureState, params: Any = None, *, statistics: Any = None, **extra: Any
    ) -> tuple[Any, CurvatureState]:
        known = matching.match(updates, statistics)
        leaves = jax.tree_util.tree_leaves_with_path(state.layers, is_leaf=_is_layer)
        held = {at: own for path, own in leaves if (at := jax.tree_util.keystr(path)) in known}
        averages, weight = _measure(rule, timing, known, {at: own.average for at, own in held.items()}, state)
        solutions = _solve(rule, timing, averages, {at: own.solution for at, own in held.items()}, state)

        def renew(path: Any, own: LayerCurvature) -> LayerCurvature:
            at = jax.tree_util.keystr(path)
            return LayerCurvature(averages[at], solutions[at]) if at in known else own

        layers = jax.tree_util.tree_map_with_path(renew, state.layers, is_leaf=_is_layer)
        passed, rest = matching.update_fallback(updates, state.fallback, params, {"statistics": statistics, **extra})

        def direction(path: Any, g: Array, own: Any, other: Array) -> Array:
            layer = known.get(jax.tree_util.keystr(path))
            result = other if layer is None else _precondition(rule, own.solution, g, layer)
            return jnp.where(state.step < timing.burn_in, 0, result) if timing.burn_in else result

        new = jax.tree_util.tree_map_with_path(direction, updates, layers, passed)
        step = state.step + 1
        return new, CurvatureState(step, _is_measured(timing, step, weight), weight, layers, rest)

    return transformation(None, start, update)


def reads_statistics(state: Any) -> Bool[Array, ""]:
    """Whether the next update reads its statistics: in any of the layerwise optimizers of a state of optax.

    Raises:
        ValueError: there is none.
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, CurvatureState))
    found = [leaf.measures for leaf in leaves if isinstance(leaf, CurvatureState)]
    if not found:
        raise ValueError(
            "reads_statistics needs the state of an optimizer that measures layers, such as kfac or foof, got a state "
            f"without one: {jax.tree.structure(state)}"
        )
    return jnp.stack(found).any()


def accumulator(leaf: Array) -> Any:
    """The dtype of averages: float32, and float64 for parameters of float64."""
    return jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32


def _measure(
    rule: LayerRule, timing: Timing, known: dict[str, LayerStatistics], averages: dict[str, Any], state: CurvatureState
) -> tuple[dict[str, Any], Array]:
    """The averages and their weight with this batch, if it is to be measured and is finite."""
    decay = jnp.asarray(timing.decay, state.weight.dtype)
    after = decay * state.weight + (1 - decay)
    gain = (1 - decay) / after
    if timing.burn_in:
        early = state.step < timing.burn_in
        gain = jnp.where(early, 1 / (state.step + 1).astype(gain.dtype), gain)
        after = jnp.where(early, jnp.ones_like(after), after)

    def measure(averages: dict[str, Any], weight: Array) -> tuple[dict[str, Any], Array]:
        with jax.default_matmul_precision("highest"):
            new = {at: rule.measure(known[at], jax.tree.leaves(old)[0].dtype) for at, old in averages.items()}
        seen = jax.tree.leaves((new, [layer.output_grads for layer in known.values()]))
        finite = jnp.stack([jnp.isfinite(x).all() for x in seen]).all() if seen else True

        def mix(old: Any, x: Any) -> Any:
            # An average of zeros has not been measured yet: its first batch counts whole, however late it comes.
            fresh = jnp.stack([(part == 0).all() for part in jax.tree.leaves(old)]).all()
            share = jnp.where(fresh, jnp.ones_like(gain), gain)
            return jax.tree.map(lambda a, b: jnp.where(finite, a + share.astype(b.dtype) * (b - a), a), old, x)

        return {at: mix(old, new[at]) for at, old in averages.items()}, jnp.where(finite, after, weight)

    if timing.collect == timing.period:
        return measure(averages, state.weight)
    due = _is_measured(timing, state.step, state.weight)
    return jax.lax.cond(due, measure, lambda *old: old, averages, state.weight)


def _is_measured(timing: Timing, step: Array, weight: Array) -> Array:
    """Whether the update after `step` others reads its statistics."""
    if timing.collect == timing.period:
        return jnp.bool_(True)
    since = jnp.maximum(step - timing.burn_in, 0)
    return ((-since) % timing.period < timing.collect) | (weight == 0) | (step < timing.burn_in)


def _solve(
    rule: LayerRule, timing: Timing, averages: dict[str, Any], solutions: dict[str, Any], state: CurvatureState
) -> dict[str, Any]:
    """Solve again where a period begins, or where nothing has been solved yet."""

    def solve(averages: dict[str, Any], solutions: dict[str, Any]) -> dict[str, Any]:
        renewed = {}
        for at, old in solutions.items():
            new = rule.solve(averages[at])
            finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(new)]).all()
            renewed[at] = jax.tree.map(functools.partial(jnp.where, finite), new, old)
        return renewed

    if timing.period == 1 and not timing.burn_in:
        return solve(averages, solutions)
    since = state.step - timing.burn_in
    due = (since >= 0) & ((since % timing.period == 0) | (state.weight == 0))
    return jax.lax.cond(due, solve, lambda averages, solutions: solutions, averages, solutions)


def _is_layer(x: Any) -> bool:
    return isinstance(x, LayerCurvature)


def _precondition(rule: LayerRule, solution: Any, g: Array, layer: LayerStatistics) -> Array:
    dtype = accumulator(g)
    examples, rows = layer.inputs.shape[0], math.prod(layer.inputs.shape[:-1])
    if g is layer.gradient and rows < layer.layout.outputs:  # a product with the factors is smaller than with g
        a, e = (x.reshape(rows, x.shape[-1]).astype(dtype) for x in (layer.inputs, layer.output_grads))
        with jax.default_matmul_precision("highest"):
            matrix = rule.from_factors(solution, a, e / examples)
    else:
        with jax.default_matmul_precision("highest"):
            matrix = rule.precondition(solution, layer.layout.to_matrix(g.astype(dtype)))
    return layer.layout.from_matrix(matrix).astype(g.dtype)
