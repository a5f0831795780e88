"""Black-box search for a small theta: any distribution-based strategy of evosax as an outer loop.

evosax: Lange 2022, arXiv 2212.04180. CMA-ES, SNES and related strategies adapt the shape of the distribution that they
sample, which is worth its cost for at most a few hundred meta-parameters (hyperparameters, schedules). They assume that
the fitness of a candidate depends on the candidate alone, and so need whole trajectories; for windows use `nres` or
`pes`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from metalearn.gradients._checks import check_loop
from metalearn.inner import InnerLoop, typed_key, unroll
from metalearn.outer import OuterLoop

__all__ = ["SearchState", "evosax_search"]


class SearchState(NamedTuple):
    """The state of a search between two generations; `metalearn.runs.training.train` drives it like any outer loop.

    Attributes:
        theta: the mean of the distribution.
        strategy: the state of the evosax strategy.
        key: the key of the whole search.
        step: generations done, int32.
    """

    theta: Any
    strategy: Any
    key: PRNGKeyArray
    step: Int[Array, ""]


def evosax_search(
    loop: InnerLoop,
    strategy: Any,
    length: int | None = None,
    *,
    tasks: int = 1,
    steps_per_call: int = 1,
    strategy_params: Any = None,
) -> OuterLoop:
    """Minimise the mean loss over whole trajectories, with one generation per outer step.

    All candidates of a generation meet the same tasks with the same randomness. A candidate with a non-finite loss gets
    the worst finite loss of its generation. If no loss is finite, theta and the strategy stay as they are.

    Args:
        loop: the inner loop.
        strategy: an evosax algorithm such as `evosax.algorithms.CMA_ES(population_size=32, solution=theta)`.
        length: steps of a trajectory; None: `loop.length`.
        tasks: trajectories per candidate, new ones in each generation.
        steps_per_call: generations per dispatch; results are equal up to rounding, see `outer_loop`.
        strategy_params: parameters of the strategy; None: its defaults.

    Returns:
        `(init, step)`, as from `outer_loop`. The metrics are the mean `loss` of the finite candidates, the `best` loss
        of the generation, and the share of candidates `dropped`.

    Raises:
        TypeError: the strategy has a population instead of a distribution.
        ValueError: there is no length, or a number is not positive.
    """
    steps = loop.length if length is None else length
    if steps is None:
        raise ValueError("this inner loop has length=None: pass length=... to evosax_search")
    for name, value in {"length": steps, "tasks": tasks, "steps_per_call": steps_per_call}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not hasattr(strategy, "get_mean"):
        raise TypeError(f"the strategy must have a mean (see evosax.algorithms.distribution_based), got {strategy!r}")
    with _lenient():
        params = strategy.default_params if strategy_params is None else strategy_params

    def init(theta: Any, data: Any, key: PRNGKeyArray) -> SearchState:
        key = typed_key(key)
        check_loop(loop, theta, data, key)
        key_strategy, key_steps = jax.random.split(key)
        theta = jax.tree.map(lambda a: jnp.array(a, jnp.result_type(a), copy=True), theta)
        with _lenient():
            state = strategy.init(key_strategy, theta, params)
        # A copy, so that no array is donated twice.
        state = jax.tree.map(lambda a: jnp.array(a, jnp.result_type(a), copy=True), state)
        return SearchState(theta, state, key_steps, jnp.int32(0))

    def loss_of(theta: Any, data: Any, keys: Key[Array, "tasks"]) -> Float[Array, ""]:
        return unroll(loop, theta, data, keys, steps)[0].mean()

    def generation(state: SearchState, data: Any) -> tuple[SearchState, dict[str, Array]]:
        key_ask, key_tell, key_tasks = jax.random.split(jax.random.fold_in(state.key, state.step), 3)
        with _lenient():
            candidates, asked = strategy.ask(key_ask, state.strategy, params)
        keys = jax.random.split(key_tasks, tasks)
        losses = jax.vmap(lambda theta: loss_of(theta, data, keys))(candidates)
        finite = jnp.isfinite(losses)
        kept = finite.sum().astype(losses.dtype)
        worst = jnp.where(finite, losses, -jnp.inf).max()
        with _lenient():
            updated, _ = strategy.tell(key_tell, candidates, jnp.where(finite, losses, worst), asked, params)
            theta = jax.tree.map(lambda new, old: new.astype(old.dtype), strategy.get_mean(updated), state.theta)
        updated = jax.tree.map(lambda new, old: new.astype(old.dtype), updated, state.strategy)
        theta, updated = jax.tree.map(
            lambda new, old: jnp.where(kept > 0, new, old), (theta, updated), (state.theta, state.strategy)
        )
        metrics = {
            "loss": jnp.where(finite, losses, 0).sum() / kept,
            "best": jnp.where(finite, losses, jnp.inf).min(),
            "dropped": 1 - kept / losses.shape[0],
        }
        return SearchState(theta, updated, state.key, state.step + 1), metrics

    def step(state: SearchState, data: Any) -> tuple[SearchState, dict[str, Array]]:
        return jax.lax.scan(lambda s, _: generation(s, data), state, length=steps_per_call)

    return OuterLoop(init, jax.jit(step, donate_argnums=0))


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    # evosax relies on JAX's default promotions, whatever the caller's settings.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
