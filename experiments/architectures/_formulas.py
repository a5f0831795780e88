"""The candidates of the loss search as a population: random formulas as tables, trained side by side on digits."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments.architectures._table import digits_problem
from metalearn.inner import InnerLoop
from metalearn.search.population import Search
from metalearn_models.architectures import Candidate, SearchData, feedforward_cell
from metalearn_models.architectures.cell_network import sgd_step
from metalearn_models.losses.formulas import Expr
from metalearn_models.losses.search import table
from metalearn_models.losses.search.evolution import EvolutionConfig, initial_population
from metalearn_models.losses.search.screening import reject, scale


def draw_formulas(candidates: int, seed: int = 14) -> list[Expr]:
    """Different formulas as the first generation of the loss search draws them, of which none is rejected untrained."""
    found: dict[Expr, None] = {}
    for generation in range(1000):
        for formula in initial_population(EvolutionConfig(population=256), seed, generation):
            if reject(table.screening_table(formula, "classification"), "classification") is None:
                found[formula] = None
                if len(found) == candidates:
                    return list(found)
    raise ValueError(f"--candidates must be a number of formulas that pass the screening, at most {len(found)}")


def tabulate(formula: Expr) -> np.ndarray:
    """The gradient of a formula as the loss search trains with it, divided by its mean size."""
    curves = table.screening_table(formula, "classification")
    return table.gradient_cells(curves, "classification", scale(curves, "classification"))


def formulas(candidates: int) -> tuple[Search, Any, Any, Any]:
    """The search, its candidates, its data, and the data with the test examples in place of the validation examples."""
    problem, network = digits_problem(3, ("tanh",), (0.1,), 16, 32), feedforward_cell(64, 10, operations=("tanh",))
    code = jnp.array([0, 0, 1, 0, 2, 0], jnp.int32)
    tables = jnp.asarray(np.stack([tabulate(formula) for formula in draw_formulas(candidates)]), jnp.float32)

    def init(cells: Array, data: SearchData, key: Array) -> Any:
        del cells, data
        return network.init(key)

    def step(cells: Array, params: Any, t: Array, key: Array, data: SearchData) -> tuple[Any, Array, dict[str, Array]]:
        del t
        rows = jax.random.randint(key, (32,), 0, len(data.train.labels))
        x, y = jnp.asarray(data.train.inputs)[rows], jnp.asarray(data.train.labels)[rows]
        logits, pull = jax.vjp(lambda p: network.apply(code, p, x), params)
        (gradient,) = pull(table.classification_cotangent(cells, logits, y) / len(rows))
        return sgd_step(gradient, params, jnp.float32(0.03), math.inf), jnp.float32(0), {}  # a table has no value

    def score(cells: Array, params: Any, data: SearchData) -> Array:
        del cells
        return problem.search.score(Candidate(code, jnp.float32(0)), params, data)

    return Search(InnerLoop(init, step), score), tables, problem.data, problem.tested
