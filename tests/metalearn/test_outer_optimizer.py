"""The configured outer optimizer: Muon against NumPy, schedules in closed form, the JSON of runs from before."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metalearn import backprop, outer_loop
from metalearn.inner import InnerLoop
from metalearn.recipes.in_context import config as configs
from metalearn.recipes.in_context.presets import PRESETS
from metalearn.recipes.outer_optimizer import OptimizerConfig, outer_optimizer, rate_at

MUON = OptimizerConfig(0.1, schedule="linear", matrices="muon", matrix_rate=0.3)


def _is_shape(x):
    return isinstance(x, tuple)


def orthogonalise(matrix):
    """Five steps of Newton and Schulz with Jordan's coefficients, in float64; rows are the shorter side."""
    x = matrix / (np.linalg.norm(matrix) + 1e-8)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


def test_muon_moves_matrices_along_their_orthogonal_momentum_and_adam_the_rest():
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 5), "b": (4,), "scalar": ()}
    gradients = [jax.tree.map(lambda s: rng.normal(size=s), shapes, is_leaf=_is_shape) for _ in range(3)]
    theta = jax.tree.map(jnp.zeros, shapes, is_leaf=_is_shape)
    ours, adam = outer_optimizer(MUON, 10), optax.adam(optax.linear_schedule(0.1, 0.0, 10), nesterov=True)
    others = ("b", "scalar")
    state, momentum = ours.init(theta), np.zeros((3, 5))
    adam_state = adam.init({name: theta[name] for name in others})
    update = jax.jit(ours.update)
    for step, gradient in enumerate(gradients):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            given = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradient)
            found, state = update(given, state, theta)
            rest, adam_state = adam.update({name: given[name] for name in others}, adam_state)
        momentum = 0.95 * momentum + 0.05 * gradient["w"]
        # Nesterov's look ahead, both parts without the bias of their zero start.
        ahead = 0.95 * momentum / (1 - 0.95 ** (step + 2)) + 0.05 * gradient["w"] / (1 - 0.95 ** (step + 1))
        wanted = -0.3 * (1 - step / 10) * 0.2 * np.sqrt(5) * orthogonalise(ahead)
        np.testing.assert_allclose(found["w"], wanted, rtol=1e-4, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), {n: found[n] for n in others}, rest)


@pytest.mark.parametrize("warmup", [0, 4])
def test_the_linear_schedule_rises_to_its_peak_and_falls_to_nothing(warmup):
    rate = rate_at(OptimizerConfig(schedule="linear", warmup=warmup), 2.0, 20)
    steps = np.arange(21)
    wanted = np.where(steps < warmup, 2.0 * steps / max(warmup, 1), 2.0 * (20 - steps) / (20 - warmup))
    np.testing.assert_allclose([rate(jnp.int32(t)) for t in steps], wanted, rtol=1e-5, atol=1e-6)


def test_runs_from_before_there_was_muon_are_read_and_resumed():
    digits = PRESETS["digits"][1]
    adam = dataclasses.replace(digits, outer_optimizer=OptimizerConfig(3e-3, warmup=100, schedule="cosine"))
    values = json.loads(json.dumps(configs.to_json(adam)))
    assert set(values["outer_optimizer"]) == {
        *("learning_rate", "warmup", "schedule", "clip", "b1", "b2", "eps", "eps_root", "weight_decay")
    }
    assert configs.from_json(values) == adam
    muon = dataclasses.replace(digits, outer_optimizer=MUON)
    assert configs.from_json(json.loads(json.dumps(configs.to_json(muon)))) == muon


@pytest.mark.parametrize(("schedule", "free"), [("constant", True), ("cosine", False), ("linear", False)])
def test_only_a_run_whose_rate_does_not_know_the_end_can_be_lengthened(schedule, free):
    config = dataclasses.replace(PRESETS["digits"][1], outer_optimizer=OptimizerConfig(schedule=schedule))
    assert ("steps" in configs.free_fields(config)) == free


def test_muon_runs_in_the_outer_loop_and_stops_at_a_minimum():
    """A linear rate of 0 at the end: theta settles, though every step of Muon has the same size for the same rate."""
    target = jnp.array([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]])
    loop = InnerLoop(
        lambda theta, data, key: jnp.float32(0),
        lambda theta, state, t, key, data: (state, jnp.square(theta["w"] - target).sum(), {}),
        length=1,
    )
    config = dataclasses.replace(MUON, matrix_rate=0.5)
    init, step = outer_loop(backprop(loop, 2), outer_optimizer(config, 200), 200)
    state, metrics = step(init({"w": jnp.zeros((2, 3))}, None, jax.random.key(0)), None)
    assert metrics["loss"][0] == 15 and metrics["loss"][-1] < 1e-3
    np.testing.assert_allclose(state.theta["w"], target, atol=0.03)
