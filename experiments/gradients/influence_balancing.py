"""Influence balancing: which estimators see past a short gain (Tallec & Ollivier 2017, arXiv 1702.05043).

The setting of PES (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835) and ES-Single, here NRES (Vicol 2023, arXiv
2304.11153). A linear system of 23 variables that never ends is updated online: one step, one update. Raising the one
parameter helps for 40 steps and harms for good, so truncated estimators go the wrong way. Theta is judged by the
loss after 500 steps from a fresh start, which float32 keeps from falling much below 1e-12. Truncated ES has exactly
the bias of truncated backpropagation (TBPTT).

On a linear system whose noise is never redrawn, NRES is exact forward mode (RTRL) with its learning rate multiplied by
the mean of eps^2 over its pairs, whatever that happens to be. With 2 pairs that is anything: the second panel.

    python -m experiments influence_balancing            # a picture and a table, under a minute on two cores
    python -m experiments influence_balancing --help
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.gradients._comparison import Contender, chosen, compare, draw_traces, print_table, report
from experiments.suite.results import write_result
from metalearn.gradients import nres, pes, rtrl, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.outer import outer_loop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_tasks.systems.influence import START, final_loss, influence_balancing

ENDLESS = 1_000_000_000
"""Steps of a trajectory that never ends."""


@dataclass(frozen=True)
class InfluenceBalancingConfig:
    """Unbiased and truncated estimators on influence balancing."""

    pairs: int = 500
    """Antithetic pairs of PES, NRES and truncated ES: half of the papers' N."""
    few: int = 2
    """Pairs of NRES in the second panel."""
    sigma: float = 0.1
    """Standard deviation of perturbations."""
    learning_rate: float = 1e-4
    """Of SGD."""
    updates: int = 3000
    """Updates, each from one new step of the system (10 and 100 for the longer truncations)."""
    every: int = 50
    """Updates between two points of a curve."""
    seeds: int = 5
    """Runs of each estimator."""
    many_seeds: int = 64
    """Runs of NRES with few pairs."""
    estimators: tuple[str, ...] = ()
    """Names of those to run, as in the table; none: all."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/influence_balancing")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


def contenders(config: InfluenceBalancingConfig) -> dict[str, Contender]:
    """What is compared, by name."""
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


def theta_after(estimator: Estimator, rates: Float[Array, "S"], updates: int, keys: PRNGKeyArray) -> Float[Array, "S"]:
    """Theta after so many updates of plain SGD, one learning rate a run."""

    def grad(theta: Any, state: Any, rate: Array, key: Any, outer_step: Array) -> tuple[Any, Any, Any]:
        gradient, state, metrics = estimator.grad(theta, state, (), key, outer_step)
        return rate * gradient, state, metrics

    loop = outer_loop(estimator._replace(grad=grad), optax.sgd(1.0), steps_per_call=updates)

    def one(rate: Array, key: PRNGKeyArray) -> Array:
        return loop.step(loop.init(jnp.array(START), (), key), rate)[0].theta

    return jax.jit(jax.vmap(one))(rates, keys)


class FewPairs(NamedTuple):
    """NRES whose few perturbations are never redrawn, beside RTRL with a multiplied learning rate.

    Attributes:
        multiplier: each seed's mean of eps^2 / sigma^2.
        loss: each seed's last.
        rates: multiples of the learning rate.
        exact: last loss of RTRL with each.
    """

    multiplier: Float[np.ndarray, "S"]
    loss: Float[np.ndarray, "S"]
    rates: Float[np.ndarray, "M"]
    exact: Float[np.ndarray, "M"]


def few_pairs(config: InfluenceBalancingConfig) -> FewPairs:
    """What becomes of NRES with few pairs, by the mean of eps^2 it happens to have."""
    loop = influence_balancing()
    frozen = nres(loop, config.sigma, config.few, 1, ENDLESS, stagger=False)
    exact = rtrl(loop, 1, 1, ENDLESS, stagger=False)
    loss = jax.jit(jax.vmap(final_loss))
    keys = jax.random.split(jax.random.key(config.seed), config.many_seeds)
    ones = jnp.ones(config.many_seeds)
    # the first gradient of NRES is the exact one times the mean of eps^2 / sigma^2
    first = START - theta_after(frozen, ones, 1, keys)
    multiplier = first / jax.grad(lambda theta: final_loss(theta, 1))(jnp.array(START))
    rates = jnp.geomspace(0.01, 10, 121)
    last = loss(theta_after(frozen, config.learning_rate * ones, config.updates, keys))
    curve = loss(
        theta_after(exact, config.learning_rate * rates, config.updates, jnp.broadcast_to(keys[0], rates.shape))
    )
    return FewPairs(*(np.asarray(a, np.float64) for a in (multiplier, last, rates, curve)))


def main(config: InfluenceBalancingConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Run all estimators; returns the last losses with intervals over seeds, and the curves."""
    began = time.monotonic()
    runs = chosen(contenders(config), config.estimators)
    traces = compare(runs, jnp.array(START), final_loss, config.seeds, config.seed, config.every, progress)
    few = few_pairs(config)
    figure, (left, right) = new_figure(columns=2, width=4.6)
    draw_traces(left, traces)
    left.set_ylabel("loss after 500 steps with theta fixed")
    left.set_ylim(1e-14, 1e6)
    left.legend(loc="lower left", fontsize=8, frameon=False)
    draw_few(right, few, 2 * config.few)
    save(figure, config.out / "influence_balancing.png")
    result = {
        "runs": report(traces),
        "few_pairs": few._asdict(),
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "influence_balancing.png"),
    }
    return write_result(config.out, result)


def draw_few(ax: Any, few: FewPairs, particles: int) -> None:
    """Last losses against the mean of eps^2; runs that diverged on the upper edge."""
    top, bottom = 1e6, 1e-14
    within = lambda a: np.clip(np.where(np.isfinite(a), a, np.inf), bottom, top)  # noqa: E731
    ax.plot(few.rates, within(few.exact), color="0.5", linewidth=1.2, label="RTRL, learning rate times x")
    ax.plot(few.multiplier, within(few.loss), "o", markersize=4, alpha=0.6, label=f"NRES, {particles} particles")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(bottom, 2 * top)
    ax.set_xlim(few.rates[0], few.rates[-1])
    ax.set_xlabel("mean of eps² / sigma² over the pairs")
    ax.set_ylabel("loss after the last update")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 0.08), fontsize=8, frameon=False)


if __name__ == "__main__":
    command = tyro.cli(InfluenceBalancingConfig, description=__doc__)
    found = main(command, default_progress())
    print_table(found["runs"], "loss after 500 steps with theta fixed")
    print(f"picture: {found['picture']} ({found['seconds']} s)")
    if command.json:
        print(json.dumps(found))
