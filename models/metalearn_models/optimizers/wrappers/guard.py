"""Guards: a learned optimizer where it helps, a hand-designed one with its convergence guarantee where it does not.

Premont-Schwarz, Vitku and Feyereisl 2022, "A simple guard for learned optimizers" (arXiv 2201.12426): LGL2O takes the
better of the two candidates by their loss on fresh data. Heaton, Chen, Wang and Yin 2020, "Safeguarded learned convex
optimization" (arXiv 2003.01880): GL2O takes the learned candidate where the guard's own step from it is short enough.

Either part is any optax transformation, such as `optimizer.transform(theta, num_steps)`; `guarded` makes a learned
optimizer of it, to meta-train under the guard. Both parts see every gradient, and both memories go on whichever is
chosen. Choices are not differentiable: a gradient with respect to theta sees the chosen updates only, and is NaN where
a rejected one was; evolution strategies have neither trouble.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from metalearn.errors import unknown_name
from metalearn_models.optimizers.contract import LearnedOptimizer, check_params, require_params

OnFallback = Literal["keep", "reset"]
"""What becomes of the learned part's memory where the guard was chosen: it goes on, or starts afresh."""


class GuardState(NamedTuple):
    """What a guarded optimizer remembers.

    Attributes:
        learned: the learned part's memory.
        guard: the guard's.
        bound: mu of GL2O, the running length of the guard's step; 0 in LGL2O.
        fallbacks: how often the guard was chosen.
        step: choices made so far.
    """

    learned: Any
    guard: Any
    bound: Float[Array, ""]
    fallbacks: Int[Array, ""]
    step: Int[Array, ""]


class Rounds(NamedTuple):
    """LGL2O that chooses after several steps of each part.

    Attributes:
        init: `(params) -> GuardState`.
        round: `(params, state, batches, fresh) -> (params, state, losses[2])`, the losses of the learned and of
            the guard's candidate on the fresh batches.
    """

    init: Callable[[optax.Params], GuardState]
    round: Callable[[optax.Params, GuardState, Any, Any], tuple[optax.Params, GuardState, Float[Array, "2"]]]


def lgl2o(
    learned: optax.GradientTransformation, guard: optax.GradientTransformation, on_fallback: OnFallback = "keep"
) -> optax.GradientTransformationExtraArgs:
    """Loss-guarded learned optimization, one step of each part between choices.

    The learned candidate is taken where it is finite and its loss is smaller than that of the guard's candidate, or the
    guard's is not finite; ties go to the guard. A gradient that is not finite leaves no good candidate: the guard's
    is taken. A choice is only as good as its judge: on a noisy quadratic the final loss was up to 1.7 times that of
    the better part with one fresh batch, and within 5 per cent with 16. In a training loop:

        loss, grads = jax.value_and_grad(f)(params, batch)
        fresh = lambda params: f(params, another_batch)
        updates, state = optimizer.update(grads, state, params, value=loss, value_fn=fresh)

    Args:
        learned: the learned part.
        guard: the guard, such as `optax.sgd(0.1)`; convergence is proven for gradient descent.
        on_fallback: what becomes of the learned part's memory where the guard is chosen. Memory that is not finite
            starts afresh in any case, or the learned part could never be chosen again.

    Returns:
        The transformation. `update` needs `params` and `value_fn`, `(params) -> loss` on data that neither candidate
        has seen, a mean over as many batches as one likes (n_c of the paper); other arguments go to both parts.

    Raises:
        ValueError: when `on_fallback` is unknown; by `update`, when params or `value_fn` are missing.
    """
    parts = _parts(learned, guard, on_fallback)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, *, value_fn: Any = None, **extra: Any
    ) -> tuple[optax.Updates, GuardState]:
        params, value_fn = require_params(params), _require("lgl2o", value_fn)
        (ours, learned_memory), (guards, guard_memory) = parts.step(updates, state, params, extra)
        losses = _losses(value_fn, optax.apply_updates(params, ours), optax.apply_updates(params, guards))
        accepted = _finite(ours) & _better(losses)
        state = parts.after(accepted, params, learned_memory, guard_memory, state, state.bound)
        return _where(accepted, ours, guards), state

    return optax.GradientTransformationExtraArgs(parts.start, update)


