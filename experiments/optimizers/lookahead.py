"""Lookahead against its inner optimizers: where it forgives a learning rate, and where it is slower.

Zhang, Lucas, Hinton and Ba 2019 (arXiv 1907.08610). Networks of 64-64-10 ReLU units are trained on 1,500 of
scikit-learn's digits, 20 % of whose labels are drawn again, in batches of 20. SGD, SGD with momentum and Adam stand
alone and inside Lookahead (k = 5, alpha = 0.5, tested with the slow weights), with equal grids of learning rates. The
rate of either is chosen by test accuracy with seeds that the comparison does not use. Beside that stand the variance of
the slow weights on a noisy quadratic, which Proposition 2 of the paper gives, and the number of steps on a quadratic
without noise (condition 100), where Lookahead (k = 20) can only wait. There too each has its own best rate.

Rule of the verdict, written before the first run. Reproduced: at the learning rate 0.2, SGD with momentum 0.9 has a
mean test accuracy of at most 0.15 and Lookahead around it of at least 0.90; and each variance is within 3 % of the
formula. Not reproduced: otherwise. The difference of the tuned accuracies, with its 95 % interval over seeds, and the
steps on the quadratic are said beside it and do not decide. (In a first run the grids began at 0.03, 0.01 and 0.001,
and the best rates of two inner optimizers stood at that edge; they begin a decade lower since.)

    python -m experiments lookahead quick
    python -m experiments lookahead standard
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

from experiments.optimizers.neurons.tasks import Data, Task, draw_data, init, loss, predict
from experiments.suite.intervals import list_interval
from experiments.suite.results import write_result
from experiments.suite.tables import format_columns, format_estimate
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import lookahead, slow_weights

__all__ = ["PRESETS", "LookaheadConfig", "format_result", "judge", "run"]

INNER: dict[str, tuple[Callable[[Any], optax.GradientTransformation], tuple[float, ...]]] = {
    "SGD": (optax.sgd, (0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)),
    "momentum": (lambda rate: optax.sgd(rate, 0.9), (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3)),
    "Adam": (optax.adam, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)),
}
"""Inner optimizers and the learning rates of both arms."""
FORMULA = ((0.1, 5, 0.5), (0.5, 5, 0.5), (0.1, 5, 0.8), (0.9, 10, 0.5), (1.5, 5, 0.5))
"""Learning rate times curvature, k and alpha on the noisy quadratic."""
MOMENTA, SMALL = (0.8, 0.9, 0.95), 0.01
TUNING_SEED = 1000
BATCH = 20
CURVE = 20
"""Points of a curve of the training loss."""


@dataclass(frozen=True)
class LookaheadConfig:
    """Lookahead around SGD, momentum and Adam on digits with wrong labels, and on two quadratics."""

    steps: int = 1500
    """Updates of a training; 75 are an epoch."""
    seeds: int = 10
    """Trainings per learning rate, each with its own split, labels, network and batches."""
    tuning_seeds: int = 3
    """Further trainings, by which the learning rate of each arm is chosen."""
    noise: float = 0.2
    """Share of the training labels that are drawn again from all classes."""
    weights: int = 20_000
    """Independent weights of the noisy quadratic."""
    out: Path = Path("runs/lookahead")
    """Folder of the picture and of the result."""


PRESETS = {"standard": LookaheadConfig(), "quick": LookaheadConfig(seeds=3, tuning_seeds=2)}


def run(config: LookaheadConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Train, simulate and draw; returns what result.json holds."""
    begun, note = time.monotonic(), (lambda text: None) if progress is None else progress.note
    task = Task((64,), None, config.noise, BATCH, config.steps)
    arms: dict[str, dict[str, Any]] = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name, (make, rates) in INNER.items():
            for ahead in (False, True):
                key = f"Lookahead({name})" if ahead else name
                arms[key] = _train(config, task, make, rates, ahead)
                note(f"{key}: {' '.join(f'{np.mean(a):.3f}' for a in arms[key]['accuracy'])} at {rates}")
        variances = simulate_variance(config.weights)
        steps = {str(m): quadratic_steps(m) for m in MOMENTA}
    result = {
        "arms": arms,
        "variances": variances,
        "steps": steps,
        "differences": {name: _difference(arms, name) for name in INNER},
        "verdict": judge(arms, variances),
        "picture": str(draw(arms, steps, config.out / "lookahead.png")),
        "seconds": round(time.monotonic() - begun, 1),
    }
    return write_result(config.out, result)


