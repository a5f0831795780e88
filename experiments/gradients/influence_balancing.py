"""Influence balancing: which estimators see past a short-term gain (Tallec & Ollivier 2017, arXiv 1702.05043).

The setting is that of PES (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835) and ES-Single, here called NRES (Vicol
2023, arXiv 2304.11153). A linear system of 23 variables runs without end, and its one parameter is updated after every
step. Raising the parameter lowers the loss for 40 steps and raises it forever after, so truncated estimators go the
wrong way. Theta is judged by the loss after 500 steps from a fresh start; float32 keeps this loss from falling much
below 1e-12. Truncated ES has exactly the bias of truncated backpropagation (TBPTT).

The system is linear. If the noise of NRES is never redrawn, NRES equals exact forward mode (RTRL) with its learning
rate multiplied by the mean of eps^2 over its pairs. With 2 pairs this factor varies widely, as the second panel shows.

    python -m experiments influence_balancing            # a picture and a table, under a minute on two cores
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from experiments.gradients._comparison import (
    Contender,
    Trace,
    compare_estimators,
    draw_traces,
    format_runs,
    select_estimators,
    summarise_traces,
)
from experiments.suite.results import write_result
from metalearn.gradients import nres, pes, rtrl, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.outer import outer_loop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_tasks.systems.influence import START, final_loss, influence_balancing

ENDLESS = 1_000_000_000
"""Length of a trajectory that no run reaches the end of."""


@dataclass(frozen=True)
class InfluenceBalancingConfig:
    """Unbiased and truncated estimators on influence balancing."""

    pairs: int = 500
    """Antithetic pairs of PES, NRES and truncated ES; half of N in the papers."""
    few: int = 2
    """Pairs of NRES in the second panel."""
    sigma: float = 0.1
    """Standard deviation of perturbations."""
    learning_rate: float = 1e-4
    """Learning rate of SGD."""
    updates: int = 3000
    """Updates per run. Each uses one new step of the system, or 10 and 100 for the longer truncations."""
    every: int = 50
    """Updates between two points of a curve."""
    seeds: int = 5
    """Runs per estimator."""
    many_seeds: int = 64
    """Runs of NRES with few pairs."""
    estimators: tuple[str, ...] = ()
    """Names of the estimators to run, as in the table; empty: all."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/influence_balancing")
    """Folder for the picture and the table."""


PRESETS = {"standard": InfluenceBalancingConfig()}


def contenders(config: InfluenceBalancingConfig) -> dict[str, Contender]:
    """The contenders by name."""
    loop, sgd = influence_balancing(), optax.sgd(config.learning_rate)
    es = {"sigma": config.sigma, "pairs": config.pairs, "window": 1, "horizon": ENDLESS, "stagger": False}
    estimators = {
        "PES": pes(loop, **es),
        "NRES": nres(loop, **es),
        "RTRL": rtrl(loop, 1, 1, ENDLESS, stagger=False),
        "truncated ES": truncated_es(loop, **es),
        **{f"TBPTT-{w}": truncated_backprop(loop, 1, w, ENDLESS, stagger=False) for w in (1, 10, 100)},
    }
    return {name: Contender(estimator, sgd, config.updates) for name, estimator in estimators.items()}


def theta_after(
    estimator: Estimator, rates: Float[Array, "S"], updates: int, keys: Key[Array, "S"]
) -> Float[Array, "S"]:
    """Theta after `updates` updates of plain SGD, with one learning rate per run."""

    def grad(theta: Any, state: Any, rate: Array, key: Any, outer_step: Array) -> tuple[Any, Any, Any]:
        gradient, state, metrics = estimator.grad(theta, state, (), key, outer_step)
        return rate * gradient, state, metrics

    loop = outer_loop(estimator._replace(grad=grad), optax.sgd(1.0), steps_per_call=updates)

    def one(rate: Array, key: PRNGKeyArray) -> Array:
        return loop.step(loop.init(jnp.array(START), (), key), rate)[0].theta

    return jax.jit(jax.vmap(one))(rates, keys)


