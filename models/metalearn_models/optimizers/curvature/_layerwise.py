"""What all optimizers that precondition layer by layer do: averages, periods, and parameters that are no kernels.

A rule says what it measures of a layer, what it solves from the average of these measurements, and how the solution
preconditions a gradient. When they are measured and solved, what happens to a batch that is not finite, and who updates
the other parameters, is decided here for all rules.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from metalearn_models.optimizers.curvature.layers import KernelLayout, LayerStatistics, standard_layout
from metalearn_models.optimizers.frame import transformation

__all__ = ["CurvatureState", "LayerCurvature", "LayerRule", "Timing", "check_positive", "layerwise"]


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
        weight: weight of all batches in the averages; 0 before the first.
        layers: like params, a `LayerCurvature` per layer and None for other parameters.
        fallback: state of the optimizer of the other parameters.
    """

    step: Int[Array, ""]
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
        ValueError: a number is out of its range.
    """
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
    """Check a constant that is a Python number; a traced one is not checked.

    Raises:
        ValueError: it is not positive and finite.
    """
    if isinstance(value, int | float) and not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def layerwise(
    name: str,
    rule: LayerRule,
    timing: Timing,
    fallback: optax.GradientTransformation | None,
    layers: Mapping[str, KernelLayout] | None,
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation from a rule for one layer.

    Args:
        name: of the optimizer, for messages.
        rule: what it does with a layer.
        timing: when.
        fallback: what updates parameters without statistics. None: their gradients are passed on unchanged.
        layers: path and layout of the kernels. None: every parameter of two or more axes is one, and its last axis
            gives the outputs.

    Returns:
        The transformation. Its `update` reads `statistics`.
    """
    other = optax.with_extra_args_support(optax.identity() if fallback is None else fallback)

    def layout_of(path: Any, leaf: Any) -> KernelLayout | None:
        if layers is not None:
            return layers.get(jax.tree_util.keystr(path))
        return standard_layout(leaf.shape) if leaf.ndim > 1 else None

    def start(params: Any) -> CurvatureState:
        def begin(path: Any, leaf: Array) -> LayerCurvature | None:
            layout = layout_of(path, leaf)
            if layout is None:
                return None
            if layout.shape != leaf.shape:
                raise _wrong_layer(name, path, f"layers says shape {layout.shape}", leaf.shape)
            average = rule.zeros(layout, accumulator(leaf))
            return LayerCurvature(average, rule.solve(average))

        if layers is not None:
            _say_fallback(name, params, layers)
        state = jax.tree_util.tree_map_with_path(begin, params)
        rest = params if layers is None else _without(params, layers)
        dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in jax.tree.leaves(state)) else jnp.float32
        return CurvatureState(jnp.int32(0), jnp.zeros((), dtype), state, other.init(rest))

    def update(
        updates: Any, state: CurvatureState, params: Any = None, *, statistics: Any = None, **extra: Any
    ) -> tuple[Any, CurvatureState]:
        known = _matching(name, updates, state.layers, statistics, layers, layout_of)
        averages, weight = _measure(rule, timing, known, state)
        curvature = _solve(rule, timing, averages, state)
        moved = (state.step >= timing.burn_in) if timing.burn_in else None

        def direction(path: Any, g: Array, own: Any, rest: Any) -> Array:
            at = jax.tree_util.keystr(path)
            result = _precondition(rule, own.solution, g, known[at]) if at in known else rest
            return result if moved is None else jnp.where(moved, result, jnp.zeros_like(result))

        seen = updates if layers is None else _without(updates, layers)
        held = params if layers is None or params is None else _without(params, layers)
        passed, rest = other.update(seen, state.fallback, held, statistics=statistics, **extra)
        paths = {jax.tree_util.keystr(path): u for path, u in jax.tree_util.tree_leaves_with_path(passed)}
        passed = jax.tree_util.tree_map_with_path(lambda path, g: paths.get(jax.tree_util.keystr(path), g), updates)
        new = jax.tree_util.tree_map_with_path(direction, updates, curvature, passed)
        return new, CurvatureState(state.step + 1, weight, curvature, rest)

    return transformation(None, start, update)


def accumulator(leaf: Array) -> Any:
    """The dtype of averages: float32, and float64 for parameters of float64."""
    return jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32


