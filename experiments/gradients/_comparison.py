"""Comparison of gradient estimators: all seeds in one compiled program, curves, a table and their picture.

Each contender is an estimator with the outer optimizer that suits it. Its outer loop is vectorised over seeds and
scanned between two checkpoints, so each contender is compiled once. Seeds whose score is no longer finite are counted
and marked; they are left out of means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from experiments.suite.intervals import finite_interval, format_interval
from experiments.suite.tables import read_interval
from metalearn.errors import unknown_name
from metalearn.gradients.estimator import Estimator
from metalearn.outer import outer_loop
from metalearn.runs.progress import Progress

__all__ = [
    "Contender",
    "Trace",
    "compare_estimators",
    "draw_traces",
    "format_runs",
    "select_estimators",
    "summarise_traces",
]


class Contender(NamedTuple):
    """An estimator, its outer optimizer, and its number of updates."""

    estimator: Estimator
    outer_optimizer: optax.GradientTransformation
    updates: int


class Trace(NamedTuple):
    """The course of one contender, for S seeds at C checkpoints, the first of them before any update.

    Attributes:
        updates: number of updates before each checkpoint.
        theta: meta-parameters at each checkpoint.
        score: score of theta by the experiment's own measure; less is better.
        seconds: wall time, including compilation.
    """

    updates: Int[np.ndarray, "C"]
    theta: Float[np.ndarray, "S C *P"]
    score: Float[np.ndarray, "S C"]
    seconds: float


def compare_estimators(
    contenders: Mapping[str, Contender],
    theta: Float[Array, "*P"],
    score: Callable[[Array], Array],
    seeds: int,
    seed: int,
    every: int,
    progress: Progress | None = None,
    data: Any = (),
) -> dict[str, Trace]:
    """Run all contenders from the same theta.

    Args:
        contenders: contenders by the label of their curve.
        theta: the first theta of every run; one array.
        score: `(theta) -> scalar`, evaluated at each checkpoint.
        seeds: runs per contender. Runs of different contenders share no randomness.
        seed: seed of all randomness.
        every: updates between checkpoints; each contender's updates are rounded down to a multiple of it.
        progress: receives the number of updates done.
        data: passed to the inner loop.

    Returns:
        One trace per contender.

    Raises:
        ValueError: `seeds` is below 1, or a contender makes fewer updates than `every`.
    """
    if seeds < 1:
        raise ValueError(f"an experiment needs at least 1 seed, got {seeds}")
    for name, contender in contenders.items():
        if not 1 <= every <= contender.updates:
            raise ValueError(f"{name} makes {contender.updates} updates, but checkpoints are {every} apart")
    scores = jax.jit(jax.vmap(lambda thetas: jax.lax.map(score, thetas)))
    keys = jax.random.split(jax.random.key(seed), seeds)
    total, done = sum(c.updates for c in contenders.values()), 0
    if progress is not None:
        progress.start(0, total)
    traces = {}
    try:
        for name, contender in contenders.items():

            def update_progress(count: int, loss: float, before: int = done) -> None:
                if progress is not None:
                    progress.update(before + count, {"loss": loss})

            start = time.monotonic()
            updates, thetas = _follow(contender, theta, data, keys, every, update_progress)
            score_values = np.asarray(scores(thetas), np.float64)
            traces[name] = Trace(updates, np.asarray(thetas, np.float64), score_values, time.monotonic() - start)
            done += contender.updates
            if progress is not None:
                last = format_interval(finite_interval(score_values[:, -1], geometric=True))
                progress.note(f"{name}: {last} after {updates[-1]} updates")
    finally:
        if progress is not None:
            progress.close()
    return traces


def _follow(
    contender: Contender,
    theta: Array,
    data: Any,
    keys: Key[Array, "S"],
    every: int,
    update_progress: Callable[[int, float], None],
) -> tuple[np.ndarray, Array]:
    """Update counts [C] and theta [S, C, ...] at every checkpoint."""
    loop = outer_loop(contender.estimator, contender.outer_optimizer, steps_per_call=every)

    def step(states: Any, data: Any) -> tuple[Any, Array]:
        states, metrics = jax.vmap(lambda s: loop.step(s, data))(states)
        return states, metrics["loss"].mean()

    advance = jax.jit(step, donate_argnums=0)
    states = jax.jit(jax.vmap(lambda key: loop.init(theta, data, key)))(keys)
    updates, thetas = np.arange(0, contender.updates + 1, every), [np.asarray(states.theta)]
    for done in updates[1:]:
        states, loss = advance(states, data)
        thetas.append(np.asarray(states.theta))  # copied now, because the next call consumes the state
        update_progress(int(done), float(loss))
    return updates, jnp.asarray(np.stack(thetas, 1))


def select_estimators(known: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The entries of `known` with these names, in the order of `known`; all of them if `names` is empty.

    Raises:
        UnknownNameError: `known` lacks one of the names.
    """
    for name in names:
        if name not in known:
            raise unknown_name("estimator", name, known)
    return {name: value for name, value in known.items() if not names or name in names}