def _train(config: LookaheadConfig, task: Task, make: Any, rates: tuple[float, ...], ahead: bool) -> dict[str, Any]:
    """Accuracy and curve of all rates and seeds, and the rate that the tuning seeds choose."""
    seeds = [*range(config.seeds), *range(TUNING_SEED, TUNING_SEED + config.tuning_seeds)]
    data = jax.tree.map(lambda *x: jnp.stack(x), *[draw_data(task, seed) for seed in seeds])
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])

    def train(rate: Array, data: Data, key: Array) -> tuple[Array, Array]:
        tx = lookahead(make(rate)) if ahead else make(rate)
        init_key, key = jax.random.split(key)
        params: Any = init(task, data.inputs.shape[1], init_key)

        def step(carry: Any, t: Array) -> tuple[Any, None]:
            params, state = carry
            rows = jax.random.randint(jax.random.fold_in(key, t), (BATCH,), 0, len(data.labels))
            grads = jax.grad(loss)(params, data.inputs[rows], data.labels[rows])
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def part(carry: Any, times: Array) -> tuple[Any, Array]:
            carry, _ = jax.lax.scan(step, carry, times)
            tested = slow_weights(carry[1], carry[0]) if ahead else carry[0]
            return carry, loss(tested, data.inputs, data.labels)

        times = jnp.arange(task.steps).reshape(CURVE, -1)
        (params, state), curve = jax.lax.scan(part, (params, tx.init(params)), times)
        tested = slow_weights(state, params) if ahead else params
        return (predict(tested, data.test_inputs).argmax(1) == data.test_labels).mean(), curve

    over_seeds = jax.vmap(train, (None, 0, 0))
    accuracy, curves = map(np.asarray, jax.jit(jax.vmap(over_seeds, (0, None, None)))(jnp.array(rates), data, keys))
    best = int(accuracy[:, config.seeds :].mean(1).argmax())
    return {
        "rates": rates,
        "best": best,
        "accuracy": accuracy[:, : config.seeds].tolist(),
        "train_loss": curves[:, : config.seeds].mean(1).tolist(),
    }


def _difference(arms: Mapping[str, Any], name: str) -> list[float]:
    """Accuracy of Lookahead minus that of its inner optimizer, both tuned, seed by seed."""
    inner, outer = arms[name], arms[f"Lookahead({name})"]
    pairs = zip(outer["accuracy"][outer["best"]], inner["accuracy"][inner["best"]], strict=True)
    return list_interval([a - b for a, b in pairs])


def variance_formula(rate: float, period: int, alpha: float) -> float:
    """Proposition 2: the variance of the slow weights where curvature and variance of the optimum are 1."""
    r = (1 - rate) ** period
    part = alpha**2 * (1 - r**2)
    return rate**2 / (1 - (1 - rate) ** 2) * part / (part + 2 * alpha * (1 - alpha) * (1 - r))


def simulate_variance(weights: int) -> list[dict[str, float]]:
    """The variance of the slow weights on the noisy quadratic, by the formula and by simulation."""

    @jax.jit
    @jax.vmap
    def simulate(rate: Array, period: Array, alpha: Array, key: Array) -> Array:
        tx: Any = lookahead(optax.sgd(rate), period, alpha)

        def step(carry: Any, key: Array) -> tuple[Any, Array]:
            x, state = carry
            updates, state = tx.update(x - jax.random.normal(key, x.shape), state, x)
            return (optax.apply_updates(x, updates), state), jnp.var(state.slow)

        x: Any = jnp.zeros(weights)
        _, found = jax.lax.scan(step, (x, tx.init(x)), jax.random.split(key, 300))
        return found[150:].mean()

    rates, periods, alphas = (jnp.array(x) for x in zip(*FORMULA, strict=True))
    found = simulate(rates, periods, alphas, jax.random.split(jax.random.key(0), len(FORMULA)))
    return [
        {"rate": r, "period": k, "alpha": a, "formula": variance_formula(r, k, a), "simulation": float(v)}
        for (r, k, a), v in zip(FORMULA, found, strict=True)
    ]


