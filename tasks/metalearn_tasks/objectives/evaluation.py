"""How well an optimizer trains: loss curves over many runs, and hand-designed optimizers at their best learning rate.

Runs with one key see the same problem, start and batches whatever the optimizer, so that curves can be compared run by
run. A run whose loss was ever NaN or infinite counts as infinitely bad.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from metalearn.inner import unroll
from metalearn_models.optimizers.contract import LearnedOptimizer
from metalearn_tasks.objectives.objective import Objective
from metalearn_tasks.objectives.training import training_loop


class Tuned(NamedTuple):
    """A hand-designed optimizer at every learning rate that was tried.

    Attributes:
        rates: the learning rates, ascending.
        final: final loss of each rate and run; infinite where the run diverged.
        best: the number of the rate with the least mean final loss. A rate at which one run diverged is never better
            than one at which none did; where every rate had such a run, it is 0.
        curves: losses of the runs at the best rate, as they are.
    """

    rates: Float[np.ndarray, " R"]
    final: Float[np.ndarray, "R K"]
    best: int
    curves: Float[np.ndarray, "K T"]

    @property
    def rate(self) -> float:
        """The best learning rate."""
        return float(self.rates[self.best])

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is the least or the largest tried: a better one may lie beyond."""
        return self.best in (0, len(self.rates) - 1)


def hand_designed(make: Callable[[Any], optax.GradientTransformation], learning_rate: float = 1e-3) -> LearnedOptimizer:
    """An optax optimizer whose only meta-parameter is its learning rate.

    Args:
        make: `(learning_rate) -> transformation`, as in `lambda rate: optax.sgd(rate, momentum=0.9)`. It is given a
            traced scalar.
        learning_rate: what `init` returns.

    Returns:
        An optimizer; theta is the learning rate, a scalar.
    """

    def init(key: PRNGKeyArray) -> Float[Array, ""]:
        del key  # nothing is random
        return jnp.float32(learning_rate)

    def transform(theta: Any, num_steps: int | None = None) -> optax.GradientTransformationExtraArgs:
        del num_steps
        inner = optax.with_extra_args_support(make(theta))

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            with jax.numpy_dtype_promotion("standard"):  # optax counts on it
                return inner.update(updates, state, params, **extra)

        return optax.GradientTransformationExtraArgs(inner.init, update)

    return LearnedOptimizer(init, transform)


def loss_curves(
    objective: Objective, optimizer: LearnedOptimizer, theta: Any, data: Any, keys: Key[Array, " K"], length: int
) -> Float[Array, "K T"]:
    """Train once for every key.

    Args:
        objective: what to minimise. Like the optimizer it is hashed: a second call with the same objects and shapes
            does not compile again.
        optimizer: what to train by.
        theta: its meta-parameters.
        data: of the objective.
        keys: one a run.
        length: T, steps of a run.

    Returns:
        The loss on each step's batch before its update, as it is.

    Raises:
        ValueError: when `length` is not positive.
    """
    return _curves(objective, optimizer, length, theta, data, keys)


def final_losses(curves: Float[np.ndarray | Array, "*K T"], last: int | None = None) -> Float[np.ndarray, "*K"]:
    """The mean over the last steps of each run; infinite where any loss of the run was NaN or infinite.

    Args:
        curves: losses, the last axis the steps.
        last: how many steps count; None: a tenth of them, and at least one.

    Returns:
        The final loss of each run, in float64.

    Raises:
        ValueError: when `last` is not between 1 and T.
    """
    losses = np.asarray(curves, np.float64)
    last = _last(losses.shape[-1], last)
    with np.errstate(invalid="ignore"):  # infinities of either sign add up to NaN, which is not kept
        means = losses[..., -last:].mean(-1)
    return np.where(np.isfinite(losses).all(-1), means, np.inf)


def tuned(
    objective: Objective,
    optimizer: LearnedOptimizer,
    rates: Sequence[float] | Float[np.ndarray, " R"],
    data: Any,
    keys: Key[Array, " K"],
    length: int,
    last: int | None = None,
) -> Tuned:
    """Train at every learning rate from every key, all in one compiled program.

    Args:
        objective: what to minimise.
        optimizer: one whose theta is its learning rate; see `hand_designed`.
        rates: learning rates to try.
        data: of the objective.
        keys: one a run; the same for every rate.
        length: T, steps of a run.
        last: how many steps at the end make the final loss; see `final_losses`.

    Returns:
        All final losses, and the best rate.

    Raises:
        ValueError: when there is no rate or one that is not positive and finite, or two are equal; or when `length` or
            `last` is out of range.
    """
    ascending = np.unique(np.asarray(rates, np.float64))
    if ascending.size == 0 or ascending.size != np.size(rates):
        raise ValueError(f"a sweep needs at least one learning rate and each only once, got {list(rates)}")
    if not (np.isfinite(ascending).all() and ascending[0] > 0):
        raise ValueError(f"learning rates are positive and finite, got {list(rates)}")
    last = _last(length, last) if length > 0 else None  # the training loop refuses other lengths
    losses = np.asarray(_swept(objective, optimizer, length, jnp.asarray(ascending, jnp.float32), data, keys))
    final = final_losses(losses, last)
    best = int(np.argmin(final.mean(1)))
    return Tuned(ascending, final, best, losses[best])


def _last(length: int, last: int | None) -> int:
    last = max(1, length // 10) if last is None else last
    if not 1 <= last <= length:
        raise ValueError(f"a final loss is the mean of 1 to {length} steps, got last={last}")
    return last


@partial(jax.jit, static_argnums=(0, 1, 2))
def _curves(
    objective: Objective, optimizer: LearnedOptimizer, length: int, theta: Any, data: Any, keys: Key[Array, " K"]
) -> Float[Array, "K T"]:
    return unroll(training_loop(objective, optimizer, length), theta, data, keys, length)[0]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _swept(
    objective: Objective, optimizer: LearnedOptimizer, length: int, rates: Array, data: Any, keys: Key[Array, " K"]
) -> Float[Array, "R K T"]:
    return jax.vmap(lambda rate: _curves(objective, optimizer, length, rate, data, keys))(rates)
