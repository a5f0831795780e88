"""A guard around a learned optimizer that is used past its meta-training (Prémont-Schwarz et al. 2022, 2201.12426).

A learned optimizer is meta-trained briefly, on short runs of a small network on 8x8 digits. It then trains this network
for many times as long, alone and under a guard; after that another data set, and another network. LGL2O (the paper, by
Prémont-Schwarz, Vítků and Feyereisl) chooses after a few steps by the loss on fresh batches; its guard is Adam or SGD.
GL2O (Heaton et al. 2020, 2003.01880) chooses at every step by the length of the guard's next step. This bounds the
remaining error only for exact gradients; here they are not exact.

A guard should make training "never worse than the better of its two parts". This is measured per run: the final loss
(over all examples, in the last tenth) over the smaller final loss of the two parts, each alone from the same start and
batches. The guard saves every run that the learned part loses, but does not always stay within 2 %. With SGD as guard
on digits, eight times as many fresh batches left the mean ratio at 1.08, while rounds of 200 steps lowered it to 1.01:
parameters that are better after ten steps can lead to a higher final loss. Learning rates of the guards are not tuned.

    python -m experiments guard_demo            # a table and a picture
    python -m experiments guard_demo quick      # the same with shorter runs
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
import optax
from jaxtyping import Array, Float, Key, PRNGKeyArray

from experiments.learned_optimizers._training import meta_train_seeds
from experiments.learned_optimizers.guard_picture import draw, format_task
from experiments.suite.results import write_result
from metalearn.gradients import nres
from metalearn.runs.progress import Progress
from metalearn_models.optimizers import LearnedOptimizer, Rounds, gl2o, lgl2o_rounds, small_fc
from metalearn_tasks.datasets import Split, load
from metalearn_tasks.objectives import Objective, cap_losses, final_losses, mlp_classification, training_loop
from metalearn_tasks.objectives.objective import draw_start

LEARNED = small_fc(step_size=5e-3, exponent=0.1)  # both are 0.001 in its paper, which meta-trains for longer


@dataclass(frozen=True)
class GuardDemoConfig:
    """A learned optimizer past its meta-training, with and without a guard."""

    steps: int = 150
    """Outer steps; deliberately too few."""
    length: int = 200
    """Steps per training run in meta-training."""
    far: int = 10_000
    """Steps per run in the comparison."""
    penalty: float = 1e-3
    """Half of it times the squared norm of the parameters is added to the loss. Without it losses end near 0, where
    ratios say little."""
    train_batches: int = 10
    """n_t: steps of each part between two choices of LGL2O."""
    fresh_batches: int = 16
    """n_c: fresh batches per choice."""
    adam: float = 3e-3
    """Learning rate of Adam."""
    sgd: float = 0.1
    """Learning rate of SGD."""
    tolerance: float = 0.02
    """Relative excess over the better part that still counts as no worse."""
    seeds: int = 5
    """Meta-trainings, each with one run per task."""
    seed: int = 0
    """Seed of all randomness."""
    out: Path = Path("runs/guard-demo")
    """Folder for the picture and the table."""


PRESETS = {
    "standard": GuardDemoConfig(),
    "quick": GuardDemoConfig(steps=50, length=100, far=1000, seeds=2, out=Path("runs/guard-demo-quick")),
}


class Contender(NamedTuple):
    """An optimizer of the comparison.

    Attributes:
        make: `(learned transformation, loss) -> Rounds`.
        guard: name of the contender that is its guard alone; None: it has no guard.
    """

    make: Callable[[Any, Any], Rounds]
    guard: str | None = None


def contenders(config: GuardDemoConfig) -> dict[str, Contender]:
    """The parts alone, and the guarded optimizers."""
    adam, sgd = optax.adam(config.adam), optax.sgd(config.sgd)
    return {
        "learned": Contender(make_rounds),
        "Adam": Contender(lambda learned, loss: make_rounds(adam, loss)),
        "SGD": Contender(lambda learned, loss: make_rounds(sgd, loss)),
        "LGL2O, Adam": Contender(lambda learned, loss: lgl2o_rounds(learned, adam, loss), "Adam"),
        "LGL2O, SGD": Contender(lambda learned, loss: lgl2o_rounds(learned, sgd, loss), "SGD"),
        "GL2O, SGD": Contender(lambda learned, loss: make_rounds(gl2o(learned, sgd), loss), "SGD"),
    }


def comparison_tasks(penalty: float) -> dict[str, tuple[Objective, Split]]:
    """The tasks of the comparison, each with its data; the first is the task of meta-training."""

    def make_task(name: str, hidden: Any, activation: Any = jax.nn.relu) -> tuple[Objective, Split]:
        dataset = load(name)
        objective = mlp_classification(dataset.inputs, hidden, dataset.classes, activation=activation)
        return add_penalty(objective, penalty), jax.tree.map(jnp.asarray, dataset.train)

    return {
        "as meta-trained, longer": make_task("digits", 32),
        "another data set": make_task("breast_cancer", 32),
        "another network": make_task("digits", (64, 64), jnp.tanh),
    }


def add_penalty(objective: Objective, penalty: float) -> Objective:
    """The objective plus `penalty / 2 |params|^2`."""

    def loss(problem: Any, params: Any, batch: Any) -> Array:
        return objective.loss(problem, params, batch) + 0.5 * penalty * optax.tree.norm(params, squared=True)

    return objective._replace(loss=loss)


def run(config: GuardDemoConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train and compare; returns what result.json holds.

    Raises:
        ValueError: a round is longer than the run, or has no step or no fresh batch.
    """
    if not (1 <= config.train_batches <= config.far and config.fresh_batches >= 1):
        raise ValueError(f"a round has 1 to far={config.far} steps and at least one fresh batch, got {config}")
    start_time, tasks, who = time.monotonic(), comparison_tasks(config.penalty), contenders(config)
    meta_keys, keys = jax.random.split(jax.random.key(config.seed), (2, config.seeds))
    thetas = meta_train_all(config, tasks["as meta-trained, longer"], meta_keys, progress)
    rows, curves, shares = {}, {}, {}
    for task, (objective, data) in tasks.items():
        runs = {n: run_contender(c, LEARNED, objective, thetas, data, keys, config) for n, c in who.items()}
        curves[task] = {n: np.asarray(losses) for n, (losses, _) in runs.items()}
        shares[task] = {n: np.asarray(runs[n][1]) for n, c in who.items() if c.guard}
        rows[task] = compare_with_parts(curves[task], shares[task], who, config.tolerance)
        if progress is not None:
            progress.note("\n".join(format_task(task, rows[task], config.tolerance)))
    picture = config.out / "guard_demo.png"
    draw(curves, shares, config.far, config.train_batches, picture)
    result = {"tasks": rows, "tolerance": config.tolerance, "seconds": round(time.monotonic() - start_time, 1)}
    return write_result(config.out, {**result, "picture": str(picture)})


