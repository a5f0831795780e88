"""The reverse-engineering experiment at toy size; claims that hold there too."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.learned_optimizers.reverse_engineering import experiment
from experiments.learned_optimizers.reverse_engineering.anatomy import collect_visits, dissect
from experiments.learned_optimizers.reverse_engineering.experiment import ReverseEngineeringConfig
from experiments.learned_optimizers.reverse_engineering.meta_training import log_loop
from metalearn.errors import UnknownNameError
from metalearn.inner import unroll
from metalearn_models.optimizers.learned.component_rnn import component_cell, component_rnn
from metalearn_models.optimizers.learned.parts.cell import Cell
from metalearn_tasks.objectives.functions import quadratic
from metalearn_tasks.objectives.training import training_loop

TOY = ReverseEngineeringConfig(
    tasks=("regression",), hidden=5, length=12, window=6, batch=4, outer_steps=6, test_problems=6
)


def theta_of_three():
    return jax.jit(component_rnn(3).init)(jax.random.key(0))


def test_a_run_writes_its_picture_and_its_table(tmp_path):
    found = experiment.run(dataclasses.replace(TOY, out=tmp_path))
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert (tmp_path / "regression.png").stat().st_size > 10_000
    result = found["regression"]
    assert len(result["meta_losses"]) == 6
    # A network that has learned next to nothing stays behind tuned optimizers.
    assert result["scores"]["learned"]["meta_loss"] > result["scores"]["momentum"]["meta_loss"]
    assert set(result["scores"]) == {"learned", "momentum", "RMSProp", "Adam"}
    assert f"{result['scores']['Adam']['last_loss']:.3g}" in experiment.format_result(found)


def test_unknown_tasks_are_refused():
    with pytest.raises(UnknownNameError, match="'regression'"):
        experiment.run(ReverseEngineeringConfig(tasks=("regresion",)))


def test_the_anatomy_of_momentum_is_one_mode_without_clipping_schedule_or_adaptation():
    cell = Cell(jnp.zeros(1), lambda h, g: 0.8 * h + g, jnp.array([-0.1]))
    rng = np.random.default_rng(0)
    visits: Any = [rng.normal(size=s).astype(np.float32) for s in ((100, 1), 100)]
    anatomy = dissect(cell, *visits)
    np.testing.assert_allclose([anatomy.modes.eigenvalues[0], anatomy.modes.rates[0]], [0.8, 0.1], rtol=1e-5)
    np.testing.assert_allclose(anatomy.schedule.rates, 0.1, rtol=1e-5)
    np.testing.assert_allclose(anatomy.adaptation.rates, 0.1, rtol=1e-5)
    assert abs(anatomy.at_start.saturation) < 1e-5
    # The shift of one standard deviation of the visited states.
    assert np.ptp(anatomy.moving.updates - anatomy.at_rest.updates) < 1e-5
    np.testing.assert_allclose(np.abs(anatomy.moving.updates - anatomy.at_rest.updates).mean(), 0.08, rtol=0.2)


def test_visited_gradients_and_states_belong_together():
    """Each state follows from the one before by the cell and the gradient met there."""
    theta = theta_of_three()
    states, gradients = collect_visits(quadratic(4), theta, length=7, seed=0, runs=2)
    shaped: Any = (states.reshape(2, 7, 4, 3), gradients.reshape(2, 7, 4))
    states, gradients = shaped
    cell = component_cell(theta)
    advance: Any = jax.jit(jax.vmap(cell.advance))
    for t in range(7):
        before = states[:, t - 1] if t else np.zeros((2, 4, 3), np.float32)
        after = advance(before.reshape(-1, 3), gradients[:, t].ravel())
        np.testing.assert_allclose(states[:, t].reshape(-1, 3), after, rtol=1e-4, atol=1e-5)


def test_the_meta_loss_is_the_logarithm_of_the_loss_and_bounded():
    optimizer, keys, theta = component_rnn(3), jax.random.split(jax.random.key(1), 2), theta_of_three()

    @jax.jit
    def measure(theta):
        loops = training_loop(quadratic(4), optimizer, 5), log_loop(quadratic(4), optimizer, 5)
        return [unroll(loop, theta, (), keys, 5)[0] for loop in loops]

    plain, logs = measure(theta)
    np.testing.assert_allclose(logs, np.log(np.asarray(plain) + 1e-6), rtol=1e-5)
    wild = theta._replace(readout=1e30 * jnp.ones(3))
    _, logs = measure(wild)
    assert np.isfinite(logs).all() and np.max(logs) <= np.log(1e6) + 1e-3