def quadratic_steps(momentum: float, period: int = 20, alpha: float = 0.5, limit: int = 2000) -> dict[str, Any]:
    """Steps to 1e-10 of the first loss on a quadratic of condition 100, of each arm at the best of 24 rates."""
    curvature = jnp.logspace(-2, 0, 30)
    rates = jnp.linspace(0.1, 2 * (1 + momentum), 25)[:-1]

    @jax.jit
    @jax.vmap
    def losses(rate: Array) -> Float[Array, "T A"]:
        inner = optax.sgd(rate, momentum)
        ahead: Any = lookahead(inner, period, alpha)

        def step(carry: Any, _: Any) -> tuple[Any, Array]:
            (x, s), (y, t) = carry
            u, s = inner.update(curvature * x, s)
            v, t = ahead.update(curvature * y, t, y)
            now = [(curvature * w**2).sum() for w in (x, t.slow)]
            return ((x + u, s), (y + v, t)), jnp.stack(now)

        x = jnp.ones_like(curvature)
        return jax.lax.scan(step, ((x, inner.init(x)), (x, ahead.init(x))), length=limit)[1]

    found = np.asarray(losses(rates))
    reached = found <= 1e-10 * found[:, :1]
    steps = np.where(reached.any(1), reached.argmax(1), limit)
    best = steps.argmin(0)
    return {"steps": steps.min(0).tolist(), "rates": np.asarray(rates)[best].tolist()}


def judge(arms: Mapping[str, Any], variances: list[dict[str, float]]) -> dict[str, str]:
    """The verdict by the rule of this module, and its reasons."""
    at = INNER["momentum"][1].index(0.2)
    alone, ahead = (float(np.mean(arms[key]["accuracy"][at])) for key in ("momentum", "Lookahead(momentum)"))
    worst = max(abs(row["simulation"] / row["formula"] - 1) for row in variances)
    holds = alone <= 0.15 and ahead >= 0.9 and worst <= 0.03
    words = (
        f"at the learning rate 0.2, momentum alone has an accuracy of {alone:.3f} and in Lookahead of {ahead:.3f}; "
        f"variances are within {100 * worst:.1f} % of the formula"
    )
    return {"verdict": "reproduced" if holds else "not reproduced", "words": words}


def draw(arms: Mapping[str, Any], steps: Mapping[str, Any], path: Path) -> Path:
    """Accuracy against the learning rate, the training loss at a small one, and steps on the quadratic."""
    figure, axes = new_figure(columns=5, width=3.0, height=3.2)
    for ax, (name, (_, rates)) in zip(axes, INNER.items(), strict=False):
        for key, style in ((name, "o--"), (f"Lookahead({name})", "o-")):
            ax.semilogx(rates, [np.mean(a) for a in arms[key]["accuracy"]], style, markersize=4, label=key)
        ax.set_xlabel("learning rate")
        ax.set_ylabel("test accuracy")
        ax.set_ylim(0, 1.02)
        ax.legend(fontsize=7, loc="lower left")
    small = INNER["momentum"][1].index(SMALL)
    for key, style in (("momentum", "--"), ("Lookahead(momentum)", "-")):
        axes[3].plot(range(1, CURVE + 1), arms[key]["train_loss"][small], style, label=key)
    axes[3].set_xlabel("twentieths of the training")
    axes[3].set_ylabel(f"training loss at rate {SMALL}")
    axes[3].legend(fontsize=7)
    for i, (label, style) in enumerate((("momentum", "o--"), ("Lookahead", "o-"))):
        axes[4].plot(list(MOMENTA), [row["steps"][i] for row in steps.values()], style, label=label)
    axes[4].set_xlabel("momentum")
    axes[4].set_ylabel("steps to 1e-10, no noise")
    axes[4].set_ylim(0)
    axes[4].legend(fontsize=7)
    return save(figure, path)


def format_result(result: Mapping[str, Any]) -> str:
    """Tuned differences, accuracies per rate, both quadratics, the verdict."""
    lines = [
        f"{name}: Lookahead minus {name}, both tuned: {format_estimate(found)} of accuracy"
        for name, found in result["differences"].items()
    ]
    for name, (_, rates) in INNER.items():
        columns = {}
        for i, rate in enumerate(rates):
            marks = {key: "*" if result["arms"][key]["best"] == i else "" for key in (name, f"Lookahead({name})")}
            columns[f"{rate:g}"] = [f"{np.mean(result['arms'][key]['accuracy'][i]):.3f}{m}" for key, m in marks.items()]
        lines += ["", format_columns([name, f"Lookahead({name})"], columns, "test accuracy (* chosen)")]
    lines += ["", "variance of the slow weights: rate, k, alpha, formula, simulation"]
    lines += [
        "  {rate:g}  {period}  {alpha:g}  {formula:.4f}  {simulation:.4f}".format(**v) for v in result["variances"]
    ]
    lines += ["", "steps on a quadratic without noise, at the best rates: momentum, alone, in Lookahead"]
    lines += [f"  {m}  {row['steps'][0]}  {row['steps'][1]}" for m, row in result["steps"].items()]
    verdict = result["verdict"]
    lines += ["", f"{verdict['verdict']}: {verdict['words']}", f"picture: {result['picture']} ({result['seconds']} s)"]
    return "\n".join(lines)