def meta_train_all(
    config: GuardDemoConfig, task: tuple[Objective, Split], keys: Key[Array, "S"], progress: Progress | None
) -> Any:
    """Meta-train the learned optimizer once per key; theta of all seeds, each leaf with a leading axis S."""
    objective, data = task
    loop = cap_losses(training_loop(objective, LEARNED, config.length), 20.0)
    estimator = nres(loop, 0.01, 8, max(1, config.length // 4))
    adam = optax.adam(optax.cosine_decay_schedule(3e-3, config.steps, 0.01))
    thetas = meta_train_seeds("small-fc", LEARNED, estimator, adam, data, config.steps, keys, progress)
    return jax.tree.map(lambda *x: jnp.stack(x), *thetas)


def make_rounds(transform: optax.GradientTransformation, loss: Callable[[Any, Any], Array]) -> Rounds:
    """A transformation in rounds, with one step per batch; step i may use fresh batch i modulo their number."""
    inner: Any = optax.with_extra_args_support(transform)

    def round(params: Any, state: Any, batches: Any, fresh: Any) -> tuple[Any, Any, Array]:
        steps, judges = (jax.tree.leaves(x)[0].shape[0] for x in (batches, fresh))

        def body(carry: tuple[Any, Any], i: Array) -> tuple[tuple[Any, Any], None]:
            params, state = carry
            batch, other = (jax.tree.map(lambda x, j=j: x[j], b) for b, j in ((batches, i), (fresh, i % judges)))
            value, grads = jax.value_and_grad(loss)(params, batch)
            with jax.numpy_dtype_promotion("standard"):  # optax relies on it
                updates, state = inner.update(grads, state, params, value=value, value_fn=lambda p: loss(p, other))
            return (optax.apply_updates(params, updates), state), None

        return *jax.lax.scan(body, (params, state), jnp.arange(steps))[0], jnp.zeros(2)

    return Rounds(inner.init, round)


@partial(jax.jit, static_argnums=(0, 1, 2, 6))
def run_contender(
    contender: Contender,
    optimizer: LearnedOptimizer,
    objective: Objective,
    thetas: Any,
    data: Split,
    keys: Key[Array, "S"],
    config: GuardDemoConfig,
) -> tuple[Float[Array, "S R"], Float[Array, "S R"]]:
    """Loss over all examples, and share of choices for the guard, after each round; one run per theta and key."""

    def one(theta: Any, key: PRNGKeyArray) -> tuple[Array, Array]:
        problem, params = draw_start(objective, jax.random.fold_in(key, 0))
        rounds = contender.make(optimizer.transform(theta, config.far), lambda p, b: objective.loss(problem, p, b))

        def draw_batches(key: PRNGKeyArray, number: int) -> Any:
            return jax.vmap(lambda k: objective.sample(problem, data, k))(jax.random.split(key, number))

        def body(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
            k, (_, old) = jax.random.split(jax.random.fold_in(key, t)), carry
            batches, fresh = draw_batches(k[0], config.train_batches), draw_batches(k[1], config.fresh_batches)
            params, state, _ = rounds.round(*carry, batches, fresh)
            share = (state.fallbacks - old.fallbacks) / (state.step - old.step) if contender.guard else jnp.float32(0)
            return (params, state), (objective.loss(problem, params, data), share)

        return jax.lax.scan(body, (params, rounds.init(params)), 1 + jnp.arange(config.far // config.train_batches))[1]

    return jax.vmap(one)(thetas, keys)


def compare_with_parts(
    losses: Mapping[str, Float[np.ndarray, "S R"]],
    shares: Mapping[str, Float[np.ndarray, "*SR"]],
    who: Mapping[str, Contender],
    slack: float,
) -> dict[str, Any]:
    """Final losses of all contenders; for guarded ones also the ratio to the better of their parts, run by run.

    Args:
        losses: loss after every round, by contender.
        shares: shares of choices for the guard, by guarded contender.
        who: the contenders.
        slack: relative excess over the better part up to which a run counts as held.

    Returns:
        By contender `final` [S]; for guarded ones also `ratio` [S], `worst`, `held` and `guard_share`.
    """
    final = {name: final_losses(curves) for name, curves in losses.items()}
    rows: dict[str, dict[str, Any]] = {name: {"final": x} for name, x in final.items()}
    for name, contender in who.items():
        if contender.guard is not None:
            better = np.minimum(final["learned"], final[contender.guard])
            ratios = np.where(np.isfinite(final[name]), final[name] / better, np.inf)
            rows[name] |= {"ratio": ratios, "worst": ratios.max(), "held": float((ratios <= 1 + slack).mean())}
            rows[name]["guard_share"] = float(shares[name].mean())
    return rows


def format_result(result: Mapping[str, Any]) -> str:
    """A table of final losses; for guarded optimizers also their ratio to the better of the parts."""
    lines = [line for task, rows in result["tasks"].items() for line in format_task(task, rows, result["tolerance"])]
    return "\n".join([*lines, "", f"picture: {result['picture']} ({result['seconds']} s)"])