def gl2o(
    learned: optax.GradientTransformation,
    guard: optax.GradientTransformation,
    factor: float = 0.99,
    mixing: float = 0.25,
    on_fallback: OnFallback = "keep",
) -> optax.GradientTransformationExtraArgs:
    """Guarded learned optimization: the learned candidate is taken where the guard has little left to do.

    It is taken where it is finite and the guard's step S from it has `|S| <= factor mu`; then
    `mu' = mixing |S| + (1 - mixing) mu` (the paper's moving average; with `mixing=1`, its recent term). mu starts as
    the length of the guard's first step. Else the guard's own candidate is taken. A bound on S bounds what is left to
    minimise only where the guard is `x - S(x)` with a fixed S, such as `optax.sgd` without momentum on a fixed loss; a
    step of Adam is about as long anywhere, and guards against nothing.

    Args:
        learned: the learned part.
        guard: the guard.
        factor: a of the paper, in [0, 1); the default is ours.
        mixing: theta of the paper, in (0, 1]; the default is ours.
        on_fallback: as in `lgl2o`.

    Returns:
        The transformation. `update` needs `params` and `value_fn`, `(params) -> loss`, whose gradient is taken at the
        learned candidate; other arguments go to both parts.

    Raises:
        ValueError: when an argument is out of its range; by `update`, when params or `value_fn` are missing.
    """
    if not (0 <= factor < 1 and 0 < mixing <= 1):
        raise ValueError(f"gl2o needs factor in [0, 1) and mixing in (0, 1], got factor={factor}, mixing={mixing}")
    parts = _parts(learned, guard, on_fallback)

    def update(
        updates: optax.Updates, state: Any, params: Any = None, *, value_fn: Any = None, **extra: Any
    ) -> tuple[optax.Updates, GuardState]:
        params, value_fn = require_params(params), _require("gl2o", value_fn)
        (ours, learned_memory), (guards, guard_memory) = parts.step(updates, state, params, extra)
        candidate = optax.apply_updates(params, ours)
        loss, grads = jax.value_and_grad(value_fn)(candidate)
        left, _ = parts.guard.update(grads, state.guard, candidate, **(extra | {"value": loss}))
        bound = jnp.where((state.step == 0) | ~jnp.isfinite(state.bound), _length(guards), state.bound)
        length = _length(left)
        accepted = _finite(ours) & (length <= factor * bound)  # not where the length is NaN
        bound = jnp.where(accepted, mixing * length + (1 - mixing) * bound, bound)
        state = parts.after(accepted, params, learned_memory, guard_memory, state, bound)
        return _where(accepted, ours, guards), state

    return optax.GradientTransformationExtraArgs(parts.start, update)


