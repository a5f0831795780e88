"""What a learned optimizer has found out: momentum, clipping, schedules and adaptation, read off a recurrent network.

Maheswaranathan, Sussillo, Metz, Sun and Sohl-Dickstein 2021, "Reverse engineering learned optimizers reveals known
and novel mechanisms" (arXiv 2011.02159). A component-wise recurrent network is meta-trained on small linear regressions
and on Rosenbrock's valley, compared with tuned hand-designed optimizers on fresh problems, and taken apart: the
eigenvalues at its convergence point, its update function, the learning rate it follows by itself, and how constant
gradients change that rate. The meta-loss is the mean logarithm of the loss over a training run; problems, sizes and
meta-training are our choice.

    python -m experiments reverse_engineering            # two pictures and a table, minutes on one core
    python -m experiments reverse_engineering --help
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.suite.results import write_result
from metalearn.errors import unknown_name
from metalearn.gradients import truncated_backprop
from metalearn.inner import InnerLoop, unroll
from metalearn.outer import outer_loop
from metalearn.pictures import new_figure, save
from metalearn.runs.progress import Progress, default_progress
from metalearn_models.optimizers.analysis import (
    Adaptation,
    Modes,
    Schedule,
    UpdateFunction,
    adaptation,
    fixed_points,
    modes,
    schedule,
    update_function,
)
from metalearn_models.optimizers.contract import LearnedOptimizer, first_order
from metalearn_models.optimizers.learned.component_rnn import ComponentTheta, component_cell, component_rnn
from metalearn_models.optimizers.learned.parts.cell import Cell
from metalearn_tasks.objectives.functions import rosenbrock, rotate
from metalearn_tasks.objectives.objective import Objective, draw_start
from metalearn_tasks.objectives.regression import linear_regression
from metalearn_tasks.objectives.training import cap_losses, training_loop


class Recipe(NamedTuple):
    """A meta-training task.

    Attributes:
        objective: builds it.
        factor: updates of the network by those of the configuration.
        learning_rate: of Adam on the network, the first; it falls to a hundredth of it along a cosine.
    """

    objective: Callable[[], Objective]
    factor: int
    learning_rate: float


TASKS = {
    # Few examples, so that the curvatures differ and momentum is of use; no noise, so that there is no floor.
    "regression": Recipe(lambda: linear_regression(inputs=8, examples=10, noise=0.0), 1, 3e-3),
    # Rotated, so that the place of the one minimum cannot be learned by heart; an update costs a quarter.
    "rosenbrock": Recipe(lambda: rotate(rosenbrock()), 4, 5e-3),
}


@dataclass(frozen=True)
class ReverseEngineeringConfig:
    """Meta-training of a component-wise recurrent network, and its analysis."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """What it is meta-trained on, one network each."""
    hidden: int = 32
    """State variables of the network."""
    length: int = 200
    """Steps of a training run."""
    window: int = 50
    """Steps an outer step sees."""
    batch: int = 32
    """Training runs on the way at any time."""
    outer_steps: int = 4000
    """Updates of the network on regression; on Rosenbrock's function it makes four times as many."""
    test_problems: int = 128
    """Fresh problems of the comparison; as many others to tune the hand-designed optimizers on."""
    seed: int = 0
    """Of all randomness."""
    out: Path = Path("runs/reverse_engineering")
    """Folder of the pictures and the table."""
    json: bool = False
    """Print one JSON object as the last line."""


class Anatomy(NamedTuple):
    """What is known of a meta-trained optimizer.

    Attributes:
        modes: at the convergence point.
        at_start: the update function of the initial state.
        at_rest: that of the convergence point.
        moving: that of the convergence point, shifted along its strongest mode by as much as training runs vary there.
        schedule: of the learning rate.
        adaptation: to constant gradients.
        s_curve: the points of the adaptation along the direction in which they vary most.
        gradients: met in training runs.
    """

    modes: Modes
    at_start: UpdateFunction
    at_rest: UpdateFunction
    moving: UpdateFunction
    schedule: Schedule
    adaptation: Adaptation
    s_curve: Float[np.ndarray, "G"]
    gradients: Float[np.ndarray, "K"]


def log_loop(objective: Objective, optimizer: LearnedOptimizer, length: int) -> InnerLoop:
    """Training whose loss is log(loss + 1e-6), so that every order of magnitude counts the same."""
    loop = cap_losses(training_loop(objective, optimizer, length), 1e6)

    def step(theta: Any, state: Any, t: Array, key: PRNGKeyArray, data: Any) -> tuple[Any, Array, dict[str, Array]]:
        state, loss, aux = loop.step(theta, state, t, key, data)
        return state, jnp.log(loss + 1e-6), aux

    return loop._replace(step=step)


def meta_train(
    recipe: Recipe, config: ReverseEngineeringConfig, progress: Progress | None
) -> tuple[ComponentTheta, list[float]]:
    """The meta-trained network and the meta-loss of each outer step."""
    outer_steps = recipe.factor * config.outer_steps
    optimizer = first_order(component_rnn(config.hidden))
    loop = log_loop(recipe.objective(), optimizer, config.length)
    rate = optax.cosine_decay_schedule(recipe.learning_rate, outer_steps, 0.01)
    adam = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)), 100)
    calls = max(1, outer_steps // 50)
    each = outer_steps // calls
    init, step = outer_loop(truncated_backprop(loop, config.batch, config.window), adam, steps_per_call=each)
    key_theta, key_run = jax.random.split(jax.random.key(config.seed))
    state, losses = init(optimizer.init(key_theta), (), key_run), []
    for call in range(calls):
        state, metrics = step(state, ())
        losses += np.asarray(metrics["loss"]).tolist()
        if progress is not None:
            progress.update((call + 1) * each, {"loss": float(np.mean(losses[-each:]))})
    return state.theta, losses


def hand_designed() -> dict[str, tuple[LearnedOptimizer, Float[np.ndarray, "S 2"]]]:
    """Optimizers by name, with the settings to choose from: learning rates, and one more number each."""

    def grid(*other: float) -> np.ndarray:
        rates = np.logspace(-4.5, 1, 23)
        return np.stack([x.ravel() for x in np.meshgrid(rates, other, indexing="ij")], -1).astype(np.float32)

    def made(build: Any) -> LearnedOptimizer:
        return LearnedOptimizer(lambda key: (), lambda theta, num_steps=None: build(theta[0], theta[1]))

    return {
        "momentum": (made(lambda rate, beta: optax.sgd(rate, beta)), grid(0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)),
        "RMSProp": (made(lambda rate, decay: optax.rmsprop(rate, decay)), grid(0.9, 0.99, 0.999)),
        "Adam": (made(lambda rate, beta: optax.adam(rate, beta)), grid(0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)),
    }


def compare(objective: Objective, theta: ComponentTheta, config: ReverseEngineeringConfig) -> dict[str, Any]:
    """Meta-loss and last loss on fresh problems, the hand-designed optimizers at their best setting."""
    keys = jax.random.split(jax.random.key(config.seed + 1_000_003), 2 * config.test_problems)

    def curves(optimizer: LearnedOptimizer, theta: Any) -> Float[Array, "2 T"]:
        """Means over the problems to tune on, and over those of the comparison."""
        with jax.numpy_dtype_promotion("standard"):  # as optax needs it
            logs, _ = unroll(log_loop(objective, optimizer, config.length), theta, (), keys, config.length)
        return logs.reshape(2, config.test_problems, config.length).mean(1)

    def summary(logs: Float[np.ndarray, "T"]) -> dict[str, float]:
        return {"meta_loss": float(logs.mean()), "last_loss": float(np.exp(logs[-1]))}

    learned = jax.jit(lambda theta: curves(component_rnn(config.hidden), theta))(theta)
    found: dict[str, Any] = {"learned": summary(np.asarray(learned[1], np.float64))}
    for name, (optimizer, settings) in hand_designed().items():
        logs = jax.jit(lambda s, o=optimizer: jax.lax.map(lambda x: curves(o, x), s))(settings)
        tuning, test = np.moveaxis(np.asarray(logs, np.float64), 1, 0)
        best = np.argmin(tuning.mean(1))
        rate, second = settings[best].tolist()
        found[name] = {**summary(test[best]), "learning_rate": rate, "second": second}
    return found


def visited(
    objective: Objective, theta: ComponentTheta, config: ReverseEngineeringConfig, runs: int = 16
) -> tuple[Float[np.ndarray, "K H"], Float[np.ndarray, "K"]]:
    """States and gradients of single parameters met in training runs."""
    transform = component_rnn(config.hidden).transform(theta)

    def one(key: PRNGKeyArray) -> tuple[Array, Array]:
        problem, params = draw_start(objective, key)

        def step(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
            params, before = carry
            batch = objective.sample(problem, (), jax.random.fold_in(key, t))
            grads = jax.grad(objective.loss, 1)(problem, params, batch)
            updates, state = transform.update(grads, before, params)
            memory: Any = state
            return (params + updates, memory), (memory.memory[0].T, grads)

        return jax.lax.scan(step, (params, transform.init(params)), jnp.arange(config.length))[1]

    states, grads = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(config.seed + 7), runs))
    return np.asarray(states).reshape(-1, config.hidden), np.asarray(grads).ravel()


def dissect(cell: Cell, states: Float[np.ndarray, "K H"], gradients: Float[np.ndarray, "K"]) -> Anatomy:
    """All four mechanisms. The convergence point is where the cell comes to rest without gradients."""
    found = fixed_points(cell, jnp.asarray(states[:: max(1, len(states) // 64)]), tolerance=1e-3)
    largest = float(np.quantile(np.abs(gradients), 0.97))
    adapted = adaptation(cell, largest * jnp.linspace(-1, 1, 41) ** 3)  # denser where gradients are small
    still = np.asarray(adapted.points[20])  # what the initial state leads to, also where the search finds nothing
    rest = min([*found.points, still], key=lambda p: np.linalg.norm(p - still))
    linear = modes(cell, rest)
    # The mode that carries most of what a gradient does in later steps.
    strongest = np.argmax(np.abs(linear.rates * linear.eigenvalues / (1 - linear.eigenvalues)))
    amplitude = np.std(np.real((states - rest) @ linear.left[strongest]))
    shift = amplitude * np.real(linear.right[:, strongest])
    axis = jnp.linspace(-largest, largest, 201)
    centred = np.asarray(adapted.points - adapted.points.mean(0)[None])
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    at_rest, moving, initial = (
        update_function(cell, jnp.asarray(h, cell.initial.dtype), axis) for h in (rest, rest + shift, cell.initial)
    )
    steps = schedule(cell, 200)
    return Anatomy(linear, initial, at_rest, moving, steps, adapted, centred @ direction, gradients)


def draw(anatomy: Anatomy, momentum: tuple[float, float]) -> Any:
    """The four panels. `momentum` is the tuned learning rate and decay of gradient descent with momentum."""
    figure, (left, second, third, right) = new_figure(columns=4, width=3.3, height=3.1)
    rate, beta = momentum
    angle = np.linspace(0, 2 * np.pi, 200)
    left.plot(np.cos(angle), np.sin(angle), color="0.7", linewidth=0.8)
    values, rates = np.asarray(anatomy.modes.eigenvalues), np.abs(anatomy.modes.rates)
    left.scatter(
        np.real(values), np.imag(values), 8 + 150 * rates / rates.max(), alpha=0.6, label="area: learning rate"
    )
    left.plot([beta], [0], "k+", markersize=10, linestyle="", label="tuned momentum")
    left.set_aspect("equal")
    left.set_xlabel("real part of eigenvalue")
    left.set_ylabel("imaginary part")
    left.legend(fontsize=7, frameon=False, loc="upper left")
    left.set_title("convergence point")
    density = second.twinx()
    largest = float(anatomy.at_rest.gradients[-1])
    density.hist(anatomy.gradients, bins=60, range=(-largest, largest), color="0.85", log=True)
    density.set_yticks([], minor=True)
    density.set_yticks([])
    density.grid(False)
    second.set_zorder(density.get_zorder() + 1)
    second.patch.set_visible(False)
    for name, function in (
        ("initial state", anatomy.at_start),
        ("at rest", anatomy.at_rest),
        ("moving", anatomy.moving),
    ):
        second.plot(function.gradients, function.updates, label=name)
    second.set_xlabel("gradient")
    second.set_ylabel("update")
    second.legend(fontsize=7, frameon=False)
    second.set_title("update function")
    third.plot(anatomy.schedule.rates, label="learned")
    third.axhline(rate, color="0.3", linewidth=0.8, linestyle=":", label="tuned momentum")
    third.set_xlabel("steps without gradient")
    third.set_ylabel("learning rate")
    third.legend(fontsize=7, frameon=False)
    third.set_title("schedule")
    right.plot(anatomy.adaptation.gradients, anatomy.adaptation.rates, color="C0")
    right.set_xlabel("constant gradient")
    right.set_ylabel("learning rate", color="C0")
    points = right.twinx()
    points.grid(False)
    points.plot(anatomy.adaptation.gradients, anatomy.s_curve, color="C1")
    points.set_ylabel("fixed point, main direction", color="C1")
    right.set_title("adaptation")
    return figure


def report(anatomy: Anatomy) -> dict[str, Any]:
    """The numbers of the four mechanisms, for `result.json`."""
    slow = [
        {"eigenvalue": abs(value).item(), "timescale": scale.item(), "rate": abs(rate).item()}
        for value, scale, rate in zip(
            anatomy.modes.eigenvalues[:3], anatomy.modes.timescales[:3], anatomy.modes.rates[:3], strict=True
        )
    ]
    rates = np.asarray(anatomy.schedule.rates)
    adapted = np.asarray(anatomy.adaptation.rates)
    return {
        "slowest_modes": slow,
        "immediate_rate": float(np.real(anatomy.modes.rates.sum())),
        "saturation": float(anatomy.at_start.saturation),
        "clip": float(anatomy.at_start.clip),
        "schedule": {"first": float(rates[0]), "peak": float(rates.max()), "peak_at": int(rates.argmax())},
        "drift_at_rest": float(anatomy.schedule.drift[-1]),
        "adaptation": {"at_zero": float(adapted[len(adapted) // 2]), "at_ends": adapted[[0, -1]].tolist()},
    }


def main(config: ReverseEngineeringConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Meta-train, compare and take apart one network a task; returns what the table and the pictures show."""
    for name in config.tasks:
        if name not in TASKS:
            raise unknown_name("task", name, TASKS)
    result: dict[str, Any] = {}
    for name in config.tasks:
        began, recipe = time.monotonic(), TASKS[name]
        objective = recipe.objective()
        if progress is not None:
            progress.start(0, recipe.factor * config.outer_steps)
            progress.note(f"meta-training on {name}")
        try:
            theta, losses = meta_train(recipe, config, progress)
        finally:
            if progress is not None:
                progress.close()
        scores = compare(objective, theta, config)
        anatomy = dissect(component_cell(theta), *visited(objective, theta, config))
        figure = draw(anatomy, (scores["momentum"]["learning_rate"], scores["momentum"]["second"]))
        picture = config.out / f"{name}.png"
        save(figure, picture)
        result[name] = {
            "scores": scores,
            "mechanisms": report(anatomy),
            "meta_losses": [float(np.mean(part)) for part in np.array_split(losses, min(20, len(losses)))],
            "picture": str(picture),
            "seconds": round(time.monotonic() - began, 1),
        }
    return write_result(config.out, result)


if __name__ == "__main__":
    command = tyro.cli(ReverseEngineeringConfig, description=__doc__)
    tables = main(command, default_progress())
    for task, table in tables.items():
        print(f"{task}: {'optimizer':<10} {'meta-loss':>9} {'last loss':>10}  setting")
        for optimizer_name, score in table["scores"].items():
            setting = f"{score['learning_rate']:.2g}, {score['second']:g}" if "second" in score else ""
            print(f"  {optimizer_name:<18} {score['meta_loss']:9.3f} {score['last_loss']:10.3g}  {setting}")
        print(f"  {json.dumps(table['mechanisms'])}")
        print(f"  picture: {table['picture']} ({table['seconds']} s)")
    if command.json:
        print(json.dumps(tables))
