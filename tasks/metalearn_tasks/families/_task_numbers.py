"""Tasks that are regenerated from their number, so that any number of tasks needs no memory.

The key of a task is folded from its number, as in GPICL's official code (Kirsch et al. 2022, arXiv 2212.04458).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray

__all__ = ["FRESH_TASKS", "numbered_tasks"]

FRESH_TASKS = 2**31 - 1
"""Number of meta-training tasks if it is not limited: then practically every task is a new one."""


def numbered_tasks(
    draw: Callable[[Any, PRNGKeyArray], Any],
    num_tasks: int | None,
    seed: int,
    given: Callable[[Any], tuple[ArrayLike | None, ArrayLike | None]] = lambda data: (None, None),
) -> tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any]]:
    """Make `sample`, `seen` and `unseen` of a `Family` that regenerates each task from its number.

    Task i is `draw(data, fold_in(key(seed), uint32(i)))`. Meta-training draws i uniformly below `num_tasks`. The unseen
    tasks have negative i, so seen and unseen tasks never share a key.

    Args:
        draw: `(data, key) -> task`.
        num_tasks: number of meta-training tasks. None: 2^31 - 1, so practically always a new task, and no `seen`.
        seed: names the tasks.
        given: `(data) -> (num_tasks, seed)`, an int32 and a uint32 that replace the two arguments above; None: not
            replaced. As data they are inputs of a compiled program instead of constants in it, so that families that
            differ only in them share one program. This number of tasks is not checked, and does not make a `seen`.

    Returns:
        `sample(data, key)`; `seen(data, index)`, which wraps around at `num_tasks`; `unseen(data, index)`.

    Raises:
        ValueError: a number of tasks below 1 or above 2^31 - 1.
    """
    if num_tasks is not None and not 1 <= num_tasks <= FRESH_TASKS:
        raise ValueError(f"num_tasks must be between 1 and 2^31 - 1, or None, got {num_tasks}")

    def count(data: Any) -> Any:
        number, _ = given(data)
        return (num_tasks or FRESH_TASKS) if number is None else number

    def draw_numbered(data: Any, number: Array) -> Any:
        _, name = given(data)
        key = jax.random.key(seed if name is None else name)
        return draw(data, jax.random.fold_in(key, number.astype(jnp.uint32)))

    def sample(data: Any, key: PRNGKeyArray) -> Any:
        return draw_numbered(data, jax.random.randint(key, (), 0, count(data)))

    def seen(data: Any, index: ArrayLike) -> Any:
        return draw_numbered(data, jnp.asarray(index, jnp.int32) % count(data))

    def unseen(data: Any, index: ArrayLike) -> Any:
        return draw_numbered(data, -1 - jnp.asarray(index, jnp.int32))

    return sample, None if num_tasks is None else seen, unseen
