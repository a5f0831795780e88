"""How fast are the evolution strategies, on one core: against evosax, against dense noise, in inner steps per second.

Four comparisons:

- evosax: PES and NRES of evosax (Lange 2022, arXiv 2212.04180) and ours on the same problems, in lock-step as evosax
  needs it: the Lorenz system (2 parameters) and the LSTM in-context learner. evosax leaves the inner state to its user;
  here it is kept as well as we know how. For both, many outer steps are one dispatch.
- noise: one update of full ES on the LSTM learner of width 256 by 64 particles. Rank-1 noise from keys is compared with
  dense noise that is drawn anew and with dense noise that is stored.
- optimizers: PES on learned optimizers: 16 tasks x 2 signs x 50 steps of an MLP 64-32-10 on digits, batch 64.
- learned_optimization: the same beside PES of google/learned_optimization, in turn with ours
  (`experiments/speed/peers/against_learned_optimization.py` says what it needs).

    python -m experiments estimator_speed          # two to three minutes, most of them compiling
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments.speed._timed_cases import Case, outer_case
from experiments.speed.peers.against_evosax import against_evosax
from experiments.speed.peers.against_learned_optimization import against_learned_optimization
from experiments.suite.one_core import prepare_process as prepare_process
from metalearn.gradients import Estimator, dense, full_es, low_rank, pes
from metalearn.gradients import _pairs as shared
from metalearn.gradients.estimator import means_over_kept
from metalearn.gradients.windows import initial_clock, restart_ended
from metalearn.learner import inner_loop
from metalearn.runs.progress import Progress
from metalearn_models.learners.lstm import LSTMConfig, lstm
from metalearn_models.optimizers import mlp_optimizer, small_fc
from metalearn_tasks.datasets import load
from metalearn_tasks.families.projected import ProjectedConfig, projected, projected_data
from metalearn_tasks.objectives.classification import mlp_classification
from metalearn_tasks.objectives.training import training_loop

__all__ = ["PRESETS", "EstimatorSpeedConfig", "format_result", "prepare_process", "run"]

Part = Literal["evosax", "noise", "optimizers", "learned_optimization"]


@dataclass(frozen=True)
class EstimatorSpeedConfig:
    """What to time, and how often."""

    parts: tuple[Part, ...] = ("evosax", "noise", "optimizers")
    """Comparisons to make. `learned_optimization` needs a clone of google/learned_optimization on PYTHONPATH."""
    turns: int = 7
    """Times that each case is timed, in turn with the others of its comparison; the fastest counts."""


PRESETS = {"standard": EstimatorSpeedConfig()}


def with_stored_noise(loop: Any, sigma: float, pairs: int) -> Any:
    """Full ES with dense perturbations that are drawn once and kept in its state: only to be timed."""
    pop = shared.make_population(loop, sigma, pairs, None, None, dense, 1, False, None)

    def init(theta: Any, data: Any, key: Any) -> Any:
        eps = jax.vmap(lambda k: dense.draw(theta, k))(jax.random.split(key, pairs))
        return initial_clock(pairs, key), eps

    def grad(theta: Any, state: Any, data: Any, key: Any, outer_step: Any) -> Any:
        clock, eps = state
        _, clock = restart_ended(pop.cut, clock, key, outer_step)
        sigmas = jnp.full(pairs, sigma)
        inner = shared.start_states(pop, theta, eps, sigmas, clock, data)
        _, shown = shared.advance(pop, theta, eps, sigmas, inner, clock, data)
        gradient = dense.mean(eps, shown.delta / sigma)
        return gradient, (shared.advance_clock(pop, clock, shown.finite), eps), shared.metrics_of(shown)

    return Estimator(init, grad, pairs, means_over_kept)


def against_dense_noise() -> list[tuple[str, list[Case]]]:
    """The comparison of rank-1 noise from keys, dense noise drawn anew, and dense noise kept in memory."""
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
    """The comparison of PES on two learned optimizers."""
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
    "learned_optimization": against_learned_optimization,
}


def run(config: EstimatorSpeedConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Time every case of every part.

    Args:
        config: what to time.
        progress: gets a note for each finished comparison, and if evosax is missing.

    Returns:
        By comparison, by case: `rate` (inner steps x particles per second in the fastest turn), `ratio` (time over that
        of the first case), `first` (CPU seconds until the first call is done), `memory` (bytes of temporaries).

    Raises:
        ValueError: there are no turns.
    """
    if config.turns < 1:
        raise ValueError(f"turns must be at least 1, got {config.turns}")
    note = progress.note if progress is not None else lambda text: None
    result: dict[str, Any] = {}
    for part in config.parts:
        try:
            comparisons = PARTS[part]()
        except ModuleNotFoundError as error:
            remedy = (
                "pip install 'metalearn[evosax]'" if part == "evosax" else "see the head of the module of this part"
            )
            note(f"no {error.name} here, {part} is left out: {remedy}")
            continue
        for title, cases in comparisons:
            result[title] = _time_cases(cases, config.turns)
            note(f"done: {title}")
    return result


def _time_cases(cases: list[Case], turns: int) -> dict[str, dict[str, float]]:
    best = {case.name: float("inf") for case in cases}
    for _ in range(turns):
        for case in cases:
            began = time.perf_counter()
            case.advance()
            best[case.name] = min(best[case.name], time.perf_counter() - began)
    return {
        case.name: {
            "rate": case.work / best[case.name],
            "ratio": best[case.name] / best[cases[0].name] * cases[0].work / case.work,
            "first": case.first,
            "memory": case.memory,
        }
        for case in cases
    }


def format_result(result: dict[str, Any]) -> str:
    """A text table per comparison."""
    lines = []
    for title, cases in result.items():
        lines.append(f"{title:<64} {'steps/s':>12} {'time x':>7} {'first, CPU s':>13} {'memory, MB':>11}")
        for name, row in cases.items():
            lines.append(
                f"    {name:<60} {row['rate']:>12,.0f} {row['ratio']:>7.2f} {row['first']:>13.1f}"
                f" {row['memory'] / 1e6:>11.1f}"
            )
    return "\n".join(lines)
