"""Tasks that are regenerated from their number, so that any number of them costs no memory.

The scheme of GPICL's official code (Kirsch et al. 2022, arXiv 2212.04458): a task's key is folded from its number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PRNGKeyArray

FRESH_TASKS = 2**31 - 1


def numbered_tasks(
    draw: Callable[[Any, PRNGKeyArray], Any],
    num_tasks: int | None,
    seed: int,
    given: Callable[[Any], tuple[ArrayLike | None, ArrayLike | None]] = lambda data: (None, None),
) -> tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any]]:
    """`sample`, `seen` and `unseen` of a `Family` that regenerates a task from its number and stores none.

    Task i is `draw(data, fold_in(key(seed), uint32(i)))`. Meta-training draws i uniformly below `num_tasks`; the
    unseen tasks are those of negative i, so the two never share a key.

    Args:
        draw: `(data, key) -> task`.
        num_tasks: number of meta-training tasks; None: 2^31 - 1, so always a new one, and no `seen`.
        seed: names the tasks.
        given: `(data) -> (num_tasks, seed)`, an int32 and a uint32 that take the place of the two above, each None
            where it does not. They are inputs of a compiled program, not constants in it, so programs that differ
            only in them are one. A number of tasks that comes with the data is not checked, and makes no `seen`.

    Returns:
        `sample(data, key)`, `seen(data, index)`, which wraps around at `num_tasks`, `unseen(data, index)`.

    Raises:
        ValueError: for a number of tasks below 1 or above 2^31 - 1.
    """
    if num_tasks is not None and not 1 <= num_tasks <= FRESH_TASKS:
        raise ValueError(f"num_tasks must lie between 1 and 2^31 - 1, or be none, got {num_tasks}")

    def count(data: Any) -> Any:
        number, _ = given(data)
        return (num_tasks or FRESH_TASKS) if number is None else number

    def numbered(data: Any, number: Array) -> Any:
        _, name = given(data)
        key = jax.random.key(seed if name is None else name)
        return draw(data, jax.random.fold_in(key, number.astype(jnp.uint32)))

    return (
        lambda data, key: numbered(data, jax.random.randint(key, (), 0, count(data))),
        None if num_tasks is None else lambda data, index: numbered(data, jnp.asarray(index, jnp.int32) % count(data)),
        lambda data, index: numbered(data, -1 - jnp.asarray(index, jnp.int32)),
    )
