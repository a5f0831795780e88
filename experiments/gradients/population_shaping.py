"""Do ranks and z-scores of the population lead down faster than raw differences of losses, on a sphere?

Evolution strategies on `|theta|^2` in many dimensions, from `theta = 1`: raw differences of the losses, centred ranks
and z-scores of this library, and `Open_ES` of evosax (Lange 2022, arXiv 2212.04180) with its default, centred ranks.
All have the same population, sigma and Adam. Each gets the learning rate of the grid with which it reaches the level
first on a seed of its own, or else has the lowest last loss there; other seeds are reported. The population loss is the
mean over all particles. It never falls below that of the perturbations alone, `sigma^2` times the dimension.

Verdict, written before the first run: a shaping is ahead if the interval of its generations to reach the level, over
those of raw differences, lies below 1 (Student's t over seeds, of the logarithm), and behind if it lies above 1. The
level is a hundredth of the loss at the start, above the loss of the perturbations.

    python -m experiments population_shaping          # a picture and a table
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from experiments.suite.results import write_result
from metalearn.gradients import centred_ranks, full_es, z_scores
from metalearn.inner import InnerLoop
from metalearn.intervals import half_width
from metalearn.outer import outer_loop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress

RAW, EVOSAX = "raw differences", "evosax Open_ES, its default"
SHAPINGS: dict[str, Any] = {RAW: None, "centred ranks": centred_ranks, "z-scores": z_scores}


@dataclass(frozen=True)
class PopulationShapingConfig:
    """Shapings of losses on a sphere."""

    dimension: int = 10_000
    """Parameters."""
    pairs: int = 64
    """Antithetic pairs, half the population."""
    sigma: float = 0.1
    """Standard deviation of the perturbations."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    """Learning rates of Adam to choose from."""
    generations: int = 1500
    """Generations per run."""
    seeds: int = 3
    """Runs that are reported, beside the one that the rate is chosen on."""
    evosax: bool = True
    """Also run evosax, which must be installed."""
    out: Path = Path("runs/population_shaping")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": PopulationShapingConfig(),
    "quick": PopulationShapingConfig(dimension=1000, pairs=32, generations=400),
}


def sphere() -> InnerLoop:
    """One step, whose loss is the square of theta."""

    def step(theta: Any, state: Any, t: Array, key: Any, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        del t, key, data
        return state, jnp.square(theta).sum(), {}

    return InnerLoop(lambda theta, data, key: jnp.zeros(()), step, None, 1)


def ours(config: PopulationShapingConfig, shaping: Any) -> Callable[[float, int], Float[np.ndarray, "G"]]:
    """`(rate, seed) -> population loss of each generation` with a shaping of this library; one program for all."""
    estimator = full_es(sphere(), config.sigma, config.pairs, shaping=shaping)
    rated = optax.inject_hyperparams(optax.adam)(learning_rate=1.0)
    loop = outer_loop(estimator, rated, config.generations)

    def run(rate: float, seed: int) -> Float[np.ndarray, "G"]:
        state = loop.init(jnp.ones(config.dimension), (), jax.random.key(seed))
        state.optimizer.hyperparams["learning_rate"] = jnp.float32(rate)
        return np.asarray(loop.step(state, ())[1]["loss"], np.float64)

    return run


def theirs(config: PopulationShapingConfig) -> Callable[[float, int], Float[np.ndarray, "G"]]:
    """The same with evosax, its whole loop compiled too.

    Raises:
        ModuleNotFoundError: evosax is not installed.
    """
    from evosax.algorithms import Open_ES

    @jax.jit
    def run(rate: Array, key: Any) -> Array:
        theta = jnp.ones(config.dimension)
        strategy = Open_ES(2 * config.pairs, theta, optimizer=optax.adam(rate), std_schedule=lambda _: config.sigma)
        params = strategy.default_params

        def generation(state: Any, key: Any) -> Any:
            population, state = strategy.ask(key, state, params)
            losses = jnp.square(population).sum(1)
            return strategy.tell(key, population, losses, state, params)[0], losses.mean()

        keys = jax.random.split(key, config.generations)
        return jax.lax.scan(generation, strategy.init(key, theta, params), keys)[1]

    return lambda rate, seed: np.asarray(run(jnp.float32(rate), jax.random.key(seed)), np.float64)


def run(config: PopulationShapingConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Choose a rate for each contender, run the seeds; returns what result.json holds."""
    began, floor = time.monotonic(), config.sigma**2 * config.dimension
    level = config.dimension / 100 + floor
    contenders = {name: ours(config, shaping) for name, shaping in SHAPINGS.items()}
    if config.evosax:
        contenders[EVOSAX] = theirs(config)
    rows: dict[str, Any] = {}
    for name, contender in contenders.items():
        tried = {rate: contender(rate, 0) for rate in config.rates}
        rate = min(tried, key=lambda rate: float(np.nan_to_num(tried[rate][-1], nan=np.inf)))
        curves = np.stack([contender(rate, 1 + seed) for seed in range(config.seeds)])
        reached = [int(np.argmax(c <= level)) + 1 if (c <= level).any() else None for c in curves]
        rows[name] = {
            "rate": rate,
            "curves": curves[:, ::10].tolist(),
            "last": curves[:, -1].tolist(),
            "reached": reached,
        }
        if progress is not None:
            progress.note(f"{name}: rate {rate:g}, level reached after {reached} generations")
    for name in rows:
        rows[name] |= {"ratio": _ratio(rows[name]["reached"], rows[RAW]["reached"])}
    picture = config.out / "population_shaping.png"
    draw(rows, level, floor, picture)
    seconds = round(time.monotonic() - began, 1)
    return write_result(config.out, {"runs": rows, "level": level, "seconds": seconds, "picture": str(picture)})