def lgl2o_rounds(
    learned: optax.GradientTransformation,
    guard: optax.GradientTransformation,
    loss: Callable[[optax.Params, Any], Float[Array, ""]],
    on_fallback: OnFallback = "keep",
) -> Rounds:
    """Loss-guarded learned optimization, several steps of each part between choices.

    From a common point both parts train on the same n_t batches, each by the gradients of its own path; the better of
    the two end points, by the mean loss on n_c fresh batches, is the next common point. One batch a round makes
    it `lgl2o`. A round costs n_t gradients and n_c losses of each part.

    Args:
        learned: the learned part; gets `value=` at each step.
        guard: the guard; the same.
        loss: `(params, batch) -> loss`.
        on_fallback: as in `lgl2o`.

    Returns:
        `init` and `round`; n_t and n_c are the leading axes of the batches that a round is given.

    Raises:
        ValueError: when `on_fallback` is unknown.
    """
    parts = _parts(learned, guard, on_fallback)

    def train(transform: Any, memory: Any, params: Any, batches: Any) -> tuple[Any, Any]:
        def body(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
            params, memory = carry
            value, grads = jax.value_and_grad(loss)(params, batch)
            updates, memory = transform.update(grads, memory, params, value=value)
            return (optax.apply_updates(params, updates), memory), None

        return jax.lax.scan(body, (params, memory), batches)[0]

    def step(params: optax.Params, state: GuardState, batches: Any, fresh: Any) -> Any:
        ours, learned_memory = train(parts.learned, state.learned, params, batches)
        guards, guard_memory = train(parts.guard, state.guard, params, batches)
        losses = _losses(lambda p: jax.lax.map(lambda batch: loss(p, batch), fresh).mean(), ours, guards)
        accepted = _finite(ours) & _better(losses)
        state = parts.after(accepted, params, learned_memory, guard_memory, state, state.bound)
        return _where(accepted, ours, guards), state, losses

    return Rounds(parts.start, step)


def guarded(
    optimizer: LearnedOptimizer,
    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformationExtraArgs],
) -> LearnedOptimizer:
    """A learned optimizer under a guard, with the same theta.

    Args:
        optimizer: any learned optimizer.
        wrap: the guard around its transformation, such as `lambda learned: lgl2o(learned, optax.sgd(0.1))`.
    """

    def transform(theta: Any, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        return wrap(optimizer.transform(theta, num_steps))

    return LearnedOptimizer(optimizer.init, transform)


class _Parts(NamedTuple):
    """The two parts, in strict promotion as well, and what all guards do with them."""

    learned: optax.GradientTransformationExtraArgs
    guard: optax.GradientTransformationExtraArgs
    on_fallback: OnFallback

    def start(self, params: optax.Params) -> GuardState:
        check_params(params)
        zero = jnp.int32(0)
        return GuardState(self.learned.init(params), self.guard.init(params), jnp.float32(0), zero, zero)

    def step(self, grads: Any, state: GuardState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        return (
            self.learned.update(grads, state.learned, params, **extra),
            self.guard.update(grads, state.guard, params, **extra),
        )

    def after(
        self, accepted: Bool[Array, ""], params: Any, learned: Any, guard: Any, old: GuardState, bound: Any
    ) -> GuardState:
        keep = _finite(learned) & (accepted if self.on_fallback == "reset" else True)
        learned = _where(keep, learned, self.learned.init(params))
        return GuardState(learned, guard, bound, old.fallbacks + (~accepted).astype(jnp.int32), old.step + 1)


def _parts(learned: Any, guard: Any, on_fallback: OnFallback) -> _Parts:
    if on_fallback not in get_args(OnFallback):
        raise unknown_name("on_fallback", on_fallback, get_args(OnFallback))
    return _Parts(_standard(learned), _standard(guard), on_fallback)


def _standard(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    transform = optax.with_extra_args_support(transform)

    def init(params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            return transform.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def _require(name: str, value_fn: Any) -> Any:
    if value_fn is None:
        raise ValueError(
            f"{name} judges candidates: call update(grads, state, params, value_fn=...) with a function (params) -> "
            "loss on fresh data, got None"
        )
    return value_fn


def _losses(value_fn: Callable[[Any], Array], ours: Any, guards: Any) -> Float[Array, "2"]:
    return jnp.stack([value_fn(ours), value_fn(guards)])


def _better(losses: Float[Array, "2"]) -> Bool[Array, ""]:
    return jnp.isfinite(losses[0]) & ((losses[0] < losses[1]) | ~jnp.isfinite(losses[1]))


def _finite(tree: Any) -> Bool[Array, ""]:
    inexact = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(x).all() for x in inexact)]).all()


def _length(updates: Any) -> Float[Array, ""]:
    return jnp.sqrt(sum((jnp.square(x.astype(jnp.float32)).sum() for x in jax.tree.leaves(updates)), jnp.float32(0)))


def _where(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
