"""What experiments that compare gradient estimators share: many seeds in one compilation, intervals, curves.

Each contender is an estimator with the optimizer that suits it. Its outer loop is mapped over seeds and scanned
between two checkpoints, so that a run is one compilation and a few dispatches. A seed whose score is no longer finite
is counted and marked, never averaged away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.suite.intervals import Interval, interval, shown
from metalearn.errors import unknown_name
from metalearn.gradients.estimator import Estimator
from metalearn.outer import outer_loop
from metalearn.runs.progress import Progress


class Contender(NamedTuple):
    """An estimator, its optimizer, and how many updates it is given."""

    estimator: Estimator
    optimizer: optax.GradientTransformation
    updates: int


class Trace(NamedTuple):
    """What a contender did; S seeds, C checkpoints, the first before any update.

    Attributes:
        updates: done at each checkpoint.
        theta: meta-parameters.
        score: of theta, by the experiment's own measure; less is better.
        seconds: wall time with compilation.
    """

    updates: Int[np.ndarray, "C"]
    theta: Float[np.ndarray, "S C ..."]
    score: Float[np.ndarray, "S C"]
    seconds: float


def compare(
    contenders: Mapping[str, Contender],
    theta: Float[Array, "..."],
    score: Callable[[Array], Array],
    seeds: int,
    seed: int,
    every: int,
    progress: Progress | None = None,
    data: Any = (),
) -> dict[str, Trace]:
    """Run all contenders from the same start.

    Args:
        contenders: by the name they are shown under.
        theta: where all start; one array.
        score: `(theta) -> scalar`, evaluated at each checkpoint.
        seeds: runs of each contender; seed i of one shares nothing with seed i of another but its number.
        seed: of all randomness.
        every: updates between checkpoints; each contender's updates are rounded down to a multiple of it.
        progress: told how far all are.
        data: passed on to the inner loop.

    Returns:
        A trace for each contender.

    Raises:
        ValueError: a contender's updates are fewer than `every`, or there is no seed.
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

            def told(count: int, loss: float, before: int = done) -> None:
                if progress is not None:
                    progress.update(before + count, {"loss": loss})

            began = time.monotonic()
            updates, thetas = _follow(contender, theta, data, keys, every, told)
            found = np.asarray(scores(thetas), np.float64)
            traces[name] = Trace(updates, np.asarray(thetas, np.float64), found, time.monotonic() - began)
            done += contender.updates
            if progress is not None:
                progress.note(f"{name}: {shown(interval(found[:, -1], geometric=True))} after {updates[-1]} updates")
    finally:
        if progress is not None:
            progress.close()
    return traces


def _follow(
    contender: Contender, theta: Array, data: Any, keys: Any, every: int, told: Callable[[int, float], None]
) -> tuple[np.ndarray, Array]:
    loop = outer_loop(contender.estimator, contender.optimizer, steps_per_call=every)

    def step(states: Any, data: Any) -> tuple[Any, Array]:
        states, metrics = jax.vmap(lambda s: loop.step(s, data))(states)
        return states, metrics["loss"].mean()

    advance = jax.jit(step, donate_argnums=0)
    states = jax.jit(jax.vmap(lambda key: loop.init(theta, data, key)))(keys)
    updates, thetas = np.arange(0, contender.updates + 1, every), [np.asarray(states.theta)]
    for done in updates[1:]:
        states, loss = advance(states, data)
        thetas.append(np.asarray(states.theta))  # fetched at once: the state is donated to the next call
        told(int(done), float(loss))
    return updates, jnp.asarray(np.stack(thetas, 1))


def chosen(known: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Those of `known` that are named, in the order of `known`; all where nothing is named.

    Raises:
        UnknownNameError: a name is not among them.
    """
    for name in names:
        if name not in known:
            raise unknown_name("estimator", name, known)
    return {name: value for name, value in known.items() if not names or name in names}


def draw_traces(ax: Any, traces: Mapping[str, Trace], steps: Mapping[str, int] | None = None) -> None:
    """Score on a logarithmic axis, geometric mean and band a contender, for as long as all its seeds are finite.

    The seeds of a contender of which one diverged are drawn one by one, a cross where they were last finite.

    Args:
        ax: matplotlib axes.
        traces: by label.
        steps: inner steps of an update, by label: the axis is then inner steps, and otherwise updates.
    """
    for number, (name, trace) in enumerate(traces.items()):
        color, band = f"C{number % 10}", interval(trace.score, geometric=True)
        x = trace.updates if steps is None else trace.updates * (steps[name] / 1000)
        alive, diverged = band.diverged == 0, int(band.diverged[-1])
        label = f"{name} ({diverged} of {len(trace.score)} diverged)" if diverged else name
        width = max(1.0, 3.4 - 0.4 * number)  # a line that lies on an earlier one leaves that one's edges to see
        ax.plot(x[alive], band.mean[alive], color=color, linewidth=width, label=label)
        ax.fill_between(x[alive], band.low[alive], band.high[alive], color=color, alpha=0.2, linewidth=0)
        for line in trace.score if diverged else ():
            ax.plot(x, line, ":", color=color, linewidth=1)
            last = np.flatnonzero(np.isfinite(line))[-1]
            ax.plot(x[last], line[last], "o" if last == len(line) - 1 else "x", color=color, markersize=5)
    ax.set_yscale("log")
    ax.set_xlabel("updates" if steps is None else "thousand inner steps of a trajectory")
    ax.legend(fontsize=8, frameon=False)


def report(traces: Mapping[str, Trace]) -> dict[str, Any]:
    """For `result.json`: each contender's last score, its curve and its time; means are geometric."""
    found = {}
    for name, trace in traces.items():
        curve = interval(trace.score, geometric=True)
        last = {key: value[-1].item() for key, value in curve._asdict().items()}
        points = {key: value.tolist() for key, value in curve._asdict().items()}
        found[name] = {
            **last,
            "seeds": len(trace.score),
            "updates": int(trace.updates[-1]),
            "theta": trace.theta[:, -1].tolist(),
            "seconds": round(trace.seconds, 1),
            "curve": {"updates": trace.updates.tolist(), **points},
        }
    return found


def print_table(runs: Mapping[str, Any], measure: str) -> None:
    """The runs of a `result.json` as a table."""
    columns = f"{'estimator':<14} {'updates':>8} {'seeds':>5} {'seconds':>7}"
    print(f"{columns}  {measure}, geometric mean [95 % interval over seeds]")
    for name, run in runs.items():
        ends = [np.nan if run[key] is None else run[key] for key in Interval._fields]
        cell = shown(Interval(*(np.asarray(x) for x in ends)))
        print(f"{name:<14} {run['updates']:>8,} {run['seeds']:>5} {run['seconds']:>7}  {cell}")