def draw_traces(ax: Any, traces: Mapping[str, Trace], steps: Mapping[str, int] | None = None) -> None:
    """Draw the score of each contender: geometric mean and 95 % band, until the first of its seeds diverges.

    If a seed diverged, each seed of that contender is also drawn on its own, with a cross at its last finite score.

    Args:
        ax: matplotlib axes; the score axis becomes logarithmic.
        traces: traces by label.
        steps: inner steps per update, by label. The horizontal axis is then inner steps; None: updates.
    """
    for number, (name, trace) in enumerate(traces.items()):
        color, band = f"C{number % 10}", finite_interval(trace.score, geometric=True)
        x = trace.updates if steps is None else trace.updates * (steps[name] / 1000)
        alive, diverged = band.diverged == 0, int(band.diverged[-1])
        label = f"{name} ({diverged} of {len(trace.score)} diverged)" if diverged else name
        width = max(1.0, 3.4 - 0.4 * number)  # later lines are thinner, so that they do not hide earlier ones
        ax.plot(x[alive], band.mean[alive], color=color, linewidth=width, label=label)
        ax.fill_between(x[alive], band.low[alive], band.high[alive], color=color, alpha=0.2, linewidth=0)
        for line in trace.score if diverged else ():
            ax.plot(x, line, ":", color=color, linewidth=1)
            last = np.flatnonzero(np.isfinite(line))[-1]
            ax.plot(x[last], line[last], "o" if last == len(line) - 1 else "x", color=color, markersize=5)
    ax.set_yscale("log")
    ax.set_xlabel("updates" if steps is None else "thousand inner steps of a trajectory")
    ax.legend(fontsize=8, frameon=False)


def summarise_traces(traces: Mapping[str, Trace]) -> dict[str, Any]:
    """Last score, curve and time of each contender, for `result.json`; means are geometric."""
    summary = {}
    for name, trace in traces.items():
        curve = finite_interval(trace.score, geometric=True)
        last = {key: value[-1].item() for key, value in curve._asdict().items()}
        points = {key: value.tolist() for key, value in curve._asdict().items()}
        summary[name] = {
            **last,
            "seeds": len(trace.score),
            "updates": int(trace.updates[-1]),
            "theta": trace.theta[:, -1].tolist(),
            "seconds": round(trace.seconds, 1),
            "curve": {"updates": trace.updates.tolist(), **points},
        }
    return summary


def format_runs(runs: Mapping[str, Any], measure: str) -> str:
    """A table of the runs in a `result.json`; `measure` names the score."""
    columns = f"{'estimator':<14} {'updates':>8} {'seeds':>5} {'seconds':>7}"
    lines = [f"{columns}  {measure}, geometric mean [95 % interval over seeds]"]
    for name, run in runs.items():
        cell = format_interval(read_interval(run))
        lines.append(f"{name:<14} {run['updates']:>8,} {run['seeds']:>5} {run['seconds']:>7}  {cell}")
    return "\n".join(lines)
