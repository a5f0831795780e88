"""How much faster a population of losses trains as tables than one loss at a time, as EvoMAL is written.

EvoMAL (Raymond, Chen, Xue, Zhang 2023, arXiv 2209.08907) trains the edge weights of each new tree by 250 gradients
through one step of the network, rejects the tree by 1000 steps on the predictions of 100 examples, and trains a network
with it for 500 steps. Here that protocol is written in JAX. Each part is jitted anew for each tree, which is the cost
of a traced closure. It is compared with the same 500 steps of the same network, batch and optimizer by tables, a whole
population in one function, and with the search's own protocol, which trains sixteen networks per tree.

Trees are random ones that pass the search's filters. Reported are seconds per tree, and also seconds without
compiling, since only one of the two needs a compiler for each tree.

    python -m experiments loss_search_speed           # about two minutes on two cores
    python -m experiments loss_search_speed --trees 10
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from metalearn.runs.progress import Progress
from metalearn_models.losses.formulas import Expr, evaluate, number_of_coefficients
from metalearn_models.losses.search.evolution import EvolutionConfig, initial_population
from metalearn_models.losses.search.population import LossTask, TrainingConfig, trainer
from metalearn_models.losses.search.screening import fingerprint, reject
from metalearn_models.losses.search.table import screening_table

__all__ = [
    "PRESETS",
    "LossSearchSpeedConfig",
    "digits_task",
    "format_result",
    "one_at_a_time",
    "run",
    "sound_trees",
    "together",
]


@dataclass(frozen=True)
class LossSearchSpeedConfig:
    """Measure the speed of evaluating candidate losses."""

    trees: int = 4
    """Candidates that are evaluated one at a time."""
    population: int = 25
    """Candidates that are trained together."""
    hidden: int = 64
    """Width of the network's hidden layer."""
    steps: int = 500
    """Steps of the fitness, EvoMAL's number."""
    refinements: int = 250
    """Gradients of the edge weights, EvoMAL's number."""
    filter_steps: int = 1000
    """Steps of the filter on predictions, EvoMAL's number."""
    batch: int = 128
    """Examples per step, EvoMAL's number."""
    seed: int = 0
    """Of trees, networks and batches."""


PRESETS = {"standard": LossSearchSpeedConfig()}


def digits_task(hidden: int) -> LossTask:
    """Digits, 1200 for training and 597 for validation; one hidden layer of ReLU."""
    from sklearn.datasets import load_digits

    xs, ys = load_digits(return_X_y=True)
    xs, ys = ((xs - xs[:1200].mean()) / xs[:1200].std()).astype(np.float32), ys.astype(np.int32)

    def init(key: Array) -> Any:
        first, second = jax.random.split(key)
        return {
            "w1": jax.random.normal(first, (64, hidden)) * 64**-0.5,
            "b1": jnp.zeros((1, hidden)),
            "w2": jax.random.normal(second, (hidden, 10)) * hidden**-0.5,
            "b2": jnp.zeros((1, 10)),
        }

    def apply(params: Any, xs: Array) -> Array:
        return jax.nn.relu(xs @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]

    return LossTask("digits", (xs[:1200], ys[:1200]), (xs[1200:], ys[1200:]), "classification", 10, init, apply)


def sound_trees(number: int, seed: int) -> list[Expr]:
    """Random trees that pass the filters of the search and have different fingerprints."""
    found: dict[str, Expr] = {}
    generation = 0
    while len(found) < number:
        for expr in initial_population(EvolutionConfig(population=100), seed, generation):
            table = screening_table(expr, "classification")
            if reject(table, "classification") is None:
                found.setdefault(fingerprint(table, "classification"), expr)
        generation += 1
    return list(found.values())[:number]


