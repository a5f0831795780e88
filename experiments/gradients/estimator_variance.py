"""Mean and variance of every estimator, measured and by exact formula, on a linear system with a quadratic loss.

On such a system the loss difference of an antithetic pair is linear in its noise, so each variance is a sum of squares
that can be written down: `metalearn_tasks.systems.linear` has the formulas, after the analyses of Vicol, Metz &
Sohl-Dickstein 2021 (PES, arXiv 2112.13835), Vicol 2023 (ES-Single, here NRES, arXiv 2304.11153) and Li et al. 2023
(NRES, arXiv 2304.12180). One trajectory is cut into more and more windows. What is measured is the sum of an
estimator's values over them, for one pair and a fixed theta: the trace of its covariance relative to the squared
gradient, and how far its mean is from the gradient. Lines are formulas, dots measurements. GPES draws new noise every
second window.

The default system is one in which PES varies less than NRES for few windows, and more for many. That depends on the
system: over seeds 0 to 11 the variance of PES is .9 to 21 times that of NRES at 12 windows.

    python -m experiments estimator_variance            # a picture and a table, under a minute on two cores
    python -m experiments estimator_variance --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.gradients._comparison import chosen
from experiments.suite.intervals import interval
from experiments.suite.results import write_result
from metalearn.gradients import dodge, full_es, gpes, nres, nres_a, pes, pes_a, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.inner import InnerLoop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_tasks.systems import linear as exact

Moments = dict[str, dict[int, dict[str, float]]]


@dataclass(frozen=True)
class EstimatorVarianceConfig:
    """Measured moments of gradient estimators against exact ones."""

    length: int = 12
    """T, steps of a trajectory."""
    windows: tuple[int, ...] = (2, 4, 12)
    """Numbers of windows to cut it into; divisors of the length. Full ES is measured besides, with its one window."""
    state: int = 4
    """Variables of the system."""
    parameters: int = 5
    """P, meta-parameters."""
    spectral_radius: float = 0.9
    """How slowly the system forgets."""
    sigma: float = 0.3
    """Standard deviation of perturbations; the moments do not depend on it."""
    seeds: int = 10
    """Independent batches of trajectories; intervals are over them."""
    trajectories: int = 10_000
    """Trajectories of a batch."""
    estimators: tuple[str, ...] = ()
    """Names of those to run, as in the table; none: all."""
    seed: int = 8
    """Of the system and of all noise."""
    out: Path = Path("runs/estimator_variance")
    """Folder of the picture and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


class Subject(NamedTuple):
    """An estimator and what is known of it.

    Attributes:
        make: `(loop, window) -> Estimator`, of one pair.
        variance: `(influence) -> trace of the covariance`.
        mean: `(influence) -> expectation`.
    """

    make: Callable[[InnerLoop, int], Estimator]
    variance: Callable[[Float[Array, "W W P"]], Array]
    mean: Callable[[Float[Array, "W W P"]], Float[Array, "P"]] = exact.full_gradient


def subjects(config: EstimatorVarianceConfig) -> dict[str, Subject]:
    """All estimators by name."""
    pair: Any = {"sigma": config.sigma, "pairs": 1, "stagger": False}

    def local(g: Float[Array, "W W P"]) -> Float[Array, "P"]:
        return jnp.einsum("wwp->p", g)

    def truncated_variance(g: Float[Array, "W W P"]) -> Array:
        return (g.shape[-1] + 1) * jnp.square(jnp.einsum("wwp->wp", g)).sum()

    two_windows = partial(exact.gpes_variance, windows=2)
    return {
        "PES": Subject(lambda loop, w: pes(loop, window=w, **pair), exact.pes_variance),
        "GPES": Subject(lambda loop, w: gpes(loop, window=w, resample=2 * w, **pair), two_windows),
        "NRES": Subject(lambda loop, w: nres(loop, window=w, **pair), exact.nres_variance),
        "DODGE": Subject(lambda loop, w: dodge(loop, 1, w, stagger=False), exact.nres_variance),
        "full ES": Subject(lambda loop, w: full_es(loop, config.sigma, 1), exact.nres_variance),
        "PES-A": Subject(lambda loop, w: pes_a(loop, window=w, **pair), exact.pes_analytic_variance),
        "NRES-A": Subject(lambda loop, w: nres_a(loop, window=w, **pair), exact.nres_analytic_variance),
        "truncated ES": Subject(lambda loop, w: truncated_es(loop, window=w, **pair), truncated_variance, local),
        "TBPTT": Subject(
            lambda loop, w: truncated_backprop(loop, 1, w, stagger=False), lambda g: jnp.zeros_like(g[0, 0, 0]), local
        ),
    }