def _reached(curve: Float[np.ndarray, "G"], level: float) -> int | None:
    """The first generation, counted from 1, whose loss is at most the level; None: there is none."""
    return int(np.argmax(curve <= level)) + 1 if (curve <= level).any() else None


def _merit(curve: Float[np.ndarray, "G"], level: float) -> tuple[float, float]:
    """What a learning rate is chosen by; smaller is better."""
    return _reached(curve, level) or np.inf, float(np.nan_to_num(curve[-1], nan=np.inf))


def _ratio(reached: list[int | None], raw: list[int | None]) -> dict[str, float] | None:
    """Generations over those of raw differences: geometric mean over seeds and interval; None: not all reached it."""
    if None in reached or None in raw:
        return None
    logs = np.log(np.array(reached, np.float64) / np.array(raw, np.float64))
    mean, half = float(logs.mean()), float(half_width(logs))
    return {"mean": float(np.exp(mean)), "low": float(np.exp(mean - half)), "high": float(np.exp(mean + half))}


def draw(rows: Mapping[str, Any], level: float, floor: float, path: Path) -> None:
    """Draw the population loss of each contender: the mean over seeds."""
    figure, (ax,) = new_figure()
    for name, row in rows.items():
        curve = np.mean(row["curves"], 0)
        style = "--" if name == EVOSAX else "-"
        ax.plot(10 * np.arange(len(curve)) + 1, curve, style, linewidth=1.6, label=f"{name}, rate {row['rate']:g}")
    ax.axhline(level, color="0.4", linewidth=0.9, linestyle=":", label="level")
    ax.axhline(floor, color="0.7", linewidth=0.9, linestyle=":", label="perturbations alone")
    ax.set_yscale("log")
    ax.set_xlabel("generation")
    ax.set_ylabel("mean loss of the population")
    ax.legend(fontsize=7, frameon=False)
    save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """The table: the rate, the generations to the level of each seed, and their ratio to raw differences."""
    lines = [
        f"{'':<28}{'rate':>8}  {'generations to ' + format(result['level'], '.4g'):<26}over those of raw differences"
    ]
    for name, row in result["runs"].items():
        ratio = row["ratio"]
        text = (
            "not always reached" if ratio is None else f"{ratio['mean']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        )
        if ratio is not None and name != RAW:
            text += ": ahead" if ratio["high"] < 1 else ": behind" if ratio["low"] > 1 else ": open"
        reached = ", ".join("never" if r is None else str(r) for r in row["reached"])
        lines.append(f"{name:<28}{row['rate']:>8g}  {reached:<26}{text}")
    return "\n".join([*lines, f"picture: {result['picture']} ({result['seconds']} s)"])