def _measure(
    rule: LayerRule, timing: Timing, known: dict[str, LayerStatistics], state: CurvatureState
) -> tuple[Any, Array]:
    """The averages and their weight with this batch, if it is to be measured and is finite."""
    decay = jnp.asarray(timing.decay, state.weight.dtype)
    after = decay * state.weight + (1 - decay)
    gain = (1 - decay) / after
    if timing.burn_in:
        early = state.step < timing.burn_in
        gain = jnp.where(early, 1 / (state.step + 1).astype(gain.dtype), gain)
        after = jnp.where(early, jnp.ones_like(after), after)

    def measured(state: CurvatureState) -> tuple[Any, Array]:
        fine = [jnp.array(True)]

        def mix(path: Any, own: LayerCurvature) -> LayerCurvature:
            layer = known.get(jax.tree_util.keystr(path))
            if layer is None:
                return own
            dtypes = [x.dtype for x in jax.tree.leaves(own.average)]
            new = rule.measure(layer, dtypes[0])
            fine.extend(jnp.isfinite(x).all() for x in (*jax.tree.leaves(new), layer.output_grads))
            return own._replace(
                average=jax.tree.map(lambda old, x: old + gain.astype(x.dtype) * (x - old), own.average, new)
            )

        layers = jax.tree_util.tree_map_with_path(mix, state.layers, is_leaf=lambda x: isinstance(x, LayerCurvature))
        finite = jnp.stack(fine).all()
        keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
        return jax.tree.map(keep, layers, state.layers), keep(after, state.weight)

    since = jnp.maximum(state.step - timing.burn_in, 0)
    collects = ((-since) % timing.period < timing.collect) | (state.weight == 0) | (state.step < timing.burn_in)
    if timing.collect == timing.period:
        return measured(state)
    return jax.lax.cond(collects, measured, lambda state: (state.layers, state.weight), state)


def _solve(rule: LayerRule, timing: Timing, layers: Any, state: CurvatureState) -> Any:
    """Solve again where a period begins, or where nothing has been solved yet."""

    def solved(layers: Any) -> Any:
        def again(own: LayerCurvature) -> LayerCurvature:
            new = rule.solve(own.average)
            finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(new)]).all()
            return own._replace(solution=jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, own.solution))

        return jax.tree.map(again, layers, is_leaf=lambda x: isinstance(x, LayerCurvature))

    if timing.period == 1 and not timing.burn_in:
        return solved(layers)
    since = state.step - timing.burn_in
    due = (since >= 0) & ((since % timing.period == 0) | (state.weight == 0))
    return jax.lax.cond(due, solved, lambda layers: layers, layers)


def _precondition(rule: LayerRule, solution: Any, g: Array, layer: LayerStatistics) -> Array:
    dtype = accumulator(g)
    examples, rows = layer.inputs.shape[0], math.prod(layer.inputs.shape[:-1])
    if g is layer.gradient and rows < layer.layout.outputs:  # a product with the factors is smaller than with g
        a, e = (x.reshape(rows, x.shape[-1]).astype(dtype) for x in (layer.inputs, layer.output_grads))
        matrix = rule.from_factors(solution, a, e / examples)
    else:
        matrix = rule.precondition(solution, layer.layout.to_matrix(g.astype(dtype)))
    return layer.layout.from_matrix(matrix).astype(g.dtype)


def _matching(
    name: str, updates: Any, layers: Any, statistics: Any, given: Any, layout_of: Callable[[Any, Any], Any]
) -> dict[str, LayerStatistics]:
    """The statistics of the layers among the updates."""
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    wanted = {jax.tree_util.keystr(p): (p, layout) for p, x in leaves if (layout := layout_of(p, x)) is not None}
    if not wanted:
        return {}
    if statistics is None:
        raise ValueError(
            f"{name} reads layer statistics: call update(grads, state, params, statistics=statistics) with what "
            "value_grad_and_statistics(loss_fn) returns, got statistics=None"
        )
    known = {at: statistics[at] for at in wanted if at in statistics}
    if statistics and not known:
        raise ValueError(
            f"{name} got the statistics of another model: they are of {', '.join(sorted(statistics))}, and the "
            f"parameters are {', '.join(wanted)}"
        )
    for at, layer in known.items():
        path, layout = wanted[at]
        if layer.layout != layout:
            advice = "" if given is not None else "; pass layers=find_layers(loss_fn, params, ...)"
            raise _wrong_layer(name, path, f"its statistics are of {layer.layout}", layout, advice)
    if given is None:
        _say_fallback(name, updates, known)
    return known


def _say_fallback(name: str, params: Any, known: Mapping[str, Any]) -> None:
    """Name the matrices that are updated by the fallback; Python shows an equal warning once."""
    missed = [
        f"params{jax.tree_util.keystr(path)} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if leaf.ndim > 1 and jax.tree_util.keystr(path) not in known
    ]
    if missed:
        warnings.warn(f"{name} updates these by its fallback, having no statistics: {', '.join(missed)}", stacklevel=2)


def _wrong_layer(name: str, path: Any, got: str, right: Any, advice: str = "") -> ValueError:
    at = jax.tree_util.keystr(path)
    return ValueError(f"{name} cannot read the layer at params{at}: {got}, and the parameter has {right}{advice}")


def _without(tree: Any, layers: Mapping[str, KernelLayout]) -> Any:
    return jax.tree_util.tree_map_with_path(lambda p, x: None if jax.tree_util.keystr(p) in layers else x, tree)