def measure(
    estimator: Estimator,
    config: EstimatorVarianceConfig,
    system: exact.LinearSystem,
    theta: Float[Array, "P"],
    windows: int,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "S P"], Float[Array, "S"]]:
    """Of the sum of a trajectory's estimates: the mean, and the trace of the covariance, in each batch."""

    def trajectory(key: PRNGKeyArray) -> Float[Array, "P"]:
        state = estimator.init(theta, system, key)

        def window(state: Any, w: Array) -> tuple[Any, Float[Array, "P"]]:
            gradient, state, _ = estimator.grad(theta, state, system, jax.random.fold_in(key, w), w)
            return state, gradient

        # estimators are gradients of the loss of a window divided by its steps
        return jax.lax.scan(window, state, jnp.arange(windows))[1].sum(0) * (config.length // windows)

    def batch(key: PRNGKeyArray) -> tuple[Array, Array]:
        found = jax.vmap(trajectory)(jax.random.split(key, config.trajectories))
        return found.mean(0), found.var(0, ddof=1).sum()

    keys = jax.random.split(key, config.seeds)
    # Compiling is most of the work: less optimised, it takes a third less, and the rest no more.
    options = {"xla_backend_optimization_level": 1}
    return jax.jit(lambda keys: jax.lax.map(batch, keys), compiler_options=options)(keys)


def setting(config: EstimatorVarianceConfig) -> tuple[exact.LinearSystem, Float[Array, "P"]]:
    """The system, and the theta at which gradients are taken."""
    key_system, key_theta = jax.random.split(jax.random.key(config.seed))
    system = exact.linear_system(key_system, config.state, config.parameters, config.length, config.spectral_radius)
    return system, jax.random.normal(key_theta, (config.parameters,))


def formulas(config: EstimatorVarianceConfig, windows: int) -> dict[str, dict[str, float]]:
    """Exact variance of every estimator, and distance of its mean from the gradient; relative to the gradient."""

    def of_all(system: exact.LinearSystem, theta: Float[Array, "P"]) -> dict[str, dict[str, Array]]:
        g = exact.influence(system, theta, config.length // windows)
        gradient, found = exact.full_gradient(g), {}
        size = jnp.linalg.norm(gradient)
        for name, subject in subjects(config).items():
            bias = jnp.linalg.norm(subject.mean(g) - gradient)
            found[name] = {"exact_variance": subject.variance(g) / size**2, "exact_error": bias / size}
        return found

    return jax.tree.map(float, jax.jit(of_all)(*setting(config)))


def measurements(config: EstimatorVarianceConfig, lines: Mapping[int, Any], progress: Progress | None) -> Moments:
    """Measured moments beside exact ones, by estimator and number of windows; relative to the gradient."""
    loop, (system, theta) = exact.linear(config.length), setting(config)
    gradient = np.asarray(exact.full_gradient(exact.influence(system, theta, config.length)))
    size = float(np.linalg.norm(gradient))
    cases = [
        (name, w)
        for name in chosen(subjects(config), config.estimators)
        for w in ((1,) if name == "full ES" else config.windows)
    ]
    cases = [(name, w) for name, w in cases if name != "GPES" or w % 2 == 0]
    found: Moments = {}
    for done, (name, windows) in enumerate(cases):
        key = jax.random.fold_in(jax.random.key(config.seed + 1), done)
        estimator = subjects(config)[name].make(loop, config.length // windows)
        means, variances = (np.asarray(a) for a in measure(estimator, config, system, theta, windows, key))
        found.setdefault(name, {})[windows] = {
            **{key: value.item() for key, value in interval(variances / size**2)._asdict().items()},
            "error": float(np.linalg.norm(means.mean(0) - gradient)) / size,
            # root mean square of the distance that chance alone makes
            "chance": float(np.sqrt(variances.mean() / (config.trajectories * config.seeds))) / size,
            **lines[windows][name],
        }
        if progress is not None:
            progress.note(f"{done + 1}/{len(cases)} {name}, {windows} windows")
    return found


def main(config: EstimatorVarianceConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure all estimators; returns measured and exact moments."""
    for windows in config.windows:
        if windows < 1 or config.length % windows:
            raise ValueError(f"{config.length} steps cannot be cut into {windows} equal windows")
    began = time.monotonic()
    figure, (left, right) = new_figure(columns=2, width=4.6)
    with jax.enable_x64(True):  # so that what is measured is the estimator, not rounding
        divisors = [w for w in range(1, config.length + 1) if config.length % w == 0]
        lines = {windows: formulas(config, windows) for windows in divisors}
        found = measurements(config, lines, progress)
    draw_variance(left, found, lines)
    draw_error(right, found, lines)
    save(figure, config.out / "estimator_variance.png")
    result = {
        "moments": found,
        "formulas": lines,
        "seconds": round(time.monotonic() - began, 1),
        "picture": str(config.out / "estimator_variance.png"),
    }
    return write_result(config.out, result)


def draw_variance(ax: Any, found: Moments, lines: Mapping[int, Any]) -> None:
    """Variances, with the intervals of what was measured."""
    _draw_lines(ax, found, lines, "exact_variance")
    for number, dots in enumerate(found.values()):
        for windows, dot in dots.items():
            ends = [[dot["mean"] - dot["low"]], [dot["high"] - dot["mean"]]]
            ax.errorbar(windows, dot["mean"], ends, fmt="o", color=f"C{number}", markersize=_size(number), capsize=2)
    ax.set_ylim(0.05, None)
    ax.set_ylabel("variance / squared gradient")


def draw_error(ax: Any, found: Moments, lines: Mapping[int, Any]) -> None:
    """How far means are from the gradient; for unbiased estimators, by chance alone."""
    _draw_lines(ax, found, lines, "exact_error")
    for number, (name, dots) in enumerate(found.items()):
        errors = [dot["error"] for dot in dots.values()]
        ax.plot(list(dots), errors, "o", color=f"C{number}", markersize=_size(number), label=name)
    chance = max(dot["chance"] for dots in found.values() for dot in dots.values())
    ax.axhspan(0, 2 * chance, color="0.5", alpha=0.15, linewidth=0, label="no more than chance")
    ax.set_ylim(chance / 30, 2)
    ax.set_ylabel("distance of the mean / gradient")
    ax.legend(fontsize=8, frameon=False, ncols=2, loc="center left", bbox_to_anchor=(0.0, 0.6))


def _draw_lines(ax: Any, found: Moments, lines: Mapping[int, Any], what: str) -> None:
    for number, name in enumerate(found):
        points = [(w, by_name[name][what]) for w, by_name in lines.items() if by_name[name][what] > 1e-12]
        if points and name != "full ES":
            ax.plot(*zip(*points, strict=True), color=f"C{number}", linewidth=1.2)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(list(lines), [str(w) for w in lines])
    ax.set_xlabel("windows of a trajectory")


def _size(number: int) -> float:
    return 7.5 - 0.6 * number  # dots that lie on each other are all to be seen


def print_moments(found: Mapping[str, Any]) -> None:
    """A table of all that was measured, beside the formulas."""
    print(f"{'':<14} {'':>7} variance / squared gradient              distance of the mean / gradient")
    print(f"{'estimator':<14} {'windows':>7} {'exact':>8}  measured [95 % interval]        exact  measured ± chance")
    for name, dots in found.items():
        for windows, dot in dots.items():
            measured = f"{dot['mean']:.3f} [{dot['low']:.3f}, {dot['high']:.3f}]"
            error = f"{dot['exact_error']:.4f}  {dot['error']:.4f} ± {dot['chance']:.4f}"
            print(f"{name:<14} {windows:>7} {dot['exact_variance']:>8.3f}  {measured:<30} {error:>22}")


if __name__ == "__main__":
    command = tyro.cli(EstimatorVarianceConfig, description=__doc__)
    result = main(command, default_progress())
    print_moments(result["moments"])
    print(f"picture: {result['picture']} ({result['seconds']} s)")
    if command.json:
        print(json.dumps(result))