def one_at_a_time(task: LossTask, expr: Expr, config: LossSearchSpeedConfig) -> tuple[dict[str, float], float]:
    """EvoMAL's evaluation of one candidate: refine, filter, train; each part compiled for this tree alone.

    Returns:
        Seconds of each part, with those of compiling under "compile", and the validation error.
    """
    xs, ys = jnp.asarray(task.train[0]), jax.nn.one_hot(task.train[1], task.outputs)
    valid_xs, valid_ys = jnp.asarray(task.valid[0]), jnp.asarray(task.valid[1])
    key = jax.random.key(config.seed)
    rule = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, momentum=0.9, nesterov=True))
    adam, of_predictions = optax.adam(1e-3), optax.adam(0.01)

    def loss(coefficients: Array, logits: Array, y: Array) -> Array:
        return evaluate(expr, coefficients, y, jax.nn.softmax(logits)).sum(-1).mean()

    def batch(key: Array) -> tuple[Array, Array]:
        chosen = jax.random.randint(key, (config.batch,), 0, len(xs))
        return xs[chosen], ys[chosen]

    def base_step(coefficients: Array, params: Any, state: Any, key: Array) -> tuple[Any, Any]:
        x, y = batch(key)
        gradient = jax.grad(lambda p: loss(coefficients, task.apply(p, x), y))(params)
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def refine(coefficients: Array, key: Array) -> Array:
        def step(carry: Any, key: Array) -> tuple[Any, None]:
            coefficients, state = carry
            keys = jax.random.split(key, 3)
            x, y = batch(keys[2])

            def outer(coefficients: Array) -> Array:
                params = task.init(keys[0])
                params, _ = base_step(coefficients, params, rule.init(params), keys[1])
                return optax.softmax_cross_entropy(task.apply(params, x), y).mean()

            updates, state = adam.update(jax.grad(outer)(coefficients), state)
            return (optax.apply_updates(coefficients, updates), state), None

        keys = jax.random.split(key, config.refinements)
        return jax.lax.scan(step, (coefficients, adam.init(coefficients)), keys)[0][0]

    def filtered(coefficients: Array, key: Array) -> Array:
        logits = task.apply(task.init(key), xs[:100])

        def step(carry: Any, _: None) -> tuple[Any, None]:
            logits, state = carry
            updates, state = of_predictions.update(jax.grad(loss, 1)(coefficients, logits, ys[:100]), state)
            return (optax.apply_updates(logits, updates), state), None

        start = (logits, of_predictions.init(logits))
        after = jax.lax.scan(step, start, None, length=config.filter_steps)[0][0]
        right = ys[:100].argmax(-1)
        return (logits.argmax(-1) != right).mean() - (after.argmax(-1) != right).mean()

    def fitness(coefficients: Array, key: Array) -> Array:
        params = task.init(key)

        def step(carry: Any, key: Array) -> tuple[Any, None]:
            params, state = carry
            return base_step(coefficients, params, state, key), None

        keys = jax.random.split(key, config.steps)
        params = jax.lax.scan(step, (params, rule.init(params)), keys)[0][0]
        return (task.apply(params, valid_xs).argmax(-1) != valid_ys).mean()

    coefficients = 1 + 1e-3 * jax.random.normal(key, (number_of_coefficients(expr),))
    seconds, out = {"compile": 0.0}, {}
    for name, part in (("refine", refine), ("filter", filtered), ("train", fitness)):
        began = time.perf_counter()
        with jax.numpy_dtype_promotion("standard"):  # optax relies on it
            compiled = jax.jit(part).lower(coefficients, key).compile()
        seconds["compile"] += time.perf_counter() - began
        seconds[f"compile {name}"] = time.perf_counter() - began
        began = time.perf_counter()
        out[name] = jax.block_until_ready(compiled(coefficients, key))
        seconds[name] = time.perf_counter() - began
        coefficients = out["refine"]
    return seconds, float(out["train"])


def together(task: LossTask, losses: list[Expr], training: TrainingConfig) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and seconds per candidate of the second."""
    train = trainer(task, training)
    keys = jax.random.split(jax.random.key(0), training.seeds)
    began = time.perf_counter()
    train.train(losses[: training.candidates], keys)
    first = time.perf_counter() - began
    began = time.perf_counter()
    train.train(losses, keys)
    return first, (time.perf_counter() - began) / len(losses)


def run(config: LossSearchSpeedConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Measure; returns `seconds` per candidate by what was done, `ratios`, and `first`, the seconds of compiling."""
    task = digits_task(config.hidden)
    losses = sound_trees(max(config.population, config.trees), config.seed)
    parts = []
    for number, expr in enumerate(losses[: config.trees]):
        parts.append(one_at_a_time(task, expr, config)[0])
        if progress is not None:
            progress.note(f"{number + 1} of {config.trees} trees one at a time")
    mean = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    faithful = sum(mean[name] for name in ("compile", "refine", "filter", "train"))
    trained = mean["compile train"] + mean["train"]

    alike = TrainingConfig(config.steps, config.batch, "sgd", (0.01,), 1, config.population)
    first, each = together(task, losses[: config.population], alike)
    _, own = together(task, losses[: config.population], TrainingConfig())
    return {
        "task": f"digits, network 64-{config.hidden}-10",
        "seconds": {
            f"one at a time, EvoMAL's protocol ({config.trees} trees)": faithful,
            "  of which compiling": mean["compile"],
            f"  of which {config.refinements} refinements": mean["refine"],
            f"  of which {config.filter_steps} filter steps": mean["filter"],
            f"  of which {config.steps} training steps": mean["train"],
            "one at a time, training only, compiled for the tree": trained,
            f"{config.population} together by tables, the same training": each,
            "the search's own protocol: 16 networks of 300 steps": own,
        },
        "first": first - each * config.population,
        "ratios": {
            "whole protocol": faithful / each,
            "whole protocol, without compiling": (faithful - mean["compile"]) / each,
            "training only": trained / each,
            "training only, without compiling": mean["train"] / each,
            "whole protocol against the search's own": faithful / own,
        },
    }


def format_result(result: dict[str, Any]) -> str:
    """Seconds and ratios as text tables."""
    lines = [f"{result['task']}; seconds per candidate", ""]
    lines += [f"{name:60s} {value:9.4f}" for name, value in result["seconds"].items()]
    lines += ["", f"the function for all populations compiled in {result['first']:.1f} s, once"]
    lines += [f"{name:60s} {value:8.1f} x" for name, value in result["ratios"].items()]
    return "\n".join(lines)