class FewPairs(NamedTuple):
    """NRES with a few perturbations that are never redrawn, beside RTRL with a multiplied learning rate.

    Attributes:
        multiplier: mean of eps^2 / sigma^2 of each seed.
        loss: last loss of each seed.
        rates: multiples of the learning rate.
        exact: last loss of RTRL at each multiple.
    """

    multiplier: Float[np.ndarray, "S"]
    loss: Float[np.ndarray, "S"]
    rates: Float[np.ndarray, "M"]
    exact: Float[np.ndarray, "M"]


def run_with_few_pairs(config: InfluenceBalancingConfig) -> FewPairs:
    """Last loss of NRES with few pairs, against the mean of its eps^2."""
    loop = influence_balancing()
    frozen = nres(loop, config.sigma, config.few, 1, ENDLESS, stagger=False)
    exact = rtrl(loop, 1, 1, ENDLESS, stagger=False)
    loss = jax.jit(jax.vmap(final_loss))
    keys = jax.random.split(jax.random.key(config.seed), config.many_seeds)
    ones = jnp.ones(config.many_seeds)
    # The first gradient of NRES is the exact one times the mean of eps^2 / sigma^2
    first = START - theta_after(frozen, ones, 1, keys)
    multiplier = first / jax.grad(lambda theta: final_loss(theta, 1))(jnp.array(START))
    rates = jnp.geomspace(0.01, 10, 121)
    last = loss(theta_after(frozen, config.learning_rate * ones, config.updates, keys))
    curve = loss(
        theta_after(exact, config.learning_rate * rates, config.updates, jnp.broadcast_to(keys[0], rates.shape))
    )
    return FewPairs(*(np.asarray(a, np.float64) for a in (multiplier, last, rates, curve)))


def run(config: InfluenceBalancingConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run all estimators; returns what result.json holds: last losses with intervals over seeds, and curves."""
    start = time.monotonic()
    runs = select_estimators(contenders(config), config.estimators)
    traces = compare_estimators(runs, jnp.array(START), final_loss, config.seeds, config.seed, config.every, progress)
    few = run_with_few_pairs(config)
    picture = config.out / "influence_balancing.png"
    draw(traces, few, 2 * config.few, picture)
    result = {
        "runs": summarise_traces(traces),
        "few_pairs": few._asdict(),
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(picture),
    }
    return write_result(config.out, result)


def draw(traces: Mapping[str, Trace], few: FewPairs, particles: int, path: Path) -> None:
    """Draw the curves of all estimators, and NRES with few particles."""
    figure, (left, right) = new_figure(columns=2, width=4.6)
    draw_traces(left, traces)
    left.set_ylabel("loss after 500 steps with theta fixed")
    left.set_ylim(1e-14, 1e6)
    left.legend(loc="lower left", fontsize=8, frameon=False)
    draw_few_pairs(right, few, particles)
    save(figure, path)


def draw_few_pairs(ax: Any, few: FewPairs, particles: int) -> None:
    """Draw last losses against the mean of eps^2; diverged runs lie on the upper edge."""
    top, bottom = 1e6, 1e-14

    def clip(a: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
        return np.clip(np.where(np.isfinite(a), a, np.inf), bottom, top)

    ax.plot(few.rates, clip(few.exact), color="0.5", linewidth=1.2, label="RTRL, learning rate times x")
    ax.plot(few.multiplier, clip(few.loss), "o", markersize=4, alpha=0.6, label=f"NRES, {particles} particles")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(bottom, 2 * top)
    ax.set_xlim(few.rates[0], few.rates[-1])
    ax.set_xlabel("mean of eps² / sigma² over the pairs")
    ax.set_ylabel("loss after the last update")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.08), fontsize=8, frameon=False)


def format_result(result: Mapping[str, Any]) -> str:
    """The table of last losses."""
    table = format_runs(result["runs"], "loss after 500 steps with theta fixed")
    return f"{table}\npicture: {result['picture']} ({result['seconds']} s)"
