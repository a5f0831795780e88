"""How fast are the evolution strategies, on one core: against evosax, against dense noise, and in inner steps a second.

Three comparisons:

- evosax: PES and NRES of evosax (Lange 2022, arXiv 2212.04180) and ours on the same problems, in lock-step as evosax
  needs it: the Lorenz system (2 parameters) and the LSTM in-context learner. evosax leaves the inner state to its user;
  here it is kept as well as we know how, and many outer steps are one dispatch for both.
- noise: one update of full ES on the LSTM learner of width 256 by 64 particles: rank-1 noise from keys against dense
  noise, drawn anew and stored.
- optimizers: PES on learned optimizers: 16 tasks x 2 signs x 50 steps of an MLP 64-32-10 on digits, batch 64. On a like
  core google/learned_optimization does 5,700 (MLP optimizer) and 6,000 (small_fc) inner steps a second, and its first
  step costs 13 and 17 CPU seconds.

    python -m experiments estimator_speed          # two to three minutes, most of them compiling
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

Part = Literal["evosax", "noise", "optimizers"]


@dataclass(frozen=True)
class EstimatorSpeedConfig:
    """What to time, and how often."""

    parts: tuple[Part, ...] = ("evosax", "noise", "optimizers")
    """Comparisons to make."""
    turns: int = 7
    """Times each case is timed, in turn with the others of its comparison; the fastest counts."""
    json: bool = False
    """Print one JSON object as the last line."""


@dataclass
class Case:
    """Something to time.

    Attributes:
        name: shown.
        advance: does `work` units and waits for them.
        work: inner steps x particles in one `advance`.
        first: CPU seconds of the first `advance`, compilation included.
        memory: bytes of temporary memory, as XLA plans it.
    """

    name: str
    advance: Callable[[], Any]
    work: float
    first: float = 0.0
    memory: int = 0


def outer_case(name: str, estimator: Any, theta: Any, data: Any, work: float, steps_per_call: int) -> Case:
    """An estimator in the outer loop with Adam."""
    import jax
    import optax

    from metalearn.outer import outer_loop

    began = time.process_time()
    loop = outer_loop(estimator, optax.adam(1e-3), steps_per_call)
    held = [loop.init(theta, data, jax.random.key(0))]
    step: Any = loop.step
    compiled = step.lower(held[0], data).compile()

    def advance() -> None:
        held[0], metrics = compiled(held[0], data)
        jax.block_until_ready(metrics)

    advance()
    return Case(name, advance, work * steps_per_call, time.process_time() - began, temporaries(compiled))


def evosax_case(name: str, strategy: Any, loop: Any, theta: Any, data: Any, window: int, steps_per_call: int) -> Case:
    """A windowed strategy of evosax around our inner loop, in one compiled scan."""
    import jax
    import jax.numpy as jnp

    from metalearn.inner import scan_steps, start

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
    return Case(name, advance, particles * window * steps_per_call, first, temporaries(compiled))


def temporaries(compiled: Any) -> int:
    """Bytes that a compiled function needs beside its arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def against_evosax() -> list[tuple[str, list[Case]]]:
    """PES and NRES on two problems."""
    import jax
    import optax
    from evosax.algorithms import NoiseReuseES, PersistentES

    from metalearn.gradients import low_rank, nres, pes
    from metalearn.learner import inner_loop
    from metalearn_models.learners.lstm import LSTMConfig, lstm
    from metalearn_tasks.datasets import load
    from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data
    from metalearn_tasks.systems.lorenz import START, lorenz

    digits = load("digits", pca=16)
    tasks = projected(digits.inputs, digits.classes, ProjectedConfig(length=20))
    learner = lstm(tasks.signature, LSTMConfig(hidden=64))
    problems = {
        "Lorenz, 400 particles, windows of 100": (lorenz(), jax.numpy.asarray(START), (), 400, 100),
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


def with_stored_noise(loop: Any, sigma: float, pairs: int) -> Any:
    """Full ES whose dense perturbations lie in its state, drawn once and for all: only to be timed."""
    import jax
    import jax.numpy as jnp

    from metalearn.gradients import Estimator, dense
    from metalearn.gradients import _pairs as shared
    from metalearn.gradients.es import as_it_is
    from metalearn.gradients.windows import renewed, stopped

    pop = shared.population(loop, sigma, pairs, None, None, dense, 1, False, as_it_is)

    def init(theta: Any, data: Any, key: Any) -> Any:
        eps = jax.vmap(lambda k: dense.draw(theta, k))(jax.random.split(key, pairs))
        return stopped(pairs, key), eps

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Any) -> Any:
        clock, eps = state
        _, clock = renewed(pop.cut, clock, key, outer_step)
        sigmas = jnp.full(pairs, sigma)
        inner = shared.begin(pop, theta, eps, sigmas, clock, data)
        _, shown = shared.advance(pop, theta, eps, sigmas, inner, clock, data)
        gradient = dense.mean(eps, shown.delta / sigma)
        return gradient, (shared.after_window(pop, clock, shown.finite), eps), shared.report(shown)

    return Estimator(init, grad, pairs, shared.finish)


