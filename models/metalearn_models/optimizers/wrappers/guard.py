"""What all guards share: a learned optimizer beside a hand-designed one with a convergence guarantee, the guard.

`lgl2o` and `gl2o` choose between the two at each step. Either part is any optax transformation, such as
`optimizer.transform(theta, num_steps)`; `guard_optimizer` makes a learned optimizer of the two, to meta-train it under
the guard. Both parts see every gradient, and both memories continue whichever part is chosen.

The choice is not differentiable. A gradient with respect to theta sees only the chosen updates, and is NaN if a
rejected update was NaN. Evolution strategies have neither problem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from metalearn.errors import unknown_name
from metalearn_models.optimizers.contract import LearnedOptimizer, check_params
from metalearn_models.optimizers.frame import copy_shared, transformation

__all__ = ["ON_FALLBACK", "GuardParts", "GuardState", "guard_optimizer"]

ON_FALLBACK = ("keep", "reset")
"""What happens to the learned part's memory when the guard is chosen: it continues, or starts afresh."""


class GuardState(NamedTuple):
    """What a guarded optimizer remembers.

    Attributes:
        learned: memory of the learned part.
        guard: memory of the guard.
        bound: mu of GL2O, the running length of the guard's step; 0 in LGL2O.
        fallbacks: how often the guard was chosen.
        step: number of choices so far.
    """

    learned: Any
    guard: Any
    bound: Float[Array, ""]
    fallbacks: Int[Array, ""]
    step: Int[Array, ""]


def guard_optimizer(
    optimizer: LearnedOptimizer,
    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformationExtraArgs],
) -> LearnedOptimizer:
    """A learned optimizer under a guard, with the same theta.

    Args:
        optimizer: any learned optimizer.
        wrap: puts the guard around its transformation, such as `lambda learned: lgl2o(learned, optax.sgd(0.1))`.
    """

    def transform(theta: Any, num_steps: Any = None) -> optax.GradientTransformationExtraArgs:
        return wrap(optimizer.transform(theta, num_steps))

    return optimizer._replace(transform=transform)


class GuardParts(NamedTuple):
    """The two parts of a guarded optimizer, and what every guard does with them; see `guard_parts`."""

    learned: optax.GradientTransformationExtraArgs
    guard: optax.GradientTransformationExtraArgs
    on_fallback: str

    def init(self, params: optax.Params) -> GuardState:
        """The state before the first choice.

        Raises:
            TypeError: a parameter is not floating-point.
        """
        check_params(params)
        parts = self.learned.init(params), self.guard.init(params)
        return copy_shared(GuardState(*parts, jnp.float32(0), jnp.int32(0), jnp.int32(0)), params)

    def propose(self, grads: Any, state: GuardState, params: Any, extra: dict[str, Any]) -> tuple[Any, Any]:
        """One step of each part: `(updates, memory)` of the learned part and of the guard."""
        return (
            self.learned.update(grads, state.learned, params, **extra),
            self.guard.update(grads, state.guard, params, **extra),
        )

    def next_state(
        self, accepted: Bool[Array, ""], params: Any, learned: Any, guard: Any, old: GuardState, bound: Any
    ) -> GuardState:
        """The state after a choice.

        Memory of the learned part that is not finite starts afresh: otherwise that part could never be chosen again.

        Args:
            accepted: whether the learned part was chosen.
            params: the parameters, for a fresh memory of the learned part.
            learned: memory of the learned part after its step.
            guard: memory of the guard after its step.
            old: the state before.
            bound: the new bound.
        """
        keep = is_finite(learned) & (accepted if self.on_fallback == "reset" else True)
        learned = select(keep, learned, self.learned.init(params))
        return GuardState(learned, guard, bound, old.fallbacks + (~accepted).astype(jnp.int32), old.step + 1)


def guard_parts(
    learned: optax.GradientTransformation, guard: optax.GradientTransformation, on_fallback: str
) -> GuardParts:
    """The two parts, made to work under strict dtype promotion as well.

    Raises:
        UnknownNameError: `on_fallback` is neither "keep" nor "reset".
    """
    if on_fallback not in ON_FALLBACK:
        raise unknown_name("on_fallback", on_fallback, ON_FALLBACK)
    return GuardParts(_promote(learned), _promote(guard), on_fallback)


def _promote(transform: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    transform = optax.with_extra_args_support(transform)

    def init(params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            return transform.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params, **extra)

    return transformation(None, init, update)


def require_value_fn(name: str, value_fn: Any) -> Callable[[Any], Array]:
    """The loss that judges candidates.

    Raises:
        ValueError: it is missing; by the loss: its value is not one number.
    """
    if value_fn is None:
        raise ValueError(
            f"{name} compares two candidates: call update(grads, state, params, value_fn=...) with a function (params) "
            "-> loss on fresh data, got value_fn=None"
        )

    def judge(params: Any) -> Array:
        value = value_fn(params)
        if isinstance(value, tuple | list | dict) or jnp.shape(value) != ():
            what = type(value).__name__ if isinstance(value, tuple | list | dict) else f"shape {jnp.shape(value)}"
            raise ValueError(
                f"{name} needs a value_fn that returns the loss as one number, got {what}: of a function that returns "
                "(loss, aux), pass lambda params: f(params)[0]"
            )
        return jnp.asarray(value)

    return judge


def is_finite(tree: Any) -> Bool[Array, ""]:
    """Whether every floating-point number in the tree is finite."""
    inexact = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
    return jnp.stack([jnp.array(True), *(jnp.isfinite(x).all() for x in inexact)]).all()


def select(condition: Bool[Array, ""], a: Any, b: Any) -> Any:
    """`a` if the condition holds, else `b`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)
