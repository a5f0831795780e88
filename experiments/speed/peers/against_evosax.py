"""PES and NRES of evosax (Lange 2022, arXiv 2212.04180) and ours on the same two problems, to be timed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.speed._timed_cases import Case, count_temporaries, outer_case
from metalearn.gradients import low_rank, nres, pes
from metalearn.inner import scan_steps, start
from metalearn.learner import inner_loop
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_tasks.datasets import load
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data
from metalearn_tasks.systems.lorenz import START, lorenz

__all__ = ["against_evosax"]


def evosax_case(name: str, strategy: Any, loop: Any, theta: Any, data: Any, window: int, steps_per_call: int) -> Case:
    """A windowed strategy of evosax around our inner loop, in one compiled scan."""
    began = time.process_time()
    particles = strategy.population_size
    params = strategy.default_params.replace(T=loop.length, K=window)

    def step(carry: Any, i: Any) -> Any:
        state, inner, keys = carry
        key = jax.random.fold_in(jax.random.key(1), i)
        t = state.inner_step_counter
        population, state = strategy.ask(key, state, params)

        def fresh() -> Any:  # antithetic particles on the same trajectory
            new = jax.random.split(jax.random.fold_in(key, 1), particles // 2)
            new = jnp.concatenate([new, new])
            return jax.vmap(lambda theta, k: start(loop, theta, data, k))(population, new), new

        inner, keys = jax.lax.cond(t == 0, fresh, lambda: (inner, keys))

        def unrolled(theta: Any, inner: Any, k: Any) -> Any:
            inner, losses, _ = scan_steps(loop, theta, inner, t, window, k, data)
            return inner, losses.mean()

        inner, losses = jax.vmap(unrolled)(population, inner, keys)
        state, _ = strategy.tell(key, population, losses, state, params)
        return (state, inner, keys), losses.mean()

    def call(carry: Any, i: Any) -> Any:
        return jax.lax.scan(step, carry, i * steps_per_call + jnp.arange(steps_per_call))

    keys = jax.random.split(jax.random.key(2), particles)
    inner = jax.vmap(lambda k: start(loop, theta, data, k))(keys)
    state = jax.tree.map(jnp.asarray, strategy.init(jax.random.key(3), theta, params))
    carry = jax.tree.map(lambda a: jnp.array(a, copy=True), (state, inner, keys))  # nothing is donated twice
    held: list[Any] = [carry, 0]
    compiled = jax.jit(call, donate_argnums=0).lower(held[0], 0).compile()

    def advance() -> None:
        held[0], losses = compiled(held[0], held[1])
        held[1] += 1
        jax.block_until_ready(losses)

    advance()
    first = time.process_time() - began
    return Case(name, advance, particles * window * steps_per_call, first, count_temporaries(compiled))


def against_evosax() -> list[tuple[str, list[Case]]]:
    """The comparisons: PES and NRES on the Lorenz system and on an LSTM in-context learner.

    Raises:
        ModuleNotFoundError: evosax is not installed.
    """
    from evosax.algorithms import NoiseReuseES, PersistentES

    digits = load("digits", pca=16)
    tasks = projected(digits.inputs, digits.classes, ProjectedConfig(length=20))
    learner = lstm(tasks.signature, LSTMConfig(hidden=64))
    problems = {
        "Lorenz, 400 particles, windows of 100": (lorenz(), jnp.asarray(START), (), 400, 100),
        "LSTM learner, 64 particles, windows of 5": (
            inner_loop(learner, tasks),
            learner.init(jax.random.key(0)),
            projected_data(*digits.train),
            64,
            5,
        ),
    }
    found = []
    for problem, (loop, theta, data, particles, window) in problems.items():
        for ours, theirs in ((pes, PersistentES), (nres, NoiseReuseES)):
            make = partial(ours, loop, 0.04, particles // 2, window, stagger=False)
            strategy = theirs(particles, theta, optax.adam(1e-3), optax.constant_schedule(0.04))
            cases = [
                outer_case("metalearn, dense noise", make(), theta, data, particles * window, 20),
                evosax_case("evosax", strategy, loop, theta, data, window, 20),
            ]
            if window == 5:  # the theta with matrices
                rank_1 = make(noise=low_rank(1))
                cases.append(outer_case("metalearn, rank-1 noise", rank_1, theta, data, particles * window, 20))
            found.append((f"{ours.__name__.upper()}: {problem}", cases))
    return found