def against_dense_noise() -> list[tuple[str, list[Case]]]:
    """Rank-1 noise from keys first, then dense noise drawn anew, then dense noise that lies in memory."""
    import jax

    from metalearn.gradients import full_es, low_rank
    from metalearn.learner import inner_loop
    from metalearn_models.learners.lstm import LSTMConfig, lstm
    from metalearn_tasks.datasets import load
    from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data

    digits = load("digits", pca=16)
    tasks = projected(digits.inputs, digits.classes, ProjectedConfig(length=16))
    learner = lstm(tasks.signature, LSTMConfig(hidden=256))
    loop, theta, data = inner_loop(learner, tasks), learner.init(jax.random.key(0)), projected_data(*digits.train)
    estimators = {
        "rank 1, from keys": full_es(loop, 0.05, 32, noise=low_rank(1)),
        "dense, from keys": full_es(loop, 0.05, 32),
        "dense, stored": with_stored_noise(loop, 0.05, 32),
    }
    cases = [outer_case(name, estimator, theta, data, 64 * 16.0, 1) for name, estimator in estimators.items()]
    return [("full ES, LSTM learner of width 256, 16 examples, 64 particles", cases)]


def learned_optimizers() -> list[tuple[str, list[Case]]]:
    """PES on the learned optimizers, in inner steps a second."""
    import jax

    from metalearn.gradients import pes
    from metalearn_models.optimizers import mlp_optimizer, small_fc
    from metalearn_tasks.datasets import load
    from metalearn_tasks.objectives.classification import mlp_classification
    from metalearn_tasks.objectives.training import training_loop

    digits = load("digits")
    objective, data = mlp_classification(64, 32, 10, batch=64), digits.train
    found = []
    for name, optimizer in (("MLP, 1,762 meta-parameters", mlp_optimizer()), ("small_fc, 197", small_fc())):
        loop, theta = training_loop(objective, optimizer, 1000), optimizer.init(jax.random.key(0))
        estimator = pes(loop, 0.01, 16, 50, stagger=True)
        found.append((f"PES, {name}", [outer_case("metalearn", estimator, theta, data, 16 * 2 * 50.0, 1)]))
    return found


PARTS: dict[Part, Callable[[], list[tuple[str, list[Case]]]]] = {
    "evosax": against_evosax,
    "noise": against_dense_noise,
    "optimizers": learned_optimizers,
}


def main(config: EstimatorSpeedConfig, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Time every case of every part on one core.

    Args:
        config: what to time.
        report: gets a line for each finished comparison.

    Returns:
        By comparison, by case: `rate` (inner steps x particles a second in the fastest turn), `first` (CPU seconds
        until the first call is done), `memory` (bytes of temporaries), `ratio` (time over that of the first case).
    """
    if config.turns < 1:
        raise ValueError(f"turns must be at least 1, got {config.turns}")
    found: dict[str, Any] = {}
    for part in config.parts:
        try:
            comparisons = PARTS[part]()
        except ModuleNotFoundError as error:
            report(f"no {error.name} here, {part} is left out: pip install 'metalearn[evosax]'")
            continue
        for title, cases in comparisons:
            seconds = {case.name: [] for case in cases}
            for _ in range(config.turns):
                for case in cases:
                    began = time.perf_counter()
                    case.advance()
                    seconds[case.name].append(time.perf_counter() - began)
            best = {name: min(times) for name, times in seconds.items()}
            found[title] = {
                case.name: {
                    "rate": case.work / best[case.name],
                    "ratio": best[case.name] / best[cases[0].name] * cases[0].work / case.work,
                    "first": case.first,
                    "memory": case.memory,
                }
                for case in cases
            }
            report(table({title: found[title]}))
    return found


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = []
    for title, cases in found.items():
        lines.append(f"{title:<64} {'steps/s':>12} {'time x':>7} {'first, CPU s':>13} {'memory, MB':>11}")
        for name, row in cases.items():
            lines.append(
                f"    {name:<60} {row['rate']:>12,.0f} {row['ratio']:>7.2f} {row['first']:>13.1f}"
                f" {row['memory'] / 1e6:>11.1f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    # One core, and no pool that would hand every product over to its one thread; before JAX counts the cores.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    import tyro

    command = tyro.cli(EstimatorSpeedConfig, description=__doc__)
    result = main(command, lambda line: print(line, flush=True))
    if command.json:
        print(json.dumps(result))
