"""Mean and variance of every estimator, measured and by exact formula, on a linear system with a quadratic loss.

On such a system the loss difference of an antithetic pair is linear in its noise, so each variance is a sum of squares
in closed form. `metalearn_tasks.systems.linear` has the formulas, after the analyses of Vicol, Metz & Sohl-Dickstein
2021 (PES, arXiv 2112.13835), Vicol 2023 (ES-Single, here called NRES, arXiv 2304.11153) and Li et al. 2023 (NRES, arXiv
2304.12180). A trajectory is cut into a growing number of windows. The experiment measures the sum of an estimator's
values over the windows, for one pair and a fixed theta: the trace of its covariance relative to the squared gradient,
and the distance of its mean from the gradient. Lines are formulas, dots are measurements. GPES draws new noise in every
second window.

In the default system PES varies less than NRES for few windows, and more for many. This depends on the system: over
seeds 0 to 11 the variance of PES at 12 windows is .9 to 21 times that of NRES.

    python -m experiments estimator_variance            # a picture and a table, under a minute on two cores
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.gradients._comparison import select_estimators
from experiments.gradients.variance_picture import Formulas, draw
from experiments.suite.intervals import finite_interval
from experiments.suite.results import write_result
from metalearn.gradients import dodge, full_es, gpes, nres, nres_a, pes, pes_a, truncated_backprop, truncated_es
from metalearn.gradients.estimator import Estimator
from metalearn.inner import InnerLoop
from metalearn.runs.progress import Progress
from metalearn_tasks.systems import linear as exact


@dataclass(frozen=True)
class EstimatorVarianceConfig:
    """Measured moments of gradient estimators against exact ones."""

    length: int = 12
    """T, steps per trajectory."""
    windows: tuple[int, ...] = (2, 4, 12)
    """Numbers of windows per trajectory; divisors of the length. Full ES is always measured with one window."""
    state: int = 4
    """State variables of the system."""
    parameters: int = 5
    """P, number of meta-parameters."""
    spectral_radius: float = 0.9
    """Spectral radius of the system; the larger, the longer its memory."""
    sigma: float = 0.3
    """Standard deviation of perturbations. The moments do not depend on it."""
    seeds: int = 10
    """Independent batches of trajectories, over which intervals are computed."""
    trajectories: int = 10_000
    """Trajectories per batch."""
    estimators: tuple[str, ...] = ()
    """Names of the estimators to run, as in the table; empty: all."""
    seed: int = 8
    """Seed of the system and of all noise."""
    out: Path = Path("runs/estimator_variance")
    """Folder for the picture and the table."""


PRESETS = {"standard": EstimatorVarianceConfig()}


class Subject(NamedTuple):
    """An estimator and its exact moments.

    Attributes:
        make: `(loop, window) -> Estimator` with one pair.
        variance: `(influence) -> trace of the covariance`.
        mean: `(influence) -> expectation`.
    """

    make: Callable[[InnerLoop, int], Estimator]
    variance: Callable[[Float[Array, "W W P"]], Array]
    mean: Callable[[Float[Array, "W W P"]], Float[Array, "P"]] = exact.full_gradient


def subjects(config: EstimatorVarianceConfig) -> dict[str, Subject]:
    """All estimators by name."""
    pair: Any = {"sigma": config.sigma, "pairs": 1, "stagger": False}

    def mean_of_windows(g: Float[Array, "W W P"]) -> Float[Array, "P"]:
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
        "truncated ES": Subject(
            lambda loop, w: truncated_es(loop, window=w, **pair), truncated_variance, mean_of_windows
        ),
        "TBPTT": Subject(
            lambda loop, w: truncated_backprop(loop, 1, w, stagger=False),
            lambda g: jnp.zeros_like(g[0, 0, 0]),
            mean_of_windows,
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
    """Mean, and trace of the covariance, of the sum of a trajectory's estimates; one of each per batch."""

    def trajectory(key: PRNGKeyArray) -> Float[Array, "P"]:
        state = estimator.init(theta, system, key)

        def window(state: Any, w: Array) -> tuple[Any, Float[Array, "P"]]:
            gradient, state, _ = estimator.grad(theta, state, system, jax.random.fold_in(key, w), w)
            return state, gradient

        # The estimate is the gradient of the mean loss over a window: multiply by the steps of a window.
        return jax.lax.scan(window, state, jnp.arange(windows))[1].sum(0) * (config.length // windows)

    def batch(key: PRNGKeyArray) -> tuple[Array, Array]:
        estimates = jax.vmap(trajectory)(jax.random.split(key, config.trajectories))
        return estimates.mean(0), estimates.var(0, ddof=1).sum()

    keys = jax.random.split(key, config.seeds)
    # Compilation takes most of the time. This level compiles in two thirds of it, and the program is no slower.
    options = {"xla_backend_optimization_level": 1}
    return jax.jit(lambda keys: jax.lax.map(batch, keys), compiler_options=options)(keys)


def make_system(config: EstimatorVarianceConfig) -> tuple[exact.LinearSystem, Float[Array, "P"]]:
    """The system, and the theta at which its gradients are estimated."""
    key_system, key_theta = jax.random.split(jax.random.key(config.seed))
    system = exact.linear_system(key_system, config.state, config.parameters, config.length, config.spectral_radius)
    return system, jax.random.normal(key_theta, (config.parameters,))


def exact_moments(config: EstimatorVarianceConfig, windows: int) -> dict[str, dict[str, float]]:
    """Exact variance of every estimator, and distance of its mean from the gradient, relative to the gradient."""

    def compute(system: exact.LinearSystem, theta: Float[Array, "P"]) -> dict[str, dict[str, Array]]:
        g = exact.influence(system, theta, config.length // windows)
        gradient, moments = exact.full_gradient(g), {}
        size = jnp.linalg.norm(gradient)
        for name, subject in subjects(config).items():
            bias = jnp.linalg.norm(subject.mean(g) - gradient)
            moments[name] = {"exact_variance": subject.variance(g) / size**2, "exact_error": bias / size}
        return moments

    return jax.tree.map(float, jax.jit(compute)(*make_system(config)))


def measure_moments(
    config: EstimatorVarianceConfig, formulas: Formulas, progress: Progress | None
) -> dict[str, dict[int, dict[str, float]]]:
    """Measured moments beside exact ones, by estimator and number of windows, relative to the gradient."""
    loop, (system, theta) = exact.linear(config.length), make_system(config)
    gradient = np.asarray(exact.full_gradient(exact.influence(system, theta, config.length)))
    size = float(np.linalg.norm(gradient))
    cases = [
        (name, w)
        for name in select_estimators(subjects(config), config.estimators)
        for w in ((1,) if name == "full ES" else config.windows)
    ]
    cases = [(name, w) for name, w in cases if name != "GPES" or w % 2 == 0]
    moments: dict[str, dict[int, dict[str, float]]] = {}
    for done, (name, windows) in enumerate(cases):
        key = jax.random.fold_in(jax.random.key(config.seed + 1), done)
        estimator = subjects(config)[name].make(loop, config.length // windows)
        means, variances = (np.asarray(a) for a in measure(estimator, config, system, theta, windows, key))
        moments.setdefault(name, {})[windows] = {
            **{key: value.item() for key, value in finite_interval(variances / size**2)._asdict().items()},
            "error": float(np.linalg.norm(means.mean(0) - gradient)) / size,
            # Root mean square of the distance due to chance alone.
            "chance": float(np.sqrt(variances.mean() / (config.trajectories * config.seeds))) / size,
            **formulas[windows][name],
        }
        if progress is not None:
            progress.note(f"{done + 1}/{len(cases)} {name}, {windows} windows")
    return moments


def run(config: EstimatorVarianceConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure all estimators; returns what result.json holds: measured and exact moments."""
    for windows in config.windows:
        if windows < 1 or config.length % windows:
            raise ValueError(f"{config.length} steps cannot be cut into {windows} equal windows")
    start = time.monotonic()
    with jax.enable_x64(True):  # keeps rounding errors out of the measurements
        divisors = [w for w in range(1, config.length + 1) if config.length % w == 0]
        formulas = {windows: exact_moments(config, windows) for windows in divisors}
        moments = measure_moments(config, formulas, progress)
    picture = config.out / "estimator_variance.png"
    draw(moments, formulas, picture)
    result = {
        "moments": moments,
        "formulas": formulas,
        "seconds": round(time.monotonic() - start, 1),
        "picture": str(picture),
    }
    return write_result(config.out, result)


def format_result(result: Mapping[str, Any]) -> str:
    """A table of all measured moments beside the exact ones."""
    lines = [
        f"{'':<14} {'':>7} variance / squared gradient              distance of the mean / gradient",
        f"{'estimator':<14} {'windows':>7} {'exact':>8}  measured [95 % interval]        exact  measured ± chance",
    ]
    for name, dots in result["moments"].items():
        for windows, dot in dots.items():
            measured = f"{dot['mean']:.3f} [{dot['low']:.3f}, {dot['high']:.3f}]"
            error = f"{dot['exact_error']:.4f}  {dot['error']:.4f} ± {dot['chance']:.4f}"
            lines.append(f"{name:<14} {windows:>7} {dot['exact_variance']:>8.3f}  {measured:<30} {error:>22}")
    return "\n".join([*lines, f"picture: {result['picture']} ({result['seconds']} s)"])
