"""What `experiments.speed.estimators` times: a case is a compiled function that does some work when it is called."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import optax

from metalearn.outer import local_mesh, outer_loop

__all__ = ["Case", "count_temporaries", "outer_case"]


@dataclass
class Case:
    """Something to time.

    Attributes:
        name: for the table.
        advance: does `work` units of work and returns when they are done.
        work: inner steps x particles per call of `advance`.
        first: CPU seconds of the first `advance`, compilation included.
        memory: bytes of temporary memory that XLA plans.
    """

    name: str
    advance: Callable[[], Any]
    work: float
    first: float = 0.0
    memory: int = 0


def outer_case(name: str, estimator: Any, theta: Any, data: Any, work: float, steps_per_call: int) -> Case:
    """An estimator in the outer loop with Adam, over the local devices, compiled and called once."""
    began = time.process_time()
    loop = outer_loop(estimator, optax.adam(1e-3), steps_per_call, local_mesh(estimator.batch))
    held = [loop.init(theta, data, jax.random.key(0))]
    step: Any = loop.step
    compiled = step.lower(held[0], data).compile()

    def advance() -> None:
        held[0], metrics = compiled(held[0], data)
        jax.block_until_ready(metrics)

    advance()
    return Case(name, advance, work * steps_per_call, time.process_time() - began, count_temporaries(compiled))


def count_temporaries(compiled: Any) -> int:
    """Bytes that a compiled function needs besides its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes
