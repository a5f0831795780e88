"""The mechanisms of a meta-trained optimizer: momentum, clipping, schedule and adaptation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray

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
from metalearn_models.optimizers.learned.component_rnn import ComponentTheta, component_rnn
from metalearn_models.optimizers.learned.parts.cell import Cell
from metalearn_tasks.objectives.objective import Objective, draw_start

__all__ = ["Anatomy", "collect_visits", "dissect", "summarise"]


class Anatomy(NamedTuple):
    """The mechanisms of a meta-trained optimizer.

    Attributes:
        modes: modes at the convergence point.
        at_start: update function of the initial state.
        at_rest: update function of the convergence point.
        moving: update function of the convergence point shifted along its strongest mode, by one standard deviation of
            the states of training runs.
        schedule: the learning rate over steps without gradients.
        adaptation: fixed points under constant gradients.
        s_curve: the fixed points of the adaptation along the direction in which they vary most.
        gradients: gradients met in training runs.
    """

    modes: Modes
    at_start: UpdateFunction
    at_rest: UpdateFunction
    moving: UpdateFunction
    schedule: Schedule
    adaptation: Adaptation
    s_curve: Float[np.ndarray, "G"]
    gradients: Float[np.ndarray, "K"]


def collect_visits(
    objective: Objective, theta: ComponentTheta, *, length: int, seed: int, runs: int = 16
) -> tuple[Float[np.ndarray, "K H"], Float[np.ndarray, "K"]]:
    """States and gradients of single parameters that training runs meet, in the same order.

    Args:
        objective: where to train.
        theta: the meta-trained network.
        length: steps per run.
        seed: seed of the meta-training; the runs are drawn from another one.
        runs: number of runs.
    """
    transform = component_rnn(theta.initial.shape[0]).transform(theta)

    def one(key: PRNGKeyArray) -> tuple[Array, Array]:
        problem, params = draw_start(objective, key)

        def step(carry: tuple[Any, Any], t: Array) -> tuple[tuple[Any, Any], tuple[Array, Array]]:
            params, before = carry
            batch = objective.sample(problem, (), jax.random.fold_in(key, t))
            grads = jax.grad(objective.loss, 1)(problem, params, batch)
            updates, state = transform.update(grads, before, params)
            memory: Any = state
            return (params + updates, memory), (memory.memory[0].T, grads)

        return jax.lax.scan(step, (params, transform.init(params)), jnp.arange(length))[1]

    states, grads = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(seed + 7), runs))
    return rearrange(np.asarray(states), "run t n h -> (run t n) h"), np.asarray(grads).ravel()


def dissect(cell: Cell, states: Float[np.ndarray, "K H"], gradients: Float[np.ndarray, "K"]) -> Anatomy:
    """Find all mechanisms. The convergence point is the state in which the cell comes to rest without gradients."""
    found = fixed_points(cell, jnp.asarray(states[:: max(1, len(states) // 64)]), tolerance=1e-3)
    largest = float(np.quantile(np.abs(gradients), 0.97))
    adapted = adaptation(cell, largest * jnp.linspace(-1, 1, 41) ** 3)  # denser for small gradients
    # Where the initial state ends without gradients: the middle gradient of the 41 is 0. Always known, even if the
    # search finds nothing.
    still = np.asarray(adapted.points[20])
    rest = min([*found.points, still], key=lambda p: np.linalg.norm(p - still))
    linear = modes(cell, rest)
    # The strongest mode carries most of the effect of a gradient on later steps.
    strongest = np.argmax(np.abs(linear.rates * linear.eigenvalues / (1 - linear.eigenvalues)))
    amplitude = np.std(np.real((states - rest) @ linear.left[strongest]))
    shift = amplitude * np.real(linear.right[:, strongest])
    axis = jnp.linspace(-largest, largest, 201)
    centred = np.asarray(adapted.points - adapted.points.mean(0)[None])
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    at_rest, moving, at_start = (
        update_function(cell, jnp.asarray(h, cell.initial.dtype), axis) for h in (rest, rest + shift, cell.initial)
    )
    return Anatomy(linear, at_start, at_rest, moving, schedule(cell, 200), adapted, centred @ direction, gradients)


def summarise(anatomy: Anatomy) -> dict[str, Any]:
    """The main numbers of the mechanisms, for `result.json`."""
    slowest = [
        {"eigenvalue": abs(value).item(), "timescale": scale.item(), "rate": abs(rate).item()}
        for value, scale, rate in zip(
            anatomy.modes.eigenvalues[:3], anatomy.modes.timescales[:3], anatomy.modes.rates[:3], strict=True
        )
    ]
    rates = np.asarray(anatomy.schedule.rates)
    adapted = np.asarray(anatomy.adaptation.rates)
    return {
        "slowest_modes": slowest,
        "immediate_rate": float(np.real(anatomy.modes.rates.sum())),
        "saturation": float(anatomy.at_start.saturation),
        "clip": float(anatomy.at_start.clip),
        "schedule": {"first": float(rates[0]), "peak": float(rates.max()), "peak_at": int(rates.argmax())},
        "drift_at_rest": float(anatomy.schedule.drift[-1]),
        "adaptation": {"at_zero": float(adapted[len(adapted) // 2]), "at_ends": adapted[[0, -1]].tolist()},
    }
